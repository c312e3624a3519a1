"""A planned step: a job of its own, for which any worker replays the code up to the step and calls its handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease, commit_planned_step
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.steps import RunRequest, StepCall
from stepflow_workers.execution.steps.run import StepFinished, StepRetry
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["do_planned_step"]

_log = logging.getLogger("stepflow.worker")
_ASK_S = 5.0
"""How long to wait until code that another job of this worker runs asks for the step."""


async def do_planned_step(worker_state: WorkerState, held: CachedRun, lease: Lease) -> None:
    """Do the job of a planned step, from its replay to its commit."""
    call = await _find(held, lease.key)
    if held.execution.closed:
        await worker_state.release([lease])
    elif call is None:
        await _settle(worker_state, held, lease, _not_found(worker_state, held, lease))
    elif isinstance(call.request, RunRequest):
        done = await worker_state.performer.perform(
            held, call, call.request, attempt=lease.step_attempt, deaths=lease.deaths
        )
        await _settle(worker_state, held, lease, done)
    else:
        raise TypeError(f"job {lease.job} is for a step that is not a step.run")


async def _find(held: CachedRun, key: str) -> StepCall | None:
    """The step with this key, if the code asks for it."""
    execution = held.execution
    if not execution.was_asked(key):
        if held.lease is not None or held.lock.locked():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_S):
                    await execution.asked(key)
        else:
            async with held.lock:
                await execution.advance()
    return execution.pending(key)


def _not_found(worker_state: WorkerState, held: CachedRun, lease: Lease) -> StepFinished | StepRetry:
    """What becomes of a step that the code does not wait for; nothing else is run in its place.

    ScriptStatus that asked for it and gave it up, such as the loser of a race, wants no other attempt. ScriptStatus that does not ask
    for it at all is of another version: a worker with the right one may take the next attempt.
    """
    execution = held.execution
    found = ", ".join(repr(step_id) for step_id in execution.pending_ids()[:10]) or "none"
    failure = Failure(
        "StepNotFoundError",
        f"step {lease.step_id!r} was planned, but the code of {held.function.name} does not wait for it; "
        f"steps that it waits for: {found}; bring the step back, or cancel the run",
    )
    attempt = lease.step_attempt
    if execution.was_asked(lease.key):
        return worker_state.performer.failed_for_good(
            held, lease.key, lease.step_id, failure, attempt=attempt, started_at=now_ms()
        )
    _log.warning("planned_step_not_found", extra={"run_id": lease.run_id, "step_id": lease.step_id})
    if attempt >= held.function.config.retries:
        return worker_state.performer.failed_for_good(
            held, lease.key, lease.step_id, failure, attempt=attempt, started_at=now_ms()
        )
    delay_ms = worker_state.settings.backoff.delay_ms(attempt, random.random())
    return StepRetry(attempt + 1, dumps(failure.to_json()), delay_ms)


async def _settle(worker_state: WorkerState, held: CachedRun, lease: Lease, done: StepFinished | StepRetry) -> None:
    match done:
        case StepFinished():
            await _commit(worker_state, held, lease, done)
        case StepRetry(attempts, error, delay_ms):
            worker_state.failed_jobs += 1
            await worker_state.plan_retry(
                lease, lease.key, lease.step_id, attempts=attempts, error=error, delay_ms=delay_ms
            )


async def _commit(worker_state: WorkerState, held: CachedRun, lease: Lease, done: StepFinished) -> None:
    code, position = await worker_state.broker.execute(
        commit_planned_step(
            worker_state.keys,
            run_id=lease.run_id,
            key=lease.key,
            fence=lease.fence,
            memo=done.text,
            worker=worker_state.worker,
        )
    )
    if code in (ScriptStatus.DONE, ScriptStatus.ALREADY):
        worker_state.finished_jobs += 1
        held.apply_memo(position, lease.key, done.memo)
    elif code is ScriptStatus.NO_RUN:
        worker_state.held.drop(held)
