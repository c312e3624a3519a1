"""Later: the time at which a run starts, or an event is sent, if that is not now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from stepflow_engine.durations import MAX_DURATION_MS, Duration, duration_ms
from stepflow_engine.errors import EventError

__all__ = ["Later", "When", "later", "time_ms"]

When = datetime | str | int | float
_WHEN = 'pass a datetime with a time zone, ISO 8601 text such as "2030-01-31T09:00:00+01:00", or seconds since 1970'


@dataclass(frozen=True, slots=True)
class Later:
    """A later time. The server adds a delay to its own clock, so that the clock of the client does not matter.

    Attributes:
        at_ms: the time, in milliseconds since the epoch; 0: it is given by the delay.
        delay_ms: the delay from now, in milliseconds.
    """

    at_ms: int = 0
    delay_ms: int = 0

    def due_ms(self, now_ms: int) -> int:
        """The time of the event that starts the run: when it is due, or now if that time is over."""
        return max(self.at_ms, now_ms + self.delay_ms)


def later(what: str, delay: Duration | None, at: When | None, *, now_ms: int) -> Later | None:
    """The later time that a call names; ``None``: now.

    Args:
        what: the call, for the error.

    Raises:
        EventError: the delay or the time is invalid, is over 366 days ahead, or both are given.
    """
    if delay is not None and at is not None:
        raise EventError(f"{what}: takes either delay or at, got both: leave one out")
    try:
        if delay is not None:
            delay_ms = duration_ms(delay, name=f"{what}: delay")
            return Later(delay_ms=delay_ms) if delay_ms else None
        if at is None:
            return None
        at_ms = time_ms(at, f"{what}: at")
    except ValueError as error:
        raise EventError(str(error)) from None
    if at_ms > now_ms + MAX_DURATION_MS:
        raise EventError(f"{what}: at must be at most 366 days ahead, got {at!r}")
    return Later(at_ms=max(1, at_ms))


def time_ms(when: When, what: str) -> int:
    """A time in milliseconds since the epoch.

    Args:
        what: the name of the value in an error.

    Raises:
        ValueError: it is not a time, or has no time zone.
    """
    try:
        match when:
            case bool():
                raise ValueError
            case int() | float():
                moment = datetime.fromtimestamp(when, UTC)
            case str():
                moment = datetime.fromisoformat(when)
            case datetime():
                moment = when
            case _:
                raise ValueError
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{what} must be a time, got {when!r:.100}: {_WHEN}") from None
    if moment.utcoffset() is None:
        raise ValueError(f"{what} must have a time zone, got {when!r}: {_WHEN}")
    return round(moment.timestamp() * 1000)
