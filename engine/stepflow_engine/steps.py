"""Step requests: the closed union of what the code of a function can request, and a request without an end."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

from stepflow_engine.codec import Restore, dumps, dumps_if_json
from stepflow_engine.ids import ITEMS_DIGEST_DIGITS
from stepflow_engine.isolation import Isolation
from stepflow_engine.memo import Memo
from stepflow_engine.placement import Placement
from stepflow_engine.retry_policy import Retry
from stepflow_engine.run_overrides import RunOverrides
from stepflow_engine.step_cache import StepCache
from stepflow_engine.value_class import value_class

__all__ = [
    "AskRequest",
    "InvokeRequest",
    "MapItems",
    "MapRequest",
    "OutgoingEvent",
    "ParentClose",
    "RunRequest",
    "SendRequest",
    "SignalRequest",
    "SleepRequest",
    "StartRequest",
    "StepCall",
    "StepKind",
    "StepRequest",
    "WaitRequest",
    "event_text",
    "stored_kind",
]


class StepKind(StrEnum):
    """The kinds of steps. Each has one request.

    The field ``kind`` of a memo and of the JSON output names the kind. A memo without the field is of a ``run`` step.
    """

    RUN = "run"
    INVOKE = "invoke"
    SLEEP = "sleep"
    WAIT = "wait"
    SEND = "send"
    SIGNAL = "signal"
    ASK = "ask"
    START = "start"
    MAP = "map"


_RUN = StepKind.RUN


class ParentClose(StrEnum):
    """What becomes of a child that its parent has started and that has not ended when the parent ends.

    Attributes:
        CANCEL: it is cancelled.
        LEAVE: it continues.
        WAIT: the parent ends after it. If the parent cannot wait, because it is cancelled, the child is cancelled.
    """

    CANCEL = "cancel"
    LEAVE = "leave"
    WAIT = "wait"


def stored_kind(detail: Mapping[str, Any]) -> str:
    """The kind of a step, from the facts that its memo or its wait stores."""
    kind = detail.get("kind")
    return _RUN if kind is None else str(kind)


@value_class
class RunRequest:
    """``step.run``: call a handler.

    Attributes:
        handler, args, kwargs: the callable and its arguments.
        retries: attempts after the first, or a policy; ``None``: those of the function.
        timeout_ms: the longest duration of an attempt, in milliseconds; ``None``: no limit.
        heartbeat_timeout_ms: the longest time between two heartbeats, in milliseconds; ``None``: no limit.
        adapter: restores the result to the type that the handler declares; ``None``: plain JSON data.
        isolation: that the handler executes in a process of its own; ``None``: it executes in that of the worker.
        context: the context variables of the code that requests the step. The handler sees their values.
        undo: undoes the step; it is called with the result. ``None``: nothing does.
        placement: where it is executed, and how many slots it takes; ``None``: the queue of the run, and one slot.
        cache: where its result is found by other runs; ``None``: nowhere.
    """

    kind: ClassVar[StepKind] = StepKind.RUN
    handler: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retries: int | Retry | None = None
    timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    adapter: Restore | None = field(default=None, repr=False, compare=False)
    isolation: Isolation | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context, repr=False, compare=False)
    undo: Callable[[Any], Any] | None = None
    placement: Placement | None = None
    cache: StepCache | None = None


@dataclass(frozen=True, slots=True)
class InvokeRequest:
    """``step.invoke``: run another function and wait for it. Or: wait for a child that an earlier step has started.

    Attributes:
        app, function: the app id and the id of the function.
        data: the data of its event, as JSON text.
        timeout_ms: the longest wait, in milliseconds.
        options: what the child has in place of the settings of the function; ``None``: nothing.
        child: the run that was started; ``""``: the step starts one.
    """

    kind: ClassVar[StepKind] = StepKind.INVOKE
    app: str
    function: str
    data: bytes
    timeout_ms: int
    options: RunOverrides | None = None
    child: str = ""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """``step.start_child``: start a run of another function, and continue.

    Attributes:
        app, function, data, options: see `InvokeRequest`.
        timeout_ms: the longest time that the child may take, in milliseconds.
        parent_close: what becomes of the child if it takes longer, or its parent ends.
    """

    kind: ClassVar[StepKind] = StepKind.START
    app: str
    function: str
    data: bytes
    timeout_ms: int
    parent_close: ParentClose
    options: RunOverrides | None = None


@dataclass(frozen=True, slots=True)
class SleepRequest:
    """``step.sleep`` and ``step.sleep_until``: continue after a time.

    Attributes:
        duration_ms: the duration, in milliseconds.
        until_ms: the end, in milliseconds since the epoch; 0: the duration counts.
    """

    kind: ClassVar[StepKind] = StepKind.SLEEP
    duration_ms: int = 0
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """``step.wait_for_event``: continue when an event arrives, or after a timeout.

    Attributes:
        event: the name of the event.
        timeout_ms: the longest wait, in milliseconds.
        paths: the paths at which the event must have certain values, separated by commas: ``data.order_id``; ``""``:
            none.
        values: these values, as the JSON text of a list.
        condition: an expression that must also be true; ``""``: none.
        lookback_ms: how old an event may be that came before the wait, in milliseconds; ``None``: it must have come
            after the run was created. 0: only events that come after the wait has begun.
    """

    kind: ClassVar[StepKind] = StepKind.WAIT
    event: str
    timeout_ms: int
    paths: str = ""
    values: bytes = b"[]"
    condition: str = ""
    lookback_ms: int | None = 0


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event to send, with its data as JSON text. Without an id or a time, its step sets them.

    Attributes:
        at_ms: when it is sent, in milliseconds since the epoch; 0: now.
    """

    name: str
    data: bytes
    id: str = ""
    ts: int = 0
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class SendRequest:
    """``step.send_event``: send events once."""

    kind: ClassVar[StepKind] = StepKind.SEND
    events: tuple[OutgoingEvent, ...]


