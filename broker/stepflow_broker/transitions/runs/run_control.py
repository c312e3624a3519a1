"""Cancel a run, free it from its version, and forget it. Each is one script."""

from __future__ import annotations

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus

__all__ = ["cancel_run", "forget_runs", "unpin_run"]


def cancel_run(
    partition: Partition,
    *,
    run_id: str,
    failure: bytes,
    retention_ms: int,
    children: bool = True,
    who: str = "",
    reason: str = "",
) -> Command[ScriptStatus]:
    """End a live run as cancelled. DONE, ALREADY (it had ended) or NO_RUN.

    Args:
        partition: any partition of the server.
        run_id: the run.
        failure: the failure of the run, as JSON text.
        retention_ms: how long the cancelled run is kept, in milliseconds.
        children: whether to cancel the children that it waits for too.
        who, reason: for the audit log; without ``who``, the cancellation is not recorded.
    """
    return run_script(
        "cancel_run",
        ScriptStatus,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        failure,
        retention_ms,
        1 if children else 0,
        who,
        reason,
    )


def unpin_run(partition: Partition, run_id: str, *, who: str, reason: str = "") -> Command[ScriptStatus]:
    """Let workers of any release execute a pinned run. DONE, ALREADY (it is not pinned), or NO_RUN (it has ended)."""
    keyed = (*partition.run_keys(run_id, "RUN"), partition.of(run_id).keys("CODE_WAITS"))
    return run_script("unpin_run", ScriptStatus, keyed, partition.clock.script_ms(), run_id, who, reason)


def forget_runs(partition: Partition, *, limit: int) -> Command[tuple[int, int]]:
    """Take runs whose retention is over out of the indexes. Returns how many were due, and how many of them gone."""
    return run_script(
        "forget_runs", replies.integer_pair, (partition.keys("EXPIRY"),), partition.clock.script_ms(), limit
    )
