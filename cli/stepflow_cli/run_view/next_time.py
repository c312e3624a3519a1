"""The next time of a cron schedule."""

from __future__ import annotations

from dataclasses import replace

from stepflow.options.cron_times import due_times
from stepflow_broker.registry.functions import CronConfig

__all__ = ["next_time"]

_MINUTE_MS = 60_000
_FURTHEST_MS = 10 * 366 * 24 * 60 * _MINUTE_MS


def next_time(cron: CronConfig, now_ms: int) -> int | None:
    """The next time of a schedule in milliseconds since the epoch; ``None`` if there is none within ten years.

    It uses the function of the workers that lists due times, over a growing range.
    """
    every = replace(cron, catch_up="all")
    ahead_ms = _MINUTE_MS
    while not (due := due_times(every, after_ms=now_ms, now_ms=now_ms + ahead_ms)):
        if ahead_ms > _FURTHEST_MS:
            return None
        ahead_ms *= 2
    first = due[0]
    while due := due_times(every, after_ms=now_ms, now_ms=first - 1):  # of many due times, only the latest are listed
        first = due[0]
    return first
