"""CronTicker: starts the runs of functions with a cron schedule. Every worker ticks; each time starts one run.

Redis stores the last started time of each schedule. The script that starts the runs updates it, and the id of a run
derives from its time. The clock is the clock of the server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from stepflow import Function
from stepflow.options.cron_times import due_times, next_start
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.schedules import cron_event, partition_prefix_of, scheduled_run_id
from stepflow_broker.transitions.schedules import fire_cron, read_crons
from stepflow_engine.ids import run_id_for
from stepflow_engine.product import WORKER_LOGGER

__all__ = ["CronTicker"]

_log = logging.getLogger(WORKER_LOGGER)
_FAR_MS = 24 * 3600 * 1000
"""When a schedule without a time in the next years is looked at again."""
_SET_BACK_MS = 1_000
"""A clock that goes back by more was set back. After a failover it may go back by less."""


class CronTicker:
    """Starts the scheduled runs of the functions whose schedules belong to one partition, for one worker.

    Args:
        functions: the functions whose code this worker has. The schedules of other functions start nothing.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition, functions: Iterable[Function]) -> None:
        self._broker = broker
        self._partition = partition
        self._schedules = {
            cron.name_of(function.name): (function.config, cron)
            for function in functions
            if partition.of(partition_prefix_of(function.config)) is partition
            for cron in function.config.crons
        }
        self._next_ms = dict.fromkeys(self._schedules, 0)
        self._seen_ms = 0

    async def tick(self) -> None:
        """Start the runs that are due."""
        if not self._schedules:
            return
        now_ms = await self._broker.execute(server_time_ms(self._partition.clock))
        if now_ms < self._seen_ms - _SET_BACK_MS:  # the times that were computed then may be far in the future
            self._next_ms = dict.fromkeys(self._schedules, 0)
        self._seen_ms = now_ms
        due = [name for name, next_ms in self._next_ms.items() if next_ms <= now_ms]
        if due:
            last = await self._broker.execute(read_crons(self._partition))
            for name in due:
                await self._fire(name, last_ms=last.get(name, 0), now_ms=now_ms)

    async def _fire(self, name: str, *, last_ms: int, now_ms: int) -> None:
        config, cron = self._schedules[name]
        times = due_times(cron, after_ms=last_ms, now_ms=now_ms, name=name) if last_ms else []
        starts = [
            (scheduled_run_id(config, name, time_ms), config, self._event(name, cron, time_ms)) for time_ms in times
        ]
        started = await self._broker.execute(
            fire_cron(self._partition, name, last_ms=last_ms, until_ms=now_ms, starts=starts)
        )
        if started:
            _log.info("cron_fired", extra={"function": config.name, "runs": started})
        self._next_ms[name] = next_start(cron, after_ms=now_ms, name=name) or now_ms + _FAR_MS

    def _event(self, name: str, cron: CronConfig, time_ms: int) -> bytes:
        return cron_event(self._partition.cipher, cron, run_id_for("cron", name, str(time_ms)), time_ms)
