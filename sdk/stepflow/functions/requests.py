"""Requests of the step tools: check the arguments of a sleep, a wait, an ask and a send."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from stepflow.event import Event, event_path, outgoing_event
from stepflow.later import When, time_ms
from stepflow.options.step import Undo
from stepflow_broker.registry.event_values import value_at
from stepflow_engine.codec import dumps
from stepflow_engine.durations import MAX_DURATION_MS, Duration, duration_ms
from stepflow_engine.errors import ConfigurationError, EventError, StepUsageError
from stepflow_engine.expression import ON_EVENT_AND_RUN, condition
from stepflow_engine.limits import check_id
from stepflow_engine.steps import AskRequest, SendRequest, SignalRequest, SleepRequest, WaitRequest

__all__ = [
    "MAX_LOOKBACK_MS",
    "Close",
    "Match",
    "When",
    "ask_request",
    "checked_undo",
    "send_request",
    "signal_request",
    "sleep_request",
    "until_request",
    "wait_request",
]

Close = Literal["cancel", "leave", "wait"]
Match = str | Mapping[str, Any]
MAX_LOOKBACK_MS = 3_600_000
"""The longest lookback: 1 hour."""
_LONGEST_TO = 128


def checked_undo(step_id: str, handler: Callable[..., Any], undo: Undo) -> Undo:
    """Return an undo handler of a step if it can be called.

    Raises:
        StepUsageError: it is not callable, or the handler of the step has a parameter of this name itself.
    """
    try:
        has_parameter = "undo" in inspect.signature(handler).parameters
    except (TypeError, ValueError):  # a callable of C code without a signature
        has_parameter = False
    if has_parameter:
        raise StepUsageError(
            f"step {step_id!r}: undo= is the undo handler of the step, and the handler has a parameter undo itself: "
            "pass functools.partial(handler, undo=...)"
        )
    if not callable(undo):
        raise StepUsageError(
            f"step {step_id!r}: undo must be callable, got {type(undo).__name__}: "
            "pass a function with one parameter, the result of the step"
        )
    return undo


def sleep_request(duration: Duration) -> SleepRequest:
    """The request of a sleep.

    Raises:
        StepUsageError: the duration is invalid, negative, or is over 366 days.
    """
    return SleepRequest(duration_ms=_duration(duration, "sleep: duration"))


def until_request(when: When, *, now_ms: int) -> SleepRequest:
    """The request of a sleep until a time. A time in the past is accepted and ends at once.

    Args:
        now_ms: the time of the run, in milliseconds since the epoch.

    Raises:
        StepUsageError: the time is invalid, has no time zone, or is over 366 days ahead.
    """
    try:
        until_ms = time_ms(when, "sleep_until: when")
    except ValueError as error:
        raise StepUsageError(str(error)) from None
    if until_ms > now_ms + MAX_DURATION_MS:
        raise StepUsageError(f"sleep_until: when must be at most 366 days ahead, got {when}")
    return SleepRequest(until_ms=max(1, until_ms))


def wait_request(
    event: str,
    timeout: Duration,
    *,
    match: Match | None,
    if_: str | None,
    lookback: Duration | None,
    of: Mapping[str, Any],
) -> WaitRequest:
    """The request of a wait for an event.

    Args:
        of: the event that started the run.

    Raises:
        StepUsageError: an argument is invalid.
    """
    try:
        check_id(event, "wait_for_event: event")
        wanted_if = condition(if_, ON_EVENT_AND_RUN).text if if_ is not None else ""
    except (ValueError, ConfigurationError) as error:
        raise StepUsageError(str(error)) from None
    wanted = _wanted(match, of)
    lookback_ms: int | None = None
    if lookback is not None:
        lookback_ms = _duration(lookback, "wait_for_event: lookback")
    elif not wanted and not wanted_if:
        lookback_ms = 0  # it waits for the next event, whatever its data
    if lookback_ms is not None and lookback_ms > MAX_LOOKBACK_MS:
        raise StepUsageError(f"wait_for_event: lookback must be at most 1h, got {lookback!r}")
    try:
        values = dumps(list(wanted.values()))
    except TypeError as error:
        raise StepUsageError(f"wait_for_event: match must be JSON ({error}), got {match!r}") from None
    timeout_ms = _duration(timeout, "wait_for_event: timeout")
    return WaitRequest(event, timeout_ms, ",".join(wanted), values, wanted_if, lookback_ms)


def signal_request(name: str, timeout: Duration | None) -> SignalRequest:
    """The request of a wait for a signal.

    Raises:
        StepUsageError: the name or the timeout is invalid.
    """
    try:
        check_id(name, "wait_for_signal: name")
    except ValueError as error:
        raise StepUsageError(str(error)) from None
    timeout_ms = MAX_DURATION_MS if timeout is None else _duration(timeout, "wait_for_signal: timeout")
    return SignalRequest(name, timeout_ms)


def ask_request(schema: bytes, to: str | None, timeout: Duration) -> AskRequest:
    """The request of an ask; ``schema`` is JSON text.

    Raises:
        StepUsageError: ``to`` or the timeout is invalid.
    """
    try:
        recipient = "" if to is None else check_id(to, "ask: to")
    except ValueError as error:
        raise StepUsageError(str(error)) from None
    if len(recipient) > _LONGEST_TO:
        raise StepUsageError(f"ask: to must be at most {_LONGEST_TO} characters, got {len(recipient):,}")
    return AskRequest(schema, recipient, _duration(timeout, "ask: timeout", least_ms=1))


def send_request(events: Event[Any] | Sequence[Event[Any]], *, now_ms: int, most: int, event_bytes: int) -> SendRequest:
    """The request of a send.

    Args:
        now_ms: the time of the run, in milliseconds since the epoch.

    Raises:
        EventError: an item is not an event, an event is invalid or over a limit, or there are too many.
    """
    listed = list(events) if isinstance(events, Iterable) else [events]
    for event in listed:
        if not isinstance(event, Event):
            raise EventError(
                f"send_event: events must be events, got {type(event).__name__}: "
                'write Event("shop/order.placed", {"order": 17})'
            )
    if len(listed) > most:
        raise EventError(f"send_event: events must have at most {most:,} items, got {len(listed):,}: use several steps")
    return SendRequest(tuple(outgoing_event(event, now_ms=now_ms, limit_bytes=event_bytes) for event in listed))


def _duration(value: Duration, name: str, *, least_ms: int = 0) -> int:
    try:
        return duration_ms(value, name=name, least_ms=least_ms)
    except ValueError as error:
        raise StepUsageError(str(error)) from None


def _wanted(match: Match | None, of: Mapping[str, Any]) -> dict[str, Any]:
    """The paths of the awaited event and the values that they must have, sorted by path."""
    if match is None:
        return {}
    if isinstance(match, Mapping):
        wanted = {event_path(path): value for path, value in match.items()}
    else:
        path = event_path(match)
        wanted = {path: value_at(dict(of), f"event.{path}")}
        if wanted[path] is None:
            raise StepUsageError(
                f"wait_for_event: match must be a path with a value in the event of the run, got {match!r}: "
                f"pass the value, as in match={{{path!r}: 17}}"
            )
    return dict(sorted(wanted.items()))
