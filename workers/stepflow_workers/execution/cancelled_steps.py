"""Deletes what the server has of steps that the code of a run has cancelled, such as the losers of a race.

If the worker dies before, the next pass cancels them again. What is left then ends with the run at the latest.
"""

from __future__ import annotations

from stepflow_broker.protocol.command import in_chunks
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["drop_cancelled_steps"]

_CHUNK = 100


async def drop_cancelled_steps(state: WorkerState, run: CachedRun, lease: Lease) -> bool:
    """Delete the waits and jobs of cancelled steps, and cancel their children; false if the lease is lost."""
    cancelled, run.execution.cancelled = run.execution.cancelled, []
    stored = [key for key in cancelled if lease.planned or key in run.planned]
    run.planned.difference_update(cancelled)
    run.distant_waits.difference_update(cancelled)
    for keys in in_chunks(stored, _CHUNK):
        code = await state.broker.execute(
            cancel_steps(
                state.partition,
                run_id=run.run_id,
                fence=lease.fence,
                keys=keys,
                retention_ms=run.function.config.retention_ms,
            )
        )
        if code is not ScriptStatus.DONE:
            return state.accepted(run, code)
    return True
