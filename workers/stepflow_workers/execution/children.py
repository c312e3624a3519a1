"""What becomes of the children of which the code of a run has handles, when the run ends.

The children are cancelled before the run ends. If the worker dies in between, the next pass ends the run: it reaches
the same end, and waits for none of them. A child that is left keeps running.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepflow_broker.protocol.command import in_chunks
from stepflow_broker.redis_client.operation import arun_operation
from stepflow_broker.transitions.invokes.invokes import find_closed_children
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.run_notes import note_closing
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import ParentClose
from stepflow_workers.execution.cancelled_steps import drop_cancelled_steps
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["cancel_children", "close_children"]

_CHUNK = 100


async def close_children(state: WorkerState, run: CachedRun, lease: Lease, status: RunStatus) -> bool:
    """Cancel the children that end with the run, and drop its cancelled steps. False: the run must wait for a child.

    Args:
        status: how the run will end.
    """
    execution = run.execution
    if (awaited := execution.open_children(ParentClose.WAIT)) and await _has_steps(state, run, awaited):
        call = note_closing(state.partition, run_id=run.run_id, fence=lease.fence, status=status)
        state.accepted(run, await state.broker.execute(call))
        return False
    for key in execution.open_children(ParentClose.CANCEL):
        execution.cancel_child(key)
    if execution.cancelled:
        await drop_cancelled_steps(state, run, lease)
    return True


async def _has_steps(state: WorkerState, run: CachedRun, keys: Sequence[str]) -> bool:
    """Whether one of these steps has not ended. Those that a pass with other code has given up are gone."""
    steps = await state.broker.execute(read_steps(state.partition, run.run_id))
    return any(step.key in keys for step in steps)


async def cancel_children(state: WorkerState, lease: Lease, *, retention_ms: int) -> None:
    """Cancel the children of a run that fails without its code: all that are not to be left."""
    keys = await arun_operation(state.broker, find_closed_children(state.partition, lease.run_id))
    for part in in_chunks(sorted(keys), _CHUNK):
        call = cancel_steps(
            state.partition, run_id=lease.run_id, fence=lease.fence, keys=part, retention_ms=retention_ms
        )
        await state.broker.execute(call)
