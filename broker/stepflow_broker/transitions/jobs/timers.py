"""Timers: fire those that are due, and mend the times that a wrong clock has noted."""

from __future__ import annotations

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition

__all__ = ["fire_timers", "mend_times"]


def fire_timers(partition: Partition, *, limit: int = 500) -> Command[tuple[int, int]]:
    """Fire the due timers of a partition. Returns their number, and the milliseconds until the next (-1: none)."""
    return run_script(
        "fire_timers",
        replies.integer_pair,
        (partition.keys("TIMEOUTS"),),
        partition.clock.script_ms(),
        limit,
    )


def mend_times(partition: Partition, *, cursor: int, count: int = 500) -> Command[tuple[int, int]]:
    """Treat the times of live runs, and of some timers, that were noted while the clock was ahead as noted now.

    Returns the next cursor (0: the page was the last), and how many runs and timers had such a time.
    """
    keyed = (partition.keys("TIMEOUTS"), partition.keys("LIVE"))
    return run_script("mend_times", replies.integer_pair, keyed, partition.clock.script_ms(), cursor, count)
