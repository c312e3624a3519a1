"""Clock: the time of a partition. The Redis server decides what is due, so in production scripts ask the server.

A process makes one value and gives it to its partitions and apps; nothing else asks for the time of runs, timers and
events. Timeouts of sockets and periods of background tasks are not such times: they use the clock that only grows.
"""

from __future__ import annotations

import time
from typing import Protocol

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command

__all__ = ["REAL_CLOCK", "Clock", "server_time_ms"]


class Clock(Protocol):
    """Gives the time of runs, timers, schedules and events."""

    def script_ms(self) -> int:
        """The time that a script is given, in milliseconds since the epoch; 0: the script asks the server."""
        ...

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch, for the data of events and steps, and for display.

        Leases, timers and schedules use the clock of the server: see `script_ms` and `server_time_ms`.
        """
        ...


class _RealClock:
    """The clock of the server, and for `now_ms` that of this machine."""

    def script_ms(self) -> int:
        """Leave the time to the server."""
        return 0

    def now_ms(self) -> int:
        """The time of this machine."""
        return time.time_ns() // 1_000_000


REAL_CLOCK: Clock = _RealClock()
"""The clock of all processes but tests."""


def server_time_ms(clock: Clock) -> Command[int]:
    """Read the time of the server, in milliseconds since the epoch, or that which scripts are given in its place."""
    return command(lambda reply: clock.script_ms() or replies.time_ms(reply), "TIME")
