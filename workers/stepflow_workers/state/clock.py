"""The clock of this machine."""

from __future__ import annotations

import time

__all__ = ["now_ms"]


def now_ms() -> int:
    """The time of this machine, in milliseconds since the epoch; shown to people, never compared with the server's."""
    return time.time_ns() // 1_000_000
