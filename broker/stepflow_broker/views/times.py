"""Times: in the JSON output in UTC, in texts in the time zone of the machine."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["iso", "local_time"]


def iso(at_ms: int | None) -> str | None:
    """A time in UTC: ``2025-01-31T09:30:00.125Z``."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(at_ms: int) -> str:
    """A time in the time zone of this machine: ``2025-01-31 09:30:00``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
