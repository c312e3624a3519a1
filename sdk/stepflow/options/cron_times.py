"""Computes the times of a cron schedule at which runs start."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim

from stepflow_broker.registry.functions import CronConfig

__all__ = ["due_times"]

_LATE_MS = 60_000
"""A time that is older than this, in milliseconds, counts as missed: no worker was running."""
_MAX_TIMES = 1_000
"""The largest number of missed times that start runs."""


def due_times(cron: CronConfig, *, after_ms: int, now_ms: int) -> list[int]:
    """The times of a schedule at which runs start, after ``after_ms`` and up to ``now_ms``, in ms since the epoch.

    Missed times follow the ``catch_up`` policy of the schedule; at most the latest 1,000 are returned.
    """
    # in UTC: local arithmetic skips a repeated hour
    minute_after = datetime.fromtimestamp(now_ms // 60_000 * 60 + 60, UTC)
    back = CronSim(cron.schedule, minute_after.astimezone(ZoneInfo(cron.zone)), reverse=True)
    after_ms = max(after_ms, now_ms - _LATE_MS) if cron.catch_up == "skip" else after_ms
    times = list(itertools.takewhile(lambda time_ms: time_ms > after_ms, itertools.islice(map(_ms, back), _MAX_TIMES)))
    return times[:1] if cron.catch_up == "latest" else times[::-1]


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