@dataclass(frozen=True, slots=True)
class SignalRequest:
    """``step.wait_for_signal``: continue when somebody sends the run a signal, or after a timeout.

    Attributes:
        name: the name of the signal.
        timeout_ms: the longest wait, in milliseconds.
    """

    kind: ClassVar[StepKind] = StepKind.SIGNAL
    name: str
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class AskRequest:
    """``step.ask``: continue when a person has answered, or after a timeout.

    Attributes:
        schema: the JSON schema of the answer, as JSON text.
        to: whom the question is for; ``""``: anybody.
        timeout_ms: the longest wait, in milliseconds.
    """

    kind: ClassVar[StepKind] = StepKind.ASK
    schema: bytes
    to: str
    timeout_ms: int


class MapItems:
    """The items of a map, in their order.

    Args:
        values: the items.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    @cached_property
    def digest(self) -> str:
        """Identifies the items: 8 hex digits. Items that are not JSON are only counted."""
        parts = str(len(self.values)).encode(), dumps_if_json(self.values) or b""
        return hashlib.sha1(b"\0".join(parts), usedforsecurity=False).hexdigest()[:ITEMS_DIGEST_DIGITS]


@dataclass(frozen=True, slots=True)
class MapRequest:
    """``step.map``: call a handler, or invoke a function, for each of many items.

    Attributes:
        items: the items.
        request: makes the request of an item.
        at_once: how many items may be open at once.
        tolerated: how many items may fail.
        function: the function that is invoked, as ``app/id``; ``""``: a handler is called.
        queue: the queue of the jobs of the items; ``""``: that of the run.
    """

    kind: ClassVar[StepKind] = StepKind.MAP
    items: MapItems
    request: Callable[[Any], RunRequest | InvokeRequest]
    at_once: int
    tolerated: int
    function: str = ""
    queue: str = ""


StepRequest = (
    RunRequest
    | InvokeRequest
    | SleepRequest
    | WaitRequest
    | SendRequest
    | SignalRequest
    | AskRequest
    | MapRequest
    | StartRequest
)


def event_text(name: str, *, id: str, ts: int, data: bytes) -> bytes:
    """The JSON text of an event with ``data``, which is JSON text."""
    return dumps({"name": name, "id": id, "ts": ts})[:-1] + b',"data":' + data + b"}"


@dataclass(slots=True, eq=False)
class StepCall:
    """A step that the code has requested and that has not ended.

    Attributes:
        key: the memo key of the step.
        id: the id of the step in the code.
        request: the request.
        future: its result is the memo, when the step has ended.
        position: the position of the latest memo that the code had when it requested the step; 0: none.
    """

    key: str
    id: str
    request: StepRequest
    future: asyncio.Future[Memo]
    position: int = 0
