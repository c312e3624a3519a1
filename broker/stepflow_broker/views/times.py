"""Times in the JSON output."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["iso"]


def iso(at_ms: int | None) -> str | None:
    """A time in UTC: ``2025-01-31T09:30:00.125Z``."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
