"""Times: milliseconds since the epoch, as Redis has them, and datetimes in UTC, as programs read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["epoch_ms", "utc_time", "utc_time_or_none"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def utc_time(at_ms: int) -> datetime:
    """A time in milliseconds since the epoch, as a datetime in UTC."""
    return _EPOCH + at_ms * _MS


def utc_time_or_none(at_ms: int | None) -> datetime | None:
    """As `utc_time`; ``None`` stays ``None``."""
    return None if at_ms is None else utc_time(at_ms)


def epoch_ms(at: datetime) -> int:
    """A datetime with a time zone in milliseconds since the epoch, rounded up."""
    return -((_EPOCH - at) // _MS)
