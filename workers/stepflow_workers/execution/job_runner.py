"""The pipeline of a job: claim → load → replay → perform → commit.

A crash at any point leaves a job whose lease expires and the memos of the finished steps. Another worker reclaims the
job and replays the code over these memos.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.errors import (
    BackendUnavailableError,
    ConfigurationError,
    CorruptDataError,
    DecryptionError,
    EncryptionKeyMissingError,
)
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.steps import RunRequest
from stepflow_workers.execution.heartbeats import forget_heartbeats
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.job_failure import fail_job, fail_poisoned_job, fail_unreadable_run
from stepflow_workers.execution.run_driver import RunDriver
from stepflow_workers.execution.run_loader import defer_job, load_cached_run
from stepflow_workers.execution.steps.job import PlannedStep
from stepflow_workers.execution.steps.run import StepFinished, StepRetry, execute_step
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.poison import POISON_DEATHS
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["run_job"]

_log = logging.getLogger(WORKER_LOGGER)


async def run_job(context: JobContext, lease: Lease) -> None:
    """Run one job from its claim, which the dispatcher made, to its commit.

    A job has a key if it is a planned step: it performs one step. Otherwise it is a continuation: it performs step
    after step, until the run ends, is parked, or goes back to its queue.
    """
    try:
        if len(lease.deaths) > POISON_DEATHS:  # not even loading and replaying the run is safe
            await fail_poisoned_job(context, lease)
        elif (run := await load_cached_run(context, lease)) is not None:  # load
            await _run_steps(context, run, lease)
    except (DecryptionError, CorruptDataError) as error:
        await _end_unreadable(context, lease, error)
    except (BackendUnavailableError, ConfigurationError, asyncio.CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001  a job that raises must have an end, and must not end the worker
        _log.exception("job_internal_error", extra={"job": lease.job})
        context.state.evict(lease.run_id)
        await fail_job(context, lease, error)


async def _run_steps(context: JobContext, run: CachedRun, lease: Lease) -> None:
    run.users += 1
    try:
        async with _job(context, run, lease) as job:
            while (attempt := await job.replay()) is not None:  # replay
                result = await _perform(context.state, attempt)  # perform
                if result is None:
                    break
                try:
                    continues = await job.commit(attempt, result)  # commit
                finally:
                    run.drop_uncommitted(attempt.call.key)
                if isinstance(result, StepFinished) and result.had_heartbeats:
                    forget_heartbeats(context.state, attempt)
                if not continues:
                    break
    finally:
        _release(context, run, lease)


def _perform(state: WorkerState, attempt: StepAttempt[RunRequest]) -> Awaitable[StepFinished | StepRetry | None]:
    """Execute a step with as many slots as it needs. ``None``: the run was dropped while the step waited for them."""
    placement = attempt.request.placement
    if placement is None or placement.slots == 1:
        return execute_step(state, attempt)
    return _perform_with_slots(state, attempt, placement.slots)


async def _perform_with_slots(
    state: WorkerState, attempt: StepAttempt[RunRequest], slots: int
) -> StepFinished | StepRetry | None:
    async with state.slots.several(slots):
        if attempt.run.execution.closed:
            await state.release([attempt.lease])
            return None
        return await execute_step(state, attempt)


def _job(context: JobContext, run: CachedRun, lease: Lease) -> PlannedStep | RunDriver:
    return PlannedStep(context, run, lease) if lease.key else RunDriver(context, run, lease)


def _release(context: JobContext, run: CachedRun, lease: Lease) -> None:
    if run.lease is lease:
        run.lease = None
    if run.execution.patches.was_refused:
        context.state.patching.add(run.function.name)
    context.state.cache.release(run)


async def _end_unreadable(context: JobContext, lease: Lease, error: DecryptionError | CorruptDataError) -> None:
    """Fail a run whose data nobody can read. If another worker may be able to read it, leave the job to it."""
    state, is_keyless = context.state, isinstance(error, EncryptionKeyMissingError)
    if not isinstance(error, EncryptionKeyMissingError) or state.keys_log.allows(error.key_id):
        _log.warning(
            "run_corrupt" if isinstance(error, CorruptDataError) else "payload_decryption_failed",
            extra={"run_id": lease.run_id, "error": str(error)},
        )
    state.evict(lease.run_id)
    may_be_read = error.is_reply if isinstance(error, CorruptDataError) else not error.is_final
    if may_be_read or not await fail_unreadable_run(context, lease, error):
        await defer_job(state, lease, type(error).__name__, str(error), is_soon=is_keyless)
