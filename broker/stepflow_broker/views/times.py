"""Times: in the JSON output in UTC, in texts in the time zone of the machine."""

from __future__ import annotations

from datetime import UTC, datetime

from stepflow_engine.times import utc_time

__all__ = ["iso", "local_time"]


def iso(at: datetime | int | None) -> str | None:
    """A time, or the milliseconds since the epoch, in UTC: ``2025-01-31T09:30:00.125Z``."""
    if at is None:
        return None
    return _moment(at).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(at: datetime | int) -> str:
    """A time, or the milliseconds since the epoch, in the time zone of this machine: ``2025-01-31 09:30:00``."""
    return _moment(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _moment(at: datetime | int) -> datetime:
    return at if isinstance(at, datetime) else utc_time(at)
