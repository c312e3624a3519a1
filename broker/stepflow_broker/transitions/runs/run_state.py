"""Single fields of a run, and the number of its memos."""

from __future__ import annotations

from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.partition import Partition
from stepflow_engine.codec import loads
from stepflow_engine.state_machine import RunStatus

__all__ = ["count_steps", "read_depth", "read_round", "read_run_event", "read_status", "read_undoing", "read_values"]


def read_run_event(partition: Partition, run_id: str) -> Command[bytes]:
    """The stored text of the event of a run, whatever it is; empty if there is no such run."""
    return command(replies.bytes_or_empty, "HGET", partition.run_key("RUN", run_id), "event")


def read_status(partition: Partition, run_id: str) -> Command[RunStatus | None]:
    """The status of a run; ``None`` if there is no such run."""
    return command(
        lambda reply: RunStatus(reply.decode()) if reply else None, "HGET", partition.run_key("RUN", run_id), "status"
    )


def read_undoing(partition: Partition, run_id: str) -> Command[tuple[RunStatus | None, str]]:
    """The status of a run, ``None`` if there is no such run, and the status that it will have when it is undone."""

    def read(reply: list[bytes | None]) -> tuple[RunStatus | None, str]:
        status, undoing = replies.text_pair(reply)
        return RunStatus(status) if status else None, undoing

    return command(read, "HMGET", partition.run_key("RUN", run_id), "status", "undoing")


def read_round(partition: Partition, run_id: str) -> Command[int]:
    """How often a run has continued as new."""
    return command(replies.integer, "HGET", partition.run_key("RUN", run_id), "round")


def count_steps(partition: Partition, run_id: str) -> Command[int]:
    """The number of memos of a run."""
    return command(int, "LLEN", partition.run_key("MEMO_ORDER", run_id))


def read_depth(partition: Partition, run_id: str) -> Command[int]:
    """How many parents a run has above it."""
    return command(replies.integer, "HGET", partition.run_key("RUN", run_id), "depth")


def read_values(partition: Partition, run_id: str) -> Command[Any]:
    """What the code of a run has set, as a dict by key, or sealed; ``None``: it has set nothing."""
    return command(lambda reply: loads(reply) if reply else None, "HGET", partition.run_key("RUN", run_id), "values")
