"""The heartbeat of a worker: how often it is sent, and what its absence means."""

from __future__ import annotations

__all__ = ["HEARTBEAT_S", "HEARTBEAT_TTL_S", "is_live"]

HEARTBEAT_S = 10
"""How often a worker sends its heartbeat."""
HEARTBEAT_TTL_S = 30
"""How long Redis keeps the record of a worker after its last heartbeat."""
_LATEST_S = 15
_LONGEST_S = 86_400
"""A record that is kept for longer was written while the clock of the server was ahead: it proves no heartbeat."""


def is_live(record_ttl_ms: int) -> bool:
    """Whether a worker has sent its heartbeat in the last 15 seconds.

    Args:
        record_ttl_ms: the time that Redis keeps its record from now on. So no clock of another machine matters. A
            record that does not expire (-1) is not of a worker of this version.
    """
    return record_ttl_ms == -1 or (HEARTBEAT_TTL_S - _LATEST_S) * 1000 < record_ttl_ms <= _LONGEST_S * 1000
