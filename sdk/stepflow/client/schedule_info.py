"""What the methods of `Schedules` return: a schedule as it was read, and its runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from stepflow.client.run import Run
from stepflow.options.cron_times import upcoming
from stepflow_broker.registry.schedules import ScheduleConfig, ScheduleState
from stepflow_engine.cipher import Cipher
from stepflow_engine.times import utc_time

__all__ = ["Schedule", "ScheduledRun", "schedule_info"]

_NEXT = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that was created at run time, as it was when it was read. It does not change. Times are in UTC.

    Attributes:
        id: its id; ``app`` is the app that has created it.
        function: what it starts, as ``app/function``.
        cron: the five fields; ``""``: it has an interval.
        every: the interval; ``None``: it has fields.
        timezone: the time zone of the fields and of the window.
        data: the data of the runs' events; ``None``: each has its time. ``"encrypted"``: this process lacks the key.
        jitter: how much later than its time a run starts at most.
        window: the hours in which runs start; ``""``: all.
        start, end: no time is before the first and after the second; ``None``: no bound.
        catch_up: what happens to times at which no worker was running.
        reason: why it was created.
        created_at, created_by: when, and by whom.
        paused_at: since when it is paused; ``None``: it is not.
        paused_reason: why it is paused.
        next_times: when its next runs start, at most five; empty while it is paused, or when it has ended.
        last_time: the time that its last run is for; ``None``: it has started none.
        last_run: the id of its last run; ``""``: it has started none.

    Example::

        for schedule in app.schedules.list():
            print(schedule.id, schedule.paused, schedule.next_times[:1])
    """

    id: str
    app: str
    function: str
    cron: str
    every: timedelta | None
    timezone: str
    data: Any
    jitter: timedelta
    window: str
    start: datetime | None
    end: datetime | None
    catch_up: str
    reason: str
    created_at: datetime
    created_by: str
    paused_at: datetime | None
    paused_reason: str
    next_times: tuple[datetime, ...]
    last_time: datetime | None
    last_run: str

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self.paused_at is not None


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """A run of a schedule for a time in the past, which `Schedules.backfill` has started.

    Attributes:
        time: the time that the run is for, in UTC.
        run: the run.

    Example::

        print([missed.time for missed in app.schedules.backfill("report", since, dry_run=True)])
    """

    time: datetime
    run: Run[Any]


def schedule_info(config: ScheduleConfig, state: ScheduleState, cipher: Cipher, now_ms: int) -> Schedule:
    """A schedule from what is stored."""
    cron, starts = config.cron, upcoming(config.cron, after_ms=now_ms, name=config.name)
    return Schedule(
        id=config.id,
        app=config.app,
        function=config.function,
        cron=cron.schedule,
        every=timedelta(milliseconds=cron.every_ms) if cron.every_ms else None,
        timezone=cron.zone,
        data=config.shown_data(cipher),
        jitter=timedelta(milliseconds=cron.jitter_ms),
        window=cron.window,
        start=_bound(cron.start_ms),
        end=_bound(cron.end_ms),
        catch_up=cron.catch_up,
        reason=config.reason,
        created_at=utc_time(config.created_at),
        created_by=config.created_by,
        paused_at=_bound(config.paused_at),
        paused_reason=config.paused_reason,
        next_times=() if config.paused_at else tuple(utc_time(at) for at, _ in itertools.islice(starts, _NEXT)),
        last_time=_bound(state.last_ms),
        last_run=state.last_run,
    )


def _bound(at_ms: int) -> datetime | None:
    return utc_time(at_ms) if at_ms else None
