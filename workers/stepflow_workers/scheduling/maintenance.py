"""Maintenance: does what a worker does from time to time, so that no scheduler process is needed.

Every worker does all of it. Each chore is one script that takes what is due and can be repeated, so several workers
that do it at once do it once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.transitions.jobs import fire_timers, reclaim_leases, repair_jobs
from stepflow_broker.transitions.runs import forget_ended
from stepflow_broker.transitions.schedules import server_time_ms
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.scheduling.cron import CronTicker
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["MaintenanceLoop"]

_log = logging.getLogger("stepflow.worker")
_TICK_S = 1.0
_TIMERS = 500
_RECLAIMED = 100


@dataclass(slots=True)
class _PeriodicTask:
    """Something to do again and again.

    Attributes:
        do: does it.
        every_s: how often, in seconds.
        due_at: when next, in the loop's time.
    """

    do: Callable[[], Awaitable[object]]
    every_s: float
    due_at: float = 0.0


class MaintenanceLoop:
    """Keeps time in one partition, for one worker."""

    def __init__(
        self, state: WorkerState, keys: Keys, completions: CompletionConsumer, cron_ticker: CronTicker
    ) -> None:
        self._state = state
        self._keys = keys
        self._timers_at = 0.0
        self._tick_at = 0.0
        self._repair_cursor = 0
        self._look_at_finished = _PeriodicTask(partial(completions.look, keys), 4.0)
        self._look_at_pauses = _PeriodicTask(partial(state.pauses.look, keys), 10.0)
        self._chores = (
            self._look_at_pauses,
            _PeriodicTask(cron_ticker.look, 1.0),
            self._look_at_finished,
            _PeriodicTask(partial(completions.take_over, keys), 8.0),
            _PeriodicTask(self._reclaim, 4.0),
            _PeriodicTask(self._repair, 10.0),
            _PeriodicTask(self._forget, 300.0),
        )

    async def keep(self) -> None:
        """Do what is due."""
        now = asyncio.get_running_loop().time()
        if now >= min(self._timers_at, self._tick_at):
            await self._fire_timers(now)
        for chore in self._chores:
            if now >= chore.due_at:
                chore.due_at = now + chore.every_s
                await chore.do()

    def seconds_left(self) -> float:
        """How long nothing is due; at most a second, for timers that other workers set."""
        return max(0.0, min(self._timers_at, self._tick_at) - asyncio.get_running_loop().time())

    def timer_set(self, delay_ms: int) -> None:
        """Look when a timer that this worker has set is due, and not at the next tick."""
        self._timers_at = min(self._timers_at, asyncio.get_running_loop().time() + delay_ms / 1000)

    def look_at_finished(self) -> None:
        """Look at the finished events as soon as the worker looks at anything."""
        self._look_at_finished.due_at = 0.0

    def look_at_pauses(self) -> None:
        """Look at what is paused as soon as the worker looks at anything."""
        self._look_at_pauses.due_at = 0.0

    async def _fire_timers(self, now: float) -> None:
        """Have some of what is due happen. What is left comes at the next look: jobs are claimed in between."""
        state = self._state
        self._tick_at = self._timers_at = now + _TICK_S  # also if this fails
        _, next_ms = await state.broker.execute(fire_timers(self._keys, limit=_TIMERS))
        self._timers_at = now + (next_ms / 1000 if next_ms >= 0 else _TICK_S)

    async def _reclaim(self) -> None:
        lease_ms, reclaimed = self._state.settings.lease_ms, list[str]()
        while len(reclaimed) % _RECLAIMED == 0:
            found = await self._state.broker.execute(reclaim_leases(self._keys, limit=_RECLAIMED, lease_ms=lease_ms))
            if not found:
                break
            reclaimed += found
        if reclaimed:
            _log.warning("jobs_reclaimed", extra={"count": len(reclaimed), "jobs": reclaimed[:10]})

    async def _repair(self) -> None:
        call = repair_jobs(self._keys, cursor=self._repair_cursor)
        self._repair_cursor, repaired = await self._state.broker.execute(call)
        if repaired:
            _log.warning("jobs_repaired", extra={"count": len(repaired), "jobs": repaired[:10]})

    async def _forget(self) -> None:
        now_ms = await self._state.broker.execute(server_time_ms())
        await self._state.broker.execute(forget_ended(self._keys, now_ms))
