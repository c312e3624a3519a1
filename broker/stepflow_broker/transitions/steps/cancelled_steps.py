"""Steps that the code of a run has cancelled: the losers of a race, or the rest of a failed task group.

A cancelled step has no memo. A pass that replays the code cancels it again, at the same memo.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure

__all__ = ["cancel_steps"]

_FAILURE = dumps(Failure("RunCancelledError", "the parent has cancelled the step that waited for this run").to_json())


def cancel_steps(
    partition: Partition, *, run_id: str, fence: int, keys: Sequence[str], retention_ms: int
) -> Command[ScriptStatus]:
    """Delete the waits and the jobs of steps, and cancel their children. DONE, NO_RUN, STALE_FENCE.

    A step that a worker executes, or that has a memo, is not changed.

    Args:
        keys: the steps.
        retention_ms: how long the children are kept, unless they have their own time, in milliseconds.
    """
    return run_script(
        "cancel_steps",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "STEPS"),
        partition.clock.script_ms(),
        run_id,
        fence,
        _FAILURE,
        retention_ms,
        *keys,
    )
