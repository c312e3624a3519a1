"""Events that are set aside: they make an expression too expensive, end the workers that route them, or are unreadable.

What can be decided for an event is done: it starts the other functions, and ends the other waits. The event is then
moved to a stream of its own, with the reason, from which it can be sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import GROUP
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.transitions.events.event_stream import StreamedEvent
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import read_event
from stepflow_engine.errors import CorruptDataError

__all__ = ["AsideEvent", "begin_try", "end_try", "read_aside_events", "resend_event", "set_aside_event"]


@dataclass(frozen=True, slots=True)
class AsideEvent:
    """An event that is set aside.

    Attributes:
        entry: its entry in the stream; its first part is the time in ms at which it was set aside.
        name, event_id: those of the event; ``""`` if another program has written it, and it is no event.
        reason: what could not be decided for it.
    """

    entry: str
    name: str
    event_id: str
    reason: str

    @property
    def at_ms(self) -> int:
        """When it was set aside, in ms since the epoch."""
        return int(self.entry.partition("-")[0])


def set_aside_event(partition: Partition, event: StreamedEvent, reasons: Sequence[str]) -> Command[bool]:
    """Move an event that has been routed as far as possible from the stream. False if another worker has done it."""
    return run_script(
        "set_aside_event",
        bool,
        (partition.keys("EVENTS"), partition.keys("EVENTS_ASIDE")),
        GROUP,
        event.entry,
        event.event,
        event.event_id,
        1 if event.dedupe else 0,
        "; ".join(dict.fromkeys(reasons)),
    )


def begin_try(partition: Partition, event: StreamedEvent) -> Command[int]:
    """Note that a worker begins to route an event that another worker has not routed.

    Returns how many workers have begun to, with this one, and have not called `end_try`: those before have died.
    """
    return run_script("try_event", int, (partition.keys("SUSPECT_EVENTS"),), event.entry, 1)


def end_try(partition: Partition, event: StreamedEvent) -> Command[int]:
    """Note that the worker has survived."""
    return run_script("try_event", int, (partition.keys("SUSPECT_EVENTS"),), event.entry, 0)


def read_aside_events(partition: Partition, *, limit: int = 1_000) -> Command[list[AsideEvent]]:
    """Read the events of a partition that are set aside, oldest first."""
    return command(_aside_events, "XRANGE", partition.keys("EVENTS_ASIDE"), "-", "+", "COUNT", limit)


def resend_event(partition: Partition, entry: str, *, who: str = "") -> Command[bool]:
    """Send an event that is set aside again, with its id. False if no such event is set aside in the partition."""
    keys = (partition.keys("EVENTS"), partition.keys("EVENTS_ASIDE"))
    return run_script("resend_event", bool, keys, entry, who, dumps({"entry": entry}))


def _aside_events(reply: list[Any]) -> list[AsideEvent]:
    return [_aside_event(entry.decode(), dict(zip(flat[::2], flat[1::2], strict=False))) for entry, flat in reply]


def _aside_event(entry: str, fields: dict[bytes, bytes]) -> AsideEvent:
    try:
        name = str(read_event(fields.get(b"event", b""))["name"])
    except CorruptDataError:
        name = ""
    event_id, reason = (fields.get(field, b"").decode(errors="replace") for field in (b"id", b"reason"))
    return AsideEvent(entry, name, event_id, reason)
