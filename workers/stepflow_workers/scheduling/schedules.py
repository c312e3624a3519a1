"""ScheduleTicker: starts the runs of schedules that were created at run time, one for each time, on every worker.

A worker reads the schedules of its partition when their version has changed, and starts the runs of the functions whose
code it has. As for the schedules in code, Redis stores up to which time runs were started, and the script that starts
the runs updates it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from stepflow import Function
from stepflow.options.cron_times import due_times, next_start
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.schedules import ScheduleConfig, ScheduleState, partition_prefix_of, scheduled_run_id
from stepflow_broker.transitions.schedules import (
    ByHand,
    change_schedule,
    fire_schedule,
    read_schedule_states,
    read_schedules,
    schedules_version,
)
from stepflow_engine.errors import DecryptionError
from stepflow_engine.product import WORKER_LOGGER

__all__ = ["ScheduleTicker"]

_log = logging.getLogger(WORKER_LOGGER)
_FAR_MS = 24 * 3600 * 1000
"""When a schedule without a time in the next years is looked at again."""
_UNREADABLE_MS = 60_000
"""When a schedule whose data the worker cannot decrypt is looked at again: another worker may have the key."""
_SET_BACK_MS = 1_000
_MOVED = ByHand("", "move")


class ScheduleTicker:
    """Starts the runs of the schedules of one partition, for one worker.

    Args:
        functions: the functions whose code this worker has. The schedules of other functions start nothing.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition, functions: Iterable[Function]) -> None:
        self._broker = broker
        self._partition = partition
        self._functions = {function.name: function.config for function in functions}
        self._version = 0
        self._schedules: dict[str, ScheduleConfig] = {}
        self._next_ms: dict[str, int] = {}
        self._seen_ms = 0

    async def refresh(self) -> None:
        """Read the schedules, if they have changed."""
        version = await self._broker.execute(schedules_version(self._partition))
        if version == self._version:
            return
        stored = {one.name: one for one in await self._broker.execute(read_schedules(self._partition))}
        known = self._schedules
        self._schedules = {
            name: one for name, one in stored.items() if one.function in self._functions and not one.paused_at
        }
        self._next_ms = {
            name: self._next_ms[name] if name in known and known[name].revision == one.revision else 0
            for name, one in self._schedules.items()
        }
        self._version = version

    async def tick(self) -> None:
        """Start the runs that are due."""
        if not self._schedules:
            return
        now_ms = await self._broker.execute(server_time_ms(self._partition.clock))
        if now_ms < self._seen_ms - _SET_BACK_MS:  # the times that were computed then may be far in the future
            self._next_ms = dict.fromkeys(self._schedules, 0)
        self._seen_ms = now_ms
        due = [name for name, next_ms in self._next_ms.items() if next_ms <= now_ms]
        if not due:
            return
        states = await self._broker.execute(read_schedule_states(self._partition, due))
        for name, state in zip(due, states, strict=True):
            await self._fire(self._schedules[name], state, now_ms)

    async def _fire(self, schedule: ScheduleConfig, state: ScheduleState, now_ms: int) -> None:
        name, config = schedule.name, self._functions[schedule.function]
        home = self._partition.of(partition_prefix_of(config))
        self._next_ms[name] = next_start(schedule.cron, after_ms=now_ms, name=name) or now_ms + _FAR_MS
        if home is not self._partition:
            await self._move(schedule, state, home)
            return
        after_ms = state.until_ms or now_ms
        times = due_times(schedule.cron, after_ms=after_ms, now_ms=now_ms, name=name)
        try:
            starts = [self._start(schedule, config, time_ms) for time_ms in times]
        except DecryptionError as error:
            self._next_ms[name] = now_ms + _UNREADABLE_MS
            _log.warning("schedule_not_readable", extra={"schedule": name, "error": str(error)})
            return
        if not starts and 0 < state.until_ms <= now_ms:  # else it is new, or the clock was ahead
            return
        call = fire_schedule(self._partition, schedule, config, starts, last_ms=state.until_ms, until_ms=now_ms)
        started = await self._broker.execute(call)
        if started > 0:
            _log.info("schedule_fired", extra={"schedule": name, "function": config.name, "runs": started})

    def _start(self, schedule: ScheduleConfig, config: FunctionConfig, time_ms: int) -> tuple[str, int, bytes]:
        run_id = scheduled_run_id(config, schedule.name, time_ms)
        return run_id, time_ms, schedule.event(self._partition.cipher, run_id, time_ms)

    async def _move(self, schedule: ScheduleConfig, state: ScheduleState, home: Partition) -> None:
        """Move a schedule to the partition of the runs of its function, which has got other limits since."""
        moved = change_schedule(home, schedule.name, before=None, after=schedule, state=state, by=_MOVED)
        if await self._broker.execute(moved) is not ScriptStatus.CHANGED:
            left = change_schedule(self._partition, schedule.name, before=schedule, after=None, by=_MOVED)
            await self._broker.execute(left)
