"""The clock of this machine."""

from __future__ import annotations

import time

__all__ = ["now_ms"]


def now_ms() -> int:
    """The time of this machine in milliseconds since the epoch. For display; never compared with the server's clock."""
    return time.time_ns() // 1_000_000
