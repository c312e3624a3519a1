"""The times of a cron schedule."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim

from stepflow_broker.registry.functions import CronConfig

__all__ = ["due_times"]

_LATE_MS = 60_000
"""A time that is older than this was missed: no worker was there."""
_MOST = 1_000
"""How many times that were missed are started at most."""


def due_times(cron: CronConfig, *, after_ms: int, now_ms: int) -> list[int]:
    """The times of a schedule that runs are to be started for: after one time, up to another, all in ms.

    Times that were missed are dealt with as the schedule's policy says; of very many, the latest 1,000 are started.
    """
    minute_after = datetime.fromtimestamp(now_ms // 60_000 * 60 + 60, UTC)  # in UTC: local sums forget a repeated hour
    back = CronSim(cron.schedule, minute_after.astimezone(ZoneInfo(cron.zone)), reverse=True)
    after_ms = max(after_ms, now_ms - _LATE_MS) if cron.catch_up == "skip" else after_ms
    found = list(itertools.takewhile(lambda time_ms: time_ms > after_ms, itertools.islice(map(_ms, back), _MOST)))
    return found[:1] if cron.catch_up == "latest" else found[::-1]


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
