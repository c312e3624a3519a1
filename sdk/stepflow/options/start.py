"""The options of one start: what ``app.start`` and ``step.invoke`` take in place of the settings of the function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from stepflow.later import When
from stepflow.options.cancellation import Timeouts
from stepflow.options.keywords import check_keywords
from stepflow.options.queue import checked_queue
from stepflow.options.retention import retention_ms
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import EventError
from stepflow_engine.run_overrides import RunOverrides

__all__ = ["RunOptions", "StartOptions", "run_overrides"]

_LARGEST_PRIORITY = 600


class RunOptions(TypedDict, total=False):
    """The options of one run, in place of those of its function: arguments of `Stepflow.invoke` and ``step.invoke``.

    An option that is left out, or is ``None``, is that of the function.

    Attributes:
        priority: seconds from -600 to 600: the run is queued as if it had been created that much earlier.
        queue: the queue of its jobs. Workers that serve the queue and have the function execute the run.
        retention: how long the ended run is kept; a duration, or seconds; at least a second.

    Example::

        total = app.invoke("import-images", {"urls": []}, priority=300, queue="bulk", retention="90d")
    """

    priority: float | None
    queue: str | None
    retention: Duration | None


class StartOptions(RunOptions, total=False):
    """The options of a start: arguments of `Stepflow.start` and `Stepflow.start_many`, beside those of `RunOptions`.

    Attributes:
        delay: how long after the call the run starts, by the clock of the server: a duration or seconds, at most
            366 days. Until then the run is ``waiting``, is found like any run, and can be cancelled. It passes the
            flow control of its function when it is due, and ``timeouts.start`` counts from then.
        at: instead of ``delay``, the time at which the run starts: a datetime with a time zone, ISO 8601 text with
            an offset, or seconds since 1970. If that time is over, the run starts now.
        timeout: the longest time from the start to the end of the run, in place of ``timeouts`` of the function; a
            duration or seconds, or `Timeouts`. A run that misses it is cancelled.

    Example::

        app.start("remind", {"order": 17}, delay="3d", timeout="2h", priority=300)
    """

    delay: Duration | None
    at: When | None
    timeout: Duration | Timeouts | None


def run_overrides(
    call: str, options: Mapping[str, Any], accepts: type[Mapping[str, Any]] = StartOptions
) -> RunOverrides | None:
    """What the options of one start replace; ``None``: nothing.

    Args:
        call: the name of the call, for the error.
        accepts: the options that the call takes.

    Raises:
        TypeError: there is no such option.
        EventError: a value is not allowed; the message says what is.
    """
    if not options:
        return None
    check_keywords(call, options, accepts)
    priority, queue, retention, timeout = map(options.get, ("priority", "queue", "retention", "timeout"))
    if priority is None and queue is None and retention is None and timeout is None:
        return None
    try:
        within = timeout if isinstance(timeout, Timeouts) else Timeouts(finish=timeout)
        return RunOverrides(
            None if priority is None else _priority_ms(priority, f"{call}: priority"),
            "" if queue is None else checked_queue(queue, f"{call}: queue"),
            None if retention is None else retention_ms(retention, f"{call}: retention"),
            _timeout_ms(within.start, f"{call}: timeout: start"),
            _timeout_ms(within.finish, f"{call}: timeout"),
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
