"""Maps: begin a map, end its items, and read their results.

A map has no job while its items have some. The script that ends the last item gives the map its own job. A worker that
crashes in between leaves jobs of items, whose leases end, or the job of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus

__all__ = ["MapRecord", "MapStart", "begin_map", "commit_item", "read_items", "read_map"]


@dataclass(frozen=True, slots=True)
class MapStart:
    """A map that begins.

    Attributes:
        key, step_id: the step.
        detail: the end of the JSON text of its memo, which does not depend on the outcome: ``"id":…}``.
        digest: identifies the items: 8 hex digits.
        count: how many items there are.
        at_once: how many of them may be open at once.
        tolerated: how many of them may fail.
        room: the largest size of all results, in bytes.
        queue: the queue of its jobs; ``""``: that of the run.
    """

    key: str
    step_id: str
    detail: bytes
    digest: str
    count: int
    at_once: int
    tolerated: int
    room: int
    queue: str = ""


@dataclass(frozen=True, slots=True)
class MapRecord:
    """A map that has not ended, as Redis stores it.

    Attributes:
        detail, digest, count: see `MapStart`.
        size_bytes, room: how large the results are, and may be.
    """

    detail: bytes
    digest: str
    count: int
    size_bytes: int
    room: int

    @property
    def is_too_large(self) -> bool:
        """Whether it has stopped because of the size of its results."""
        return self.size_bytes > self.room


def begin_map(partition: Partition, start: MapStart, *, run_id: str, fence: int) -> Command[ScriptStatus]:
    """Begin a map, once, and hand out some items.

    DONE, MORE (more items can be handed out: call it again), ALREADY (all have ended), NO_RUN or STALE_FENCE.
    """
    return run_script(
        "begin_map",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "MEMOS", "STEPS"),
        partition.clock.script_ms(),
        run_id,
        fence,
        start.key,
        start.step_id,
        start.detail,
        start.digest,
        start.count,
        start.at_once,
        start.tolerated,
        start.room,
        start.queue,
    )


def commit_item(partition: Partition, *, run_id: str, key: str, fence: int, memo: bytes) -> Command[ScriptStatus]:
    """Store how an item has ended, end its job, and hand out the next. DONE, ALREADY, NO_RUN or STALE_FENCE."""
    return run_script(
        "commit_item",
        ScriptStatus,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        key,
        fence,
        memo,
    )


def read_map(partition: Partition, run_id: str, key: str) -> Command[MapRecord]:
    """A map that has not ended. If the server has lost it, it has no items."""

    def read(reply: Any) -> MapRecord:
        detail, digest, *numbers = reply
        return MapRecord(detail or b"}", replies.text(digest), *(int(number or 0) for number in numbers))

    fields = (f"{key}:{name}" for name in ("detail", "digest", "count", "bytes", "room"))
    return command(read, "HMGET", partition.run_key("STEPS", run_id), *fields)


def read_items(partition: Partition, run_id: str, key: str, indexes: Sequence[int]) -> Command[list[bytes | None]]:
    """The memos of some items of a map; ``None`` for an item that has not ended."""

    def read(reply: Any) -> list[bytes | None]:
        return list(reply)

    return command(read, "HMGET", partition.run_key("ITEMS", f"{run_id}:{key}"), *indexes)
