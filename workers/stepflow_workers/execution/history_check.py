"""What a worker does when the code of a run requests other steps than its history records.

The engine finds it (`stepflow_engine.mismatch`). The first worker with a version of the code stores it and logs it.
Then the option ``on_mismatch`` of the app decides. Runs whose code fits cost nothing: no call, and no field.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.mismatches import has_accepted_mismatch, note_mismatch
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_engine.errors import HistoryMismatchError
from stepflow_engine.execution import Outcome
from stepflow_engine.mismatch import Mismatch, find_mismatch, planned_mismatch
from stepflow_engine.product import NAME, WORKER_LOGGER
from stepflow_workers.execution.run_loader import defer_job
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["check_history", "check_planned_steps", "sets_step_aside"]

_log = logging.getLogger(WORKER_LOGGER)
_KIND = "HistoryMismatch"


async def check_history(state: WorkerState, run: CachedRun, lease: Lease, outcome: Outcome) -> Outcome | None:
    """Compare the code with the memos; returns the outcome with which the run goes on.

    ``None``: the run is no longer this job's: it is left to workers with other code, or set aside.
    """
    mismatch = None if run.undoing else find_mismatch(run.execution, outcome)
    return await _decide(state, run, lease, outcome, mismatch)


async def check_planned_steps(
    state: WorkerState, run: CachedRun, lease: Lease, outcome: Outcome, steps: Sequence[StepRecord]
) -> bool:
    """Compare the code with the steps that have a job or a wait; whether the run is still this job's."""
    planned = [(one.key, one.id, one.kind) for one in steps if one.state and not (one.is_item or one.has_early_events)]
    mismatch = None if run.undoing else planned_mismatch(run.execution, outcome, planned)
    return await _decide(state, run, lease, outcome, mismatch) is not None


async def sets_step_aside(state: WorkerState, run: CachedRun, lease: Lease) -> bool:
    """Whether the job of a step that the code does not request is set aside, instead of using up its attempts."""
    if run.function.on_mismatch != "pause" or run.undoing:
        return False
    accepted = has_accepted_mismatch(state.partition, lease.run_id, code=state.fingerprint)
    if await state.broker.execute(accepted):
        return False
    await defer_job(state, lease, _KIND, f"the code of this worker does not request it: {_way_out(lease.run_id)}")
    return True


async def _decide(
    state: WorkerState, run: CachedRun, lease: Lease, outcome: Outcome, mismatch: Mismatch | None
) -> Outcome | None:
    action = run.function.on_mismatch
    has_other_kind, run.execution.has_other_kind = run.execution.has_other_kind, False
    may_leave = has_other_kind or (mismatch is not None and action != "warn")
    if may_leave and await state.left_to_other_version(lease):  # whose code may fit
        state.cache.drop(run)
        return None
    if mismatch is None:
        return outcome
    mismatch = mismatch.of_version(state.version)
    code = await state.broker.execute(
        note_mismatch(state.partition, run_id=run.run_id, fence=lease.fence, mismatch=mismatch, code=state.fingerprint)
    )
    if code is ScriptStatus.RESOLVED:
        return outcome
    if not state.accepted(run, code):
        return None
    if code is ScriptStatus.DONE:
        _report(run, mismatch)
    match action:
        case "warn":
            return outcome
        case "pause":
            state.cache.drop(run)
            await defer_job(state, lease, _KIND, f"{mismatch}: {_way_out(run.run_id)}")
            return None
        case "fail":
            return run.execution.end_with(HistoryMismatchError(str(mismatch)))


def _report(run: CachedRun, mismatch: Mismatch) -> None:
    _log.warning(
        "history_differs",
        extra={
            "run_id": run.run_id,
            "function": run.function.name,
            "recorded": ", ".join(map(str, mismatch.recorded)),
            "requested": ", ".join(map(str, mismatch.requested)) or "the code returns",
            "on_mismatch": run.function.on_mismatch,
        },
    )


def _way_out(run_id: str) -> str:
    return f"start a worker with code that fits, or: {NAME} runs accept {run_id}"
