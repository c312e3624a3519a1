"""Bounds: what ends a run from outside, an event or the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepflow.event import event_path
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError, StepUsageError
from stepflow_engine.expression import expression
from stepflow_engine.limits import check_id

__all__ = ["CancelOn", "Timeouts", "bounds_config"]

_MOST_EVENTS = 5


@dataclass(frozen=True, slots=True)
class CancelOn:
    """An event that cancels the live runs of a function, whatever they do; a handler that is executed ends first.

    Attributes:
        event: the event's name.
        match: a path at which the event must have the value that the run's own event has, such as
            ``"data.order_id"``; a run whose event has none there is not cancelled.
        if_: a CEL expression on ``event`` and ``run.event`` that must hold.
        timeout: for how long after the run's start; ``None``: as long as it lives.
    """

    event: str
    match: str | None = None
    if_: str | None = None
    timeout: Duration | None = None

    def to_config(self) -> CancelConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: an attribute is not what it must be.
        """
        try:
            check_id(self.event, "the name of an event that cancels")
            path = "" if self.match is None else event_path(self.match)
        except (ValueError, StepUsageError) as error:
            raise ConfigurationError(str(error)) from None
        if "*" in self.event:
            raise ConfigurationError(
                f"the event {self.event!r} of a CancelOn is not one name: write a CancelOn for each"
            )
        condition = "" if self.if_ is None else expression(self.if_).text
        return CancelConfig(self.event, path, condition, _bound_ms(self.timeout, "the timeout of a CancelOn"))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """By when a run must have started, and ended; one that has not is cancelled, with the children that it waits for.

    Attributes:
        start: from its making until a worker has taken it; ``None``: for ever.
        finish: from then until its end; ``None``: for ever.
    """

    start: Duration | None = None
    finish: Duration | None = None


def bounds_config(
    *, cancel_on: CancelOn | Sequence[CancelOn] | None, timeouts: Timeouts | None
) -> CancellationConfig | None:
    """The bounds of a function; ``None``: there are none.

    Raises:
        ConfigurationError: one of them is not what it must be.
    """
    events = [cancel_on] if isinstance(cancel_on, CancelOn) else list(cancel_on or ())
    wrong = next((one for one in events if not isinstance(one, CancelOn)), None)
    if wrong is not None:
        raise ConfigurationError(f'cancel_on is a CancelOn("shop/order.cancelled"), or a list of them, not {wrong!r}')
    if len(events) > _MOST_EVENTS:
        raise ConfigurationError(f"cancel_on has {len(events)} events; at most {_MOST_EVENTS} are accepted")
    times = timeouts or Timeouts()
    config = CancellationConfig(
        tuple(one.to_config() for one in events),
        _bound_ms(times.start, "the start of Timeouts"),
        _bound_ms(times.finish, "the finish of Timeouts"),
    )
    return None if config == CancellationConfig() else config


def _bound_ms(value: Duration | None, name: str) -> int:
    if value is None:
        return 0
    try:
        found = duration_ms(value, name=name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if not found:
        raise ConfigurationError(f"{name} must be longer than 0")
    return found
