"""What a function can ask for: the closed union of step requests, and a request that waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepflow_engine.codec import dumps
from stepflow_engine.memo import Memo

__all__ = [
    "InvokeRequest",
    "OutgoingEvent",
    "RunRequest",
    "SendRequest",
    "SleepRequest",
    "StepCall",
    "StepRequest",
    "WaitRequest",
    "event_text",
]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """``step.run``: call a handler.

    Attributes:
        handler, args, kwargs: what to call, and with what.
        retries: attempts after the first; ``None`` means the function's.
        timeout_ms: the longest an attempt may take, in milliseconds; ``None`` means no bound.
    """

    handler: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retries: int | None = None
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class InvokeRequest:
    """``step.invoke``: run another function and wait for it.

    Attributes:
        app, function: whose function, and which.
        data: its input as JSON text.
        timeout_ms: the longest wait, in milliseconds.
    """

    app: str
    function: str
    data: bytes
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class SleepRequest:
    """``step.sleep`` and ``step.sleep_until``: go on later.

    Attributes:
        duration_ms: for how long, in milliseconds.
        until_ms: until when, in milliseconds since the epoch; 0: the duration counts.
    """

    duration_ms: int = 0
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """``step.wait_for_event``: go on when an event comes, or the time is over.

    Attributes:
        event: its name.
        timeout_ms: the longest wait, in milliseconds.
        paths: what of the event must have given values: paths into it with commas between, as ``data.order_id``;
            ``""``: nothing.
        values: those values, as the JSON text of a list.
        condition: an expression that must hold as well; ``""``: none.
        lookback_ms: how long ago the event may have come, in milliseconds.
    """

    event: str
    timeout_ms: int
    paths: str = ""
    values: bytes = b"[]"
    condition: str = ""
    lookback_ms: int = 0


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event to be sent, with its data as JSON text. Its step gives an id, and the present, to one without."""

    name: str
    data: bytes
    id: str = ""
    ts: int = 0


@dataclass(frozen=True, slots=True)
class SendRequest:
    """``step.send_event``: send events, once."""

    events: tuple[OutgoingEvent, ...]


StepRequest = RunRequest | InvokeRequest | SleepRequest | WaitRequest | SendRequest


def event_text(name: str, *, id: str, ts: int, data: bytes) -> bytes:
    """The JSON text of an event, whose data is JSON text already."""
    return dumps({"name": name, "id": id, "ts": ts})[:-1] + b',"data":' + data + b"}"


@dataclass(slots=True, eq=False)
class StepCall:
    """A step that the code asked for and that has no end yet.

    Attributes:
        key: its memo key.
        id: the id that the code gave it.
        request: what was asked for.
        future: given the memo when the step has ended.
    """

    key: str
    id: str
    request: StepRequest
    future: asyncio.Future[Memo]
