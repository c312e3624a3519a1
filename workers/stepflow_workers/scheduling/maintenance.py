"""MaintenanceLoop: runs the periodic tasks of a worker, so that no scheduler process is needed.

Every worker runs all of them. Each task is an idempotent script that takes what is due, so several workers that run it
at once do its work once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import renew_pending
from stepflow_broker.redis_client.connection import check_server
from stepflow_broker.registry.code import register_code
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import register_functions
from stepflow_broker.transitions.events.consumers import remove_consumers
from stepflow_broker.transitions.jobs.leases import reclaim_leases, repair_jobs
from stepflow_broker.transitions.jobs.timers import fire_timers, mend_times
from stepflow_broker.transitions.runs.run_control import forget_runs
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.scheduling.bulks import Bulks
from stepflow_workers.scheduling.cron import CronTicker
from stepflow_workers.scheduling.requeues import Requeues
from stepflow_workers.scheduling.schedules import ScheduleTicker
from stepflow_workers.scheduling.server_clock import ServerClock
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["MaintenanceLoop"]

_log = logging.getLogger(WORKER_LOGGER)
_TICK_S = 1.0
_CHECK_S = 10.0
_TIMERS = 500
_RECLAIMED = 100
_SCAN_LEASES = 0.4
"""The part of a short lease between two scans. ``reclaim_leases`` takes a longer time for an outage: see there."""
_FORGOTTEN = 200


@dataclass(slots=True)
class _PeriodicTask:
    """A task that runs periodically.

    Attributes:
        run: runs it once.
        every_s: the period in seconds.
        due_at: the next time, by the clock of the event loop.
    """

    run: Callable[[], Awaitable[object]]
    every_s: float
    due_at: float = 0.0


class MaintenanceLoop:
    """Runs the periodic tasks of one partition, for one worker.

    Args:
        bulks: executes bulks; ``None``: not here, because they are in another partition.
        code: the functions of which the worker has the code, and its version; see `code_names`.
        functions: these functions.
    """

    def __init__(
        self,
        state: WorkerState,
        partition: Partition,
        *,
        completions: CompletionConsumer,
        cron_ticker: CronTicker,
        schedule_ticker: ScheduleTicker,
        requeues: Requeues,
        bulks: Bulks | None,
        code: Sequence[str],
        functions: Sequence[FunctionConfig],
    ) -> None:
        self._state = state
        self._code = code
        self._functions = functions
        self._requeues = requeues
        self._partition = partition
        self._timers_at = 0.0
        self._tick_at = 0.0
        self._repair_cursor = 0
        self._clock = ServerClock()
        self._is_running = False
        self._completions_task = _PeriodicTask(partial(completions.process_new, partition), 4.0)
        self._pauses_task = _PeriodicTask(partial(state.pauses.refresh, partition), 10.0)
        self._requeues_task = _PeriodicTask(self._retry_requeued, 2.0)
        self._tasks = (
            _PeriodicTask(self._register_code, 20.0),
            self._pauses_task,
            _PeriodicTask(self._watch_clock, 2.0),
            self._requeues_task,
            _PeriodicTask(cron_ticker.tick, 1.0),
            _PeriodicTask(schedule_ticker.refresh, 2.0),
            _PeriodicTask(schedule_ticker.tick, 1.0),
            self._completions_task,
            _PeriodicTask(partial(completions.take_over, partition), 8.0),
            _PeriodicTask(self._reclaim, min(4.0, state.settings.lease_ms * _SCAN_LEASES / 1000)),
            _PeriodicTask(self._repair, 10.0),
            _PeriodicTask(self._check_server, _CHECK_S),
            _PeriodicTask(self._remove_consumers, 300.0),
            _PeriodicTask(self._forget, 15.0),
            *([_PeriodicTask(bulks.take_up, 1.0)] if bulks is not None else []),
        )

    async def run_due(self) -> None:
        """Run the tasks that are due."""
        now = asyncio.get_running_loop().time()
        self._is_running = True
        try:
            if now >= min(self._timers_at, self._tick_at):
                await self._fire_timers(now)
            for task in self._tasks:
                if now >= task.due_at:
                    task.due_at = now + task.every_s
                    await task.run()
        finally:
            self._is_running = False

    def clock_set(self) -> None:
        """Run all tasks at the next opportunity: a test has set the clock."""
        self._timers_at = 0.0
        for task in self._tasks:
            task.due_at = 0.0

    @property
    def has_followed(self) -> bool:
        """Whether all tasks have run since `clock_set`."""
        return not self._is_running and bool(self._timers_at) and all(task.due_at for task in self._tasks)

    def seconds_left(self) -> float:
        """Seconds until the next timer may be due. At most one, because other workers set timers too."""
        return max(0.0, min(self._timers_at, self._tick_at) - asyncio.get_running_loop().time())

    def timer_set(self, delay_ms: int) -> None:
        """Fire a timer that this worker has set when it is due, not at the next tick."""
        self._timers_at = min(self._timers_at, asyncio.get_running_loop().time() + delay_ms / 1000)

    def process_completions_soon(self) -> None:
        """Process the finished events at the next opportunity."""
        self._completions_task.due_at = 0.0

    def refresh_pauses_soon(self) -> None:
        """Read the pauses at the next opportunity."""
        self._pauses_task.due_at = 0.0

    async def _fire_timers(self, now: float) -> None:
        """Fire a limited number of due timers. The rest follow at the next poll, after a claim."""
        state = self._state
        self._tick_at = self._timers_at = now + _TICK_S  # also if this fails
        _, next_ms = await state.broker.execute(fire_timers(self._partition, limit=_TIMERS))
        self._timers_at = now + (next_ms / 1000 if next_ms >= 0 else _TICK_S)

    async def _watch_clock(self) -> None:
        """Mend the times that were noted while the clock of the server was ahead, when it is right again."""
        now_ms = await self._state.broker.execute(server_time_ms(self._partition.clock))
        if not self._clock.has_come_back(now_ms, round(asyncio.get_running_loop().time() * 1000)):
            return
        mended, cursor, is_first = 0, 0, True
        while is_first or cursor:
            cursor, count = await self._state.broker.execute(mend_times(self._partition, cursor=cursor))
            mended, is_first = mended + count, False
        for stream in ("EVENTS", "FINISHED"):
            await self._renew_pending(stream)
        _log.warning("server_clock_came_back", extra={"mended": mended})

    async def _renew_pending(self, stream: str) -> None:
        cursor, is_first = "0-0", True
        while is_first or cursor != "0-0":
            call = renew_pending(self._partition.keys, stream, self._state.worker, cursor=cursor)
            cursor, is_first = await self._state.broker.execute(call), False

    async def _reclaim(self) -> None:
        lease_ms, reclaimed = self._state.settings.lease_ms, list[str]()
        while len(reclaimed) % _RECLAIMED == 0:
            batch = await self._state.broker.execute(
                reclaim_leases(self._partition, limit=_RECLAIMED, lease_ms=lease_ms)
            )
            if not batch:
                break
            reclaimed += batch
        if reclaimed:
            _log.warning("jobs_reclaimed", extra={"count": len(reclaimed), "jobs": reclaimed[:10]})

    async def _repair(self) -> None:
        call = repair_jobs(self._partition, cursor=self._repair_cursor)
        self._repair_cursor, repaired = await self._state.broker.execute(call)
        if repaired:
            _log.warning("jobs_repaired", extra={"count": len(repaired), "jobs": repaired[:10]})

    async def _retry_requeued(self) -> None:
        if await self._requeues.retry_some():
            self._requeues_task.due_at = 0.0

    async def _register_code(self) -> None:
        """Note again which code the worker has. If that had expired, its functions may have been forgotten."""
        broker = self._state.broker
        if await broker.execute(register_code(self._partition, self._code)) is ScriptStatus.DONE:
            await broker.execute(register_functions(self._partition.keys, self._functions, only_missing=True))

    async def _check_server(self) -> None:
        """Warn of settings with which no worker would start. Somebody may change them while workers work."""
        broker = self._state.broker
        info = await broker.execute_at(self._partition.keys, command(replies.server_info, "INFO", "everything"))
        try:
            check_server(info, broker.url)
        except ConfigurationError as error:
            if self._state.unsafe_log.allows(str(error)):
                _log.warning("server_unsafe", extra={"error": str(error)})

    async def _forget(self) -> None:
        due = _FORGOTTEN
        while due == _FORGOTTEN and not self._state.stopping:
            due, _ = await self._state.broker.execute(forget_runs(self._partition, limit=_FORGOTTEN))

    async def _remove_consumers(self) -> None:
        await self._state.broker.execute(remove_consumers(self._partition))
