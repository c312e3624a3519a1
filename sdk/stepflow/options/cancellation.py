"""Cancellation: events and deadlines that cancel live runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepflow.event import event_path
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError, StepUsageError
from stepflow_engine.expression import ON_EVENT_AND_RUN, condition
from stepflow_engine.limits import check_id

__all__ = ["CancelOn", "Timeouts", "cancellation_config"]

_MAX_EVENTS = 5


@dataclass(frozen=True, slots=True)
class CancelOn:
    """An event that cancels the live runs of a function. Their handlers are interrupted as by `Run.cancel`.

    Attributes:
        event: the name of the event; without wildcards.
        match: a path that must have the same value in this event as in the run's own event, such as
            ``"data.order_id"``. A run whose event has no value there is not cancelled.
        if_: a CEL expression on ``event``, the received event, and ``run.event``, the run's own event.
        timeout: how long after the run's start the event cancels it; a duration, or seconds. ``None``: no limit.

    Raises:
        ConfigurationError: a value is invalid; raised when the function is declared.

    Example::

        @app.function("ship", event="shop/order.placed", cancel_on=CancelOn("shop/order.cancelled", match="data.order"))
    """

    event: str
    match: str | None = None
    if_: str | None = None
    timeout: Duration | None = None

    def to_config(self) -> CancelConfig:
        """The form in which the registry stores it.

        Raises:
            ConfigurationError: an attribute is invalid.
        """
        try:
            check_id(self.event, "cancel_on: event")
            path = "" if self.match is None else event_path(self.match)
        except (ValueError, StepUsageError) as error:
            raise ConfigurationError(str(error)) from None
        if "*" in self.event:
            raise ConfigurationError(
                f"cancel_on: event must not have a '*', got {self.event!r}: write a CancelOn for each event"
            )
        text = "" if self.if_ is None else condition(self.if_, ON_EVENT_AND_RUN).text
        return CancelConfig(self.event, path, text, _milliseconds(self.timeout, "cancel_on: timeout"))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of a run. A run that misses one is cancelled, with the children that it waits for.

    The timers are in Redis and survive crashes. A step handler that is executing is interrupted as by `Run.cancel`.

    Attributes:
        start: the longest time from the run's creation until a worker starts it; a duration, or seconds. ``None``: no
            limit.
        finish: the longest time from the start to the end; a duration, or seconds. ``None``: no limit.

    Raises:
        ConfigurationError: a value is invalid; raised when the function is declared.

    Example::

        @app.function("report", event="shop/report", timeouts=Timeouts(start="5m", finish="1h"))
    """

    start: Duration | None = None
    finish: Duration | None = None


def cancellation_config(
    *, cancel_on: CancelOn | Sequence[CancelOn] | None, timeouts: Timeouts | None
) -> CancellationConfig | None:
    """The cancellation settings of a function; ``None``: it has none.

    Raises:
        ConfigurationError: a value is invalid.
    """
    events = [cancel_on] if isinstance(cancel_on, CancelOn) else list(cancel_on or ())
    wrong = next((one for one in events if not isinstance(one, CancelOn)), None)
    if wrong is not None:
        raise ConfigurationError(
            f'cancel_on: must be a CancelOn("shop/order.cancelled") or a list of them, got {wrong!r}'
        )
    if len(events) > _MAX_EVENTS:
        raise ConfigurationError(f"cancel_on: must have at most {_MAX_EVENTS} events, got {len(events)}")
    times = timeouts or Timeouts()
    config = CancellationConfig(
        tuple(one.to_config() for one in events),
        _milliseconds(times.start, "timeouts: start"),
        _milliseconds(times.finish, "timeouts: finish"),
    )
    return None if config == CancellationConfig() else config


def _milliseconds(value: Duration | None, name: str) -> int:
    if value is None:
        return 0
    try:
        return duration_ms(value, name=name, least_ms=1)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
