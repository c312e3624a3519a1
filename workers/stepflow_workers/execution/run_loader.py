"""Loading: the code of a job's run, from memory, or built anew and given the run's memos."""

from __future__ import annotations

import logging

from stepflow import Function
from stepflow_broker.transitions import jobs
from stepflow_broker.transitions.batches import load_batch
from stepflow_broker.transitions.jobs import Lease
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import open_event_text
from stepflow_workers.execution.context import JobContext
from stepflow_workers.execution.deferral import MISSING_MS, defer_job
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["catch_up", "load_run"]

_log = logging.getLogger("stepflow.worker")


async def load_run(context: JobContext, lease: Lease) -> CachedRun | None:
    """The run of a job, with all memos that the claim knew of. ``None``: its code is not here, and the job is deferred.

    Raises:
        DecryptionError: a payload cannot be decrypted.
        CorruptDataError: a payload cannot be read.
    """
    state, name = context.state, f"{lease.app}/{lease.function}"
    function = context.functions.get(name)
    if function is None:
        _log.warning("code_missing", extra={"run_id": lease.run_id, "function": name})
        reason = f"the code of function {name} is not in worker {state.worker}"
        reason = f"{reason}: start a worker with it, or cancel the run"
        await defer_job(state, lease, "CodeMissing", reason, delay_ms=MISSING_MS)
        return None
    run = _in_memory(state, lease)
    if run is None:
        return await _build(state, lease, function)
    if run.execution.applied < lease.applied and not (lease.key and run.lease):
        await catch_up(state, run)
    return run


async def catch_up(state: WorkerState, run: CachedRun) -> None:
    """Read the memos that the code has not received."""
    applied = run.execution.applied
    _, memos = await state.broker.execute(jobs.load_run(state.keys, run.run_id, applied))
    for position, (key, text) in enumerate(memos, applied + 1):
        run.apply_memo(position, key, state.read_memo(run.run_id, key, text), len(text))


def _in_memory(state: WorkerState, lease: Lease) -> CachedRun | None:
    run = state.runs.get(lease.run_id)
    if run is not None and run.attempt != lease.attempt:
        state.runs.drop(run)
        return None
    return run


async def _build(state: WorkerState, lease: Lease, function: Function) -> CachedRun | None:
    event, memos = lease.event, list[tuple[str, bytes]]()
    if event is None or lease.applied:
        record, memos = await state.broker.execute(jobs.load_run(state.keys, lease.run_id, 0))
        if record is None:
            return None
        event = dumps(record.event)
    events = [event]
    if function.is_batched:
        events = await state.broker.execute(load_batch(state.keys, lease.run_id))
    if (raced := _in_memory(state, lease)) is not None:
        return raced
    known = [(key, state.read_memo(lease.run_id, key, text)) for key, text in memos]
    opened = [open_event_text(state.cipher, text) for text in events]
    execution = function.execution(opened, run_id=lease.run_id, attempt=lease.attempt)
    execution.add(known)
    size = sum(len(text) for _, text in memos)
    run = CachedRun(lease.run_id, function, events[0], execution, lease.attempt, state_bytes=size)
    state.runs.put(run)
    return run
