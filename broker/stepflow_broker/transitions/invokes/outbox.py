"""The outbox of a partition: the stream of finished events, and the messages that its entries contain.

Most entries report the end of a run whose parent lives in the same partition. The others are messages to another
partition, which no script of this one can write to; see ``lua/lib/remote_children.lua``. An entry stays on the stream
until a worker has processed it. If that worker dies, another takes the entry over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.streams import read_group, take_over
from stepflow_engine.codec import loads

__all__ = [
    "ChildCancelled",
    "EndedBatch",
    "EndedRun",
    "Finished",
    "Message",
    "RemoteChildFinished",
    "StartChild",
    "finished_in",
    "read_finished",
    "take_over_finished",
]


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run has ended whose parent lives in the same partition."""

    run_id: str


@dataclass(frozen=True, slots=True)
class EndedBatch:
    """A batch has ended. Its members have not."""

    run_id: str


@dataclass(frozen=True, slots=True)
class RemoteChildFinished:
    """A run has ended whose parent lives in another partition."""

    child: str


@dataclass(frozen=True, slots=True)
class StartChild:
    """A step waits for a child that another partition must start.

    Attributes:
        id: the id of the entry.
        child: its run id.
        event: its event, as JSON text.
        args: ARGV of the script ``start_remote_child`` from 5 on.
    """

    id: str
    child: str
    event: bytes
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChildCancelled:
    """A run, or a step of it, was cancelled while it waited for a child in another partition. The child must be too.

    Attributes:
        id: the id of the entry.
        child: its run id.
        start_message: the entry that starts the child.
        failure, retention_ms: see `stepflow_broker.transitions.runs.run_control.cancel_run`.
    """

    id: str
    child: str
    start_message: str
    failure: bytes
    retention_ms: int


Message = RemoteChildFinished | StartChild | ChildCancelled
"""A message to another partition."""
Finished = EndedRun | EndedBatch | Message
_Fields = Mapping[bytes, bytes]


def read_finished(partition: Partition, worker: str, *, limit: int = 500) -> Command[list[Finished]]:
    """Read new finished events; this worker processes them."""
    return read_group(partition.keys, "FINISHED", worker, limit=limit, read=finished_in)


def take_over_finished(partition: Partition, worker: str, *, idle_ms: int, limit: int = 500) -> Command[list[Finished]]:
    """Take over the finished events that another worker has read and not processed for ``idle_ms``."""
    return take_over(partition.keys, "FINISHED", worker, idle_ms=idle_ms, limit=limit, read=finished_in)


def _start_child(entry: str, child: str, fields: _Fields) -> StartChild:
    return StartChild(entry, child, fields[b"event"], tuple(loads(fields[b"args"])))


def _cancelled(entry: str, child: str, fields: _Fields) -> ChildCancelled:
    start_message, retention_ms = fields[b"start_message"].decode(), int(fields[b"retention_ms"])
    return ChildCancelled(entry, child, start_message, fields[b"failure"], retention_ms)


_KINDS: dict[bytes, Callable[[str, str, _Fields], Finished]] = {
    b"run": lambda _entry, run_id, _fields: EndedRun(run_id),
    b"batch": lambda _entry, run_id, _fields: EndedBatch(run_id),
    b"remote_run": lambda _entry, run_id, _fields: RemoteChildFinished(run_id),
    b"start": _start_child,
    b"cancel": _cancelled,
}


def finished_in(entries: list[Any]) -> list[Finished]:
    """The messages of entries. Entries that cannot be read are left out."""
    return [one for entry, fields in entries if (one := _try_to_read(entry, fields or ())) is not None]


def _try_to_read(entry: bytes, fields: Any) -> Finished | None:
    """The message of an entry. ``None`` for an entry of a newer stepflow or of another program, which stays."""
    kind = _KINDS.get(fields[0]) if len(fields) > 1 else None
    if kind is None:
        return None
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        return kind(entry.decode(), fields[1].decode(errors="replace"), named)
    except (KeyError, ValueError):
        return None
