"""Delayed events: those that are sent at a later time. A timer of their partition adds them to the stream, once.

An event is delayed completely or not at all. From then on it needs no process but a worker that fires timers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation
from stepflow_engine.encryption_scopes import event_scope, read_event, redacted
from stepflow_engine.errors import CorruptDataError

__all__ = ["DelayedEventRecord", "cancel_event", "delay_event", "find_delayed_events"]


@dataclass(frozen=True, slots=True)
class DelayedEventRecord:
    """A delayed event. Its data is ``"encrypted"`` if it cannot be opened.

    Attributes:
        due_at: when it is sent, in milliseconds since the epoch.
    """

    id: str
    name: str
    data: Any
    due_at: int


def delay_event(
    partition: Partition, event: bytes, *, event_id: str, dedupe: bool, due_ms: int, delay_ms: int
) -> Command[ScriptStatus]:
    """Send an event at a later time. DONE, or ALREADY: one with this id is delayed, and stays as it is.

    Args:
        partition: the partition of the event's id (`Partition.at`).
        event: the event as JSON text.
        event_id: its id.
        dedupe: whether the sender chose the id.
        due_ms: the time, in milliseconds since the epoch; 0: ``delay_ms`` from now, by the clock of the server.
    """
    dedupes = 1 if dedupe else 0
    args = (partition.clock.script_ms(), due_ms, delay_ms, event, event_id, dedupes)
    return run_script("delay_event", ScriptStatus, (partition.keys("DELAYED_EVENTS"),), *args)


def cancel_event(partition: Partition, event_id: str, *, who: str = "", reason: str = "") -> Command[bool]:
    """Delete a delayed event of one partition. False if none has this id.

    Args:
        who: for the audit log; ``""``: the call is not recorded.
    """
    return run_script("cancel_event", bool, (partition.keys("DELAYED_EVENTS"),), event_id, who, reason)


def find_delayed_events(partition: Partition, *, limit: int) -> Operation[list[DelayedEventRecord]]:
    """The delayed events of all partitions that are due first, at most ``limit``."""
    listed: list[list[tuple[bytes, int]]] = yield [_read_times(one, limit) for one in partition.all]
    calls = [_read_texts(one, partition, due) for one, due in zip(partition.all, listed, strict=True) if due]
    found: list[list[DelayedEventRecord]] = yield calls
    return sorted(chain.from_iterable(found), key=lambda event: (event.due_at, event.id))[:limit]


def _read_times(partition: Partition, limit: int) -> Command[list[tuple[bytes, int]]]:
    def read(reply: list[Any]) -> list[tuple[bytes, int]]:
        return [(event_id, int(float(due))) for event_id, due in zip(reply[::2], reply[1::2], strict=True)]

    return command(read, "ZRANGE", partition.keys("DELAYED_EVENTS"), 0, limit - 1, "WITHSCORES")


def _read_texts(of: Partition, partition: Partition, due: list[tuple[bytes, int]]) -> Command[list[DelayedEventRecord]]:
    def read(reply: list[bytes | None]) -> list[DelayedEventRecord]:
        pairs = zip(due, reply, strict=True)
        return [_record(partition, event_id, due_at, text) for (event_id, due_at), text in pairs if text is not None]

    ids = [event_id for event_id, _ in due]
    return command(read, "HMGET", of.keys("DELAYED_EVENT_TEXTS"), *ids)


def _record(partition: Partition, event_id: bytes, due_at: int, text: bytes) -> DelayedEventRecord:
    shown = event_id.decode(errors="replace")
    try:
        event = read_event(text[2:])
    except CorruptDataError:
        return DelayedEventRecord(shown, "", None, due_at)
    data = redacted(partition.cipher, event["data"], event_scope(event["id"]))
    return DelayedEventRecord(shown, event["name"], data, due_at)
