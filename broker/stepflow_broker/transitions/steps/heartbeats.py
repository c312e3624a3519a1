"""The details of the heartbeats of handlers. They are fields of the hash of attempts, so they expire with the run.

A detail is a hint for the next attempt: if it is lost, the handler starts from its beginning.
"""

from __future__ import annotations

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus

__all__ = ["forget_heartbeat", "read_heartbeat", "record_heartbeat"]


def record_heartbeat(
    partition: Partition, *, run_id: str, job_key: str, fence: int, key: str, detail: bytes
) -> Command[ScriptStatus]:
    """Keep the detail of the last heartbeat of a handler. DONE, NO_RUN or STALE_FENCE.

    Args:
        job_key: the key of the step whose job was claimed; ``""``: the continuation executes the step.
        fence: the fence of that job.
        key: the step.
        detail: JSON text.
    """
    return run_script(
        "record_heartbeat",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "ATTEMPTS"),
        run_id,
        job_key,
        fence,
        key,
        detail,
    )


def read_heartbeat(partition: Partition, run_id: str, key: str) -> Command[bytes | None]:
    """The detail of the last heartbeat of a step, as JSON text; ``None``: there is none."""
    return command(lambda reply: reply, "HGET", partition.run_key("ATTEMPTS", run_id), f"beat:{key}")


def forget_heartbeat(partition: Partition, run_id: str, key: str) -> Command[int]:
    """Delete the detail of a step that has ended."""
    return command(int, "HDEL", partition.run_key("ATTEMPTS", run_id), f"beat:{key}")
