"""Events: how code sees them, and how clients send them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic

from typing_extensions import TypeVar

from stepflow.later import When, later
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps_event
from stepflow_engine.encryption_scopes import event_scope
from stepflow_engine.errors import EventError, StepUsageError
from stepflow_engine.limits import check_id
from stepflow_engine.product import NAME
from stepflow_engine.steps import OutgoingEvent, event_text
from stepflow_engine.times import utc_time

__all__ = [
    "GENERATED_ID",
    "INVOKED",
    "Event",
    "checked_event_id",
    "encode_event",
    "outgoing_event",
    "read_event",
]

T = TypeVar("T", default=Any)

_LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, the latest time of a datetime."""
INVOKED = f"{NAME}/function.invoked"
"""The name of the event of a run that a client has started by the id of its function."""


class _Generated(str):
    """The type of `GENERATED_ID`. An empty id that a program passes is another, and is refused."""

    __slots__ = ()


GENERATED_ID: str = _Generated()
"""The id of an event that was given none: stepflow generates one when it is sent."""


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """A named piece of data that starts runs and ends waits.

    Attributes:
        name: the kind of event, such as ``"shop/order.placed"``.
        data: JSON data; in a run, it has the type that the function declares.
        id: identifies the event; if it is sent twice within 24 hours, it starts each function once. Not given:
            stepflow generates an id. An empty id is refused when the event is sent.
        ts: the time of the event, in milliseconds since the epoch; 0: the time at which it is sent.
        at: when it is sent: a datetime with a time zone, ISO 8601 text with an offset, or seconds since 1970, at most
            366 days ahead. Until then it starts and ends nothing, and can be cancelled by its id. ``None``, or a time
            that is over: now. The event of a run has none.

    Example::

        app.send([Event("shop/order.placed", {"order": n}, id=f"order-{n}") for n in range(10)])
    """

    name: str
    data: T = None  # type: ignore[assignment]
    id: str = GENERATED_ID
    ts: int = 0
    at: When | None = None

    @property
    def time(self) -> datetime:
        """``ts`` as a datetime, in UTC."""
        return utc_time(self.ts)


def outgoing_event(event: Event[Any], *, now_ms: int, limit_bytes: int) -> OutgoingEvent:
    """An event in the form in which it is sent.

    Args:
        now_ms: the time, in milliseconds since the epoch.

    Raises:
        EventError: the name, id or time is invalid, or the data is not JSON or over the limit.
    """
    event_id = checked_event_id(event.id)
    delayed = None if event.at is None else later("event", None, event.at, now_ms=now_ms)
    at_ms = delayed.at_ms if delayed else 0
    return OutgoingEvent(event.name, _checked_data(event, limit_bytes), event_id or "", event.ts, at_ms)


def _checked_data(event: Event[Any], limit_bytes: int) -> bytes:
    """The JSON text of the data of an event. Its name and its time are checked, too."""
    try:
        check_id(event.name, "event name")
    except ValueError as error:
        raise EventError(str(error)) from None
    if type(event.ts) is not int or not 0 <= event.ts <= _LATEST_MS:
        raise EventError(f"event ts must be an integer, in milliseconds since 1970, got {event.ts!r:.80}")
    return dumps_event({} if event.data is None else event.data, limit_bytes=limit_bytes)


def checked_event_id(value: object) -> str | None:
    """The id of an event or a start, which makes it repeatable; ``None``: it was given none.

    An empty id is refused: it comes from a missing header or field, and would make every call the same.

    Raises:
        EventError: it is not a valid id.
    """
    if value is None or isinstance(value, _Generated):
        return None
    try:
        return check_id(value, "id")
    except ValueError as error:
        raise EventError(f"{error}: leave id out if the call is not repeatable") from None


def encode_event(event: Event[Any], *, event_id: str, now_ms: int, limit_bytes: int, cipher: Cipher) -> bytes:
    """The JSON text of an event with this id and sealed data; see `outgoing_event`."""
    checked_event_id(event_id)
    data = cipher.seal(_checked_data(event, limit_bytes), event_scope(event_id))
    return event_text(event.name, id=event_id, ts=event.ts or now_ms, data=data)


def read_event(value: dict[str, Any]) -> Event[Any]:
    """The event with the parsed JSON text ``value``."""
    return Event(value["name"], value["data"], value["id"], value["ts"])


_PATH = re.compile(r"data(\.[A-Za-z0-9_-]+)+|name|id")


def event_path(path: object) -> str:
    """A path into an event, without the prefix ``event.``.

    Raises:
        StepUsageError: it is not a path into an event.
    """
    text = path.removeprefix("event.") if isinstance(path, str) else ""
    if not _PATH.fullmatch(text):
        raise StepUsageError(
            f'match must be a path into the event, got {path!r}: write match="data.order_id" for the value in the '
            'event of the run, or, in a wait, match={"data.order_id": 17}; use if_= for other conditions'
        )
    return text
