"""Loads the run of a job: from the cache, or by a new execution of its code over the run's memos."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

from stepflow import Function
from stepflow_broker.transitions.jobs.continuations import retry_run
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.batches import load_batch
from stepflow_broker.transitions.runs.run_memos import load_run, read_memos
from stepflow_broker.transitions.runs.run_record import read_patches
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import open_event_text
from stepflow_engine.failure import Failure
from stepflow_engine.patches import PatchDecision
from stepflow_engine.undo import UndoCollector, undo_pass
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.undo import undo_steps_of
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["catch_up", "defer_job", "load_cached_run"]

_DEFER_MS = (500, 1_000)
_SOON_MS = (10, 20)
_LONGEST_DEFER_MS = 3_600_000
"""A job that no worker can execute is tried once an hour in the end. That costs nothing, and it continues by itself."""


async def load_cached_run(context: JobContext, lease: Lease) -> CachedRun | None:
    """Return the run with all memos that the claim knew of.

    ``None``: the job was deferred because this worker does not have the function, or the run no longer exists.
    """
    name = f"{lease.app}/{lease.function}"
    function = context.functions.get(name)
    if function is None:
        context.state.report_missing_code(name, count=1)
        reason = f"the code of function {name} is not in worker {context.state.worker}"
        await defer_job(context.state, lease, "CodeMissing", f"{reason}: start a worker with it, or cancel the run")
        return None
    run = _from_cache(context.state, lease)
    if run is None:
        return await _load(context.state, lease, function)
    if run.execution.applied < lease.applied and not (lease.key and run.lease):
        await catch_up(context.state, run)
    if run.lease is None:
        await _refresh_patches(context.state, run, lease)
    return run


async def catch_up(state: WorkerState, run: CachedRun, *, since: int | None = None) -> None:
    """Read the memos that the execution does not have yet, or those after the first ``since``."""
    applied = run.execution.applied if since is None else since
    memos = await state.broker.execute(read_memos(state.partition, run.run_id, applied))
    for position, (key, text) in enumerate(memos, applied + 1):
        run.apply_memo(position, key, state.read_memo(run.run_id, key, text), len(text))


async def defer_job(state: WorkerState, lease: Lease, kind: str, reason: str, *, is_soon: bool = False) -> None:
    """Defer a job that needs code or a key that this worker does not have. Another worker may have it.

    The delay doubles each time, from a second to an hour. The doctor shows jobs that no worker could execute for long.

    Args:
        kind: the name of the failure.
        is_soon: whether the first delay is some milliseconds. Another worker is likely to be able to execute the job.
    """
    delay_ms = random.randint(*(_SOON_MS if is_soon else _DEFER_MS))
    if lease.key:
        error = dumps(Failure(kind, reason).to_json())
        await state.plan_retry(
            lease,
            lease.key,
            lease.step_id,
            attempts=lease.step_attempt,
            error=error,
            delay_ms=delay_ms,
            longest_delay_ms=_LONGEST_DEFER_MS,
        )
        return
    await state.broker.execute(
        retry_run(
            state.partition,
            run_id=lease.run_id,
            fence=lease.fence,
            attempts=lease.attempt,
            error=b"",
            delay_ms=delay_ms,
            reason=reason,
            longest_delay_ms=_LONGEST_DEFER_MS,
        )
    )


def _from_cache(state: WorkerState, lease: Lease) -> CachedRun | None:
    run = state.cache.get(lease.run_id)
    if run is not None and (_is_of_another_pass(run, lease) or run.has_open_patches):
        state.cache.drop(run)
        return None
    return run


def _is_of_another_pass(run: CachedRun, lease: Lease) -> bool:
    return (run.attempt, run.undoing, run.round) != (lease.attempt, lease.undoing, lease.round)


async def _refresh_patches(state: WorkerState, run: CachedRun, lease: Lease) -> None:
    """Read what others may have decided at patches since this worker had the run, if its code is known to ask."""
    patches = run.execution.patches
    patches.expire()
    if run.function.name in state.patching:
        planned = await _planned_keys(state, lease)
        stored = await state.broker.execute(read_patches(state.partition, lease.run_id))
        if run.lease is None:  # else a continuation has come in between, and has read them itself
            patches.load(stored, planned)
            run.stored_patches = len(stored)


async def _planned_keys(state: WorkerState, lease: Lease) -> frozenset[str] | None:
    """The keys of the steps that have a job or a wait; ``None``: not known, and not needed as far as is known."""
    if not lease.planned:
        return None if lease.key else frozenset()
    if f"{lease.app}/{lease.function}" not in state.patching:
        return None
    return frozenset(step.key for step in await state.broker.execute(read_steps(state.partition, lease.run_id)))


async def _load(state: WorkerState, lease: Lease, function: Function) -> CachedRun | None:
    event, memos, keys_of, has_undo = lease.event, list[tuple[str, bytes]](), lease.run_id, False
    patches: Mapping[str, PatchDecision] = {}
    unchecked = 0
    started_ms = lease.fence  # of a run that starts with this lease
    if event is None or lease.applied:
        record, memos = await state.broker.execute(load_run(state.partition, lease.run_id, 0))
        if record is None or record.round != lease.round:  # the lease is lost
            return None
        event, keys_of, has_undo = dumps(record.event), record.keys_of or lease.run_id, record.has_undo
        patches, unchecked = record.patches, record.unchecked_memos
        started_ms = record.round_at or record.started_at or lease.fence
    events = [event]
    if function.is_batched:
        events = await state.broker.execute(load_batch(state.partition, lease.run_id))
    known = [(key, state.read_memo(lease.run_id, key, text)) for key, text in memos]
    opened = [open_event_text(state.partition.cipher, text) for text in events]
    new_pass = partial(
        function.execution,
        opened,
        run_id=lease.run_id,
        attempt=lease.attempt,
        threads=state.threads,
        started_ms=started_ms,
        round=lease.round,
    )
    planned = await _planned_keys(state, lease)
    undoes = None
    if lease.undoing:
        collector = new_pass(kind=UndoCollector)
        collector.patches.load(patches, None)
        undoes = await undo_steps_of(function, lease, collector, known)
    if (raced := _from_cache(state, lease)) is not None:
        return raced
    execution = new_pass() if undoes is None else undo_pass(undoes, retries=function.config.retries)
    execution.is_driven = False  # until a continuation drives it
    execution.add(known)
    execution.trust(unchecked)
    execution.patches.load(patches, planned)
    run = CachedRun(lease.run_id, function, events[0], execution, lease.attempt, keys_of)
    run.state_bytes, run.has_stored_undo = sum(len(text) for _, text in memos), has_undo
    run.stored_patches = len(patches)
    run.undoing, run.round = lease.undoing, lease.round
    state.cache.add(run)
    return run
