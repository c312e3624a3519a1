"""The two clocks: that of the Redis server, which decides what is due, and that of this machine."""

from __future__ import annotations

import time

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command

__all__ = ["now_ms", "server_time_ms"]


def now_ms() -> int:
    """The time of this machine, in milliseconds since the epoch. For display and for the data of events.

    Leases, timers and schedules use the clock of the server: see `server_time_ms`.
    """
    return time.time_ns() // 1_000_000


def server_time_ms() -> Command[int]:
    """Read the clock of the server, in milliseconds since the epoch."""
    return command(replies.time_ms, "TIME")
