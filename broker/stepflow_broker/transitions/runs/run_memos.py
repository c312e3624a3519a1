"""A run with its memos, for a replay, and the memos alone."""

from __future__ import annotations

from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.transitions.runs.run_record import RunRecord, parse_run

__all__ = ["load_run", "pair_memos", "read_memos"]


def read_memos(partition: Partition, run_id: str, applied: int = 0) -> Command[list[tuple[str, bytes]]]:
    """The memos of a run in their order, without the first ``applied``."""
    return run_script(
        "load_run",
        lambda reply: pair_memos(reply[1]),
        partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"),
        applied,
        0,
    )


def pair_memos(flat: list[bytes]) -> list[tuple[str, bytes]]:
    """``[key, memo, key, memo …]`` as pairs."""
    return [(key.decode(), memo) for key, memo in zip(flat[::2], flat[1::2], strict=True)]


def load_run(
    partition: Partition, run_id: str, applied: int
) -> Command[tuple[RunRecord | None, list[tuple[str, bytes]]]]:
    """A run, and its memos without the first ``applied``."""

    def read(reply: Any) -> tuple[RunRecord | None, list[tuple[str, bytes]]]:
        flat, memos = reply
        return parse_run(run_id, replies.fields(flat)), pair_memos(memos)

    return run_script("load_run", read, partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"), applied, 1)
