"""How long an ended run is kept, as an option."""

from __future__ import annotations

from stepflow_engine.durations import Duration, duration_ms

__all__ = ["retention_ms"]

_SHORTEST_MS = 1_000
"""A caller that waits for the result must still find it."""


def retention_ms(retention: Duration, what: str = "retention") -> int:
    """How long an ended run is kept, in milliseconds.

    Args:
        what: the name of the value in an error.

    Raises:
        ValueError: it is not a duration, or not from a second to 366 days.
    """
    return duration_ms(retention, name=what, least_ms=_SHORTEST_MS)
