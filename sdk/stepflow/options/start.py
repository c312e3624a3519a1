"""The options of one start: what ``app.start`` and ``step.invoke`` take in place of the settings of the function."""

from __future__ import annotations

from stepflow.options.cancellation import Timeouts
from stepflow.options.queue import checked_queue
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import EventError
from stepflow_engine.start_options import StartOptions

__all__ = ["start_options"]

_LARGEST_PRIORITY = 600


def start_options(
    what: str,
    *,
    priority: float | None = None,
    queue: str | None = None,
    retention: Duration | None = None,
    timeout: Duration | Timeouts | None = None,
) -> StartOptions | None:
    """The options of one start; ``None``: it has none.

    Args:
        what: the call, for the error.

    Raises:
        EventError: a value is not allowed; the message says what is.
    """
    if priority is None and queue is None and retention is None and timeout is None:
        return None
    try:
        within = timeout if isinstance(timeout, Timeouts) else Timeouts(finish=timeout)
        return StartOptions(
            None if priority is None else _priority_ms(priority, f"{what}: priority"),
            "" if queue is None else checked_queue(queue, f"{what}: queue"),
            None if retention is None else duration_ms(retention, name=f"{what}: retention"),
            _timeout_ms(within.start, f"{what}: timeout: start"),
            _timeout_ms(within.finish, f"{what}: timeout"),
        )
    except ValueError as error:
        raise EventError(str(error)) from None


def _priority_ms(value: float, name: str) -> int:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not -_LARGEST_PRIORITY <= value <= _LARGEST_PRIORITY:
        raise ValueError(
            f"{name} must be a number of seconds from -{_LARGEST_PRIORITY} to {_LARGEST_PRIORITY}, got {value!r:.100}: "
            "the run is queued as if it had been created that much earlier"
        )
    return round(value * 1000)


def _timeout_ms(value: Duration | None, name: str) -> int | None:
    return None if value is None else duration_ms(value, name=name, least_ms=1)
