"""Events: what starts a run, as its code sees it and as a producer sends it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic

from typing_extensions import TypeVar

from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps_event
from stepflow_engine.encryption_scopes import event_scope
from stepflow_engine.errors import EventError, StepUsageError
from stepflow_engine.limits import check_id
from stepflow_engine.steps import OutgoingEvent, event_text

__all__ = ["FAILED", "INVOKED", "Event", "encode_event", "outgoing_event", "read_event"]

T = TypeVar("T", default=Any)

_LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, the last that a datetime can have."""
FAILED = "stepflow/function.failed"
"""The name of the event that tells of a failed run; its data: ``function``, ``run_id``, ``error`` and ``event``."""
INVOKED = "stepflow/function.invoked"
"""The name of the event of a run that was started by name and not by an event."""


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """Something that happened.

    Attributes:
        name: what kind of thing, as in ``"shop/order.placed"``.
        data: what is known of it; in a run, of the type that the function declares.
        id: names this one event; sent twice within 24 hours, it starts each function once. ``""``: stepflow chooses.
        ts: when, in milliseconds since the epoch. 0: when it is sent.
    """

    name: str
    data: T = None  # type: ignore[assignment]
    id: str = ""
    ts: int = 0

    @property
    def time(self) -> datetime:
        """``ts`` as a datetime, in UTC."""
        return datetime.fromtimestamp(self.ts / 1000, UTC)


def outgoing_event(event: Event[Any], *, limit_bytes: int) -> OutgoingEvent:
    """An event as it is sent.

    Raises:
        EventError: its name, id or time cannot be one, or its data is not JSON or is over the limit.
    """
    try:
        check_id(event.name, "an event's name")
        if event.id:
            check_id(event.id, "an event's id")
    except ValueError as error:
        raise EventError(str(error)) from None
    if type(event.ts) is not int or not 0 <= event.ts <= _LATEST_MS:
        raise EventError(f"an event's ts is a time in milliseconds since 1970, a whole number, not {event.ts!r:.80}")
    data = dumps_event({} if event.data is None else event.data, limit_bytes=limit_bytes)
    return OutgoingEvent(event.name, data, event.id, event.ts)


def encode_event(event: Event[Any], *, event_id: str, now_ms: int, limit_bytes: int, cipher: Cipher) -> bytes:
    """The JSON text of an event with this id, its data sealed; see `outgoing_event`."""
    sent = outgoing_event(replace(event, id=event_id), limit_bytes=limit_bytes)
    data = cipher.seal(sent.data, event_scope(event_id))
    return event_text(sent.name, id=event_id, ts=sent.ts or now_ms, data=data)


def read_event(value: dict[str, Any]) -> Event[Any]:
    """The event of its parsed JSON text."""
    return Event(value["name"], value["data"], value["id"], value["ts"])


_PATH = re.compile(r"data(\.[A-Za-z0-9_-]+)+|name|id")


def event_path(path: object) -> str:
    """A path into an event, without ``event.`` before it.

    Raises:
        StepUsageError: it is not one.
    """
    text = path.removeprefix("event.") if isinstance(path, str) else ""
    if not _PATH.fullmatch(text):
        raise StepUsageError(
            f'the match {path!r} is not a path into the event: write match="data.order_id" for the value that the '
            'run\'s own event has there, or, in a wait, match={"data.order_id": 17}; for more, if_='
        )
    return text
