"""PartitionWorkers: what a worker has once per partition. On a server without partitions there is one.

Each claims jobs, routes events, fires timers and processes finished runs in its partition, and none waits for another:
an unreachable node of a cluster stops only its own partitions. They share the slots of the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from stepflow_broker.protocol.partition import Partition
from stepflow_engine.errors import BackendUnavailableError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.consumers.event_router import Router
from stepflow_workers.partition.dispatcher import Dispatcher
from stepflow_workers.partition.notifications import NotificationListener
from stepflow_workers.state.log_throttle import LogThrottle
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["PartitionWorker", "PartitionWorkers"]

_log = logging.getLogger(WORKER_LOGGER)
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class PartitionWorker:
    """What a worker has for one partition.

    Attributes:
        register: registers the functions in the partition, unless the worker has already done so.
    """

    dispatcher: Dispatcher
    router: Router
    notifications: NotificationListener
    register: Callable[[], Awaitable[None]]


class PartitionWorkers:
    """The partition workers of one worker.

    Args:
        members: one for each partition.
    """

    def __init__(
        self, state: WorkerState, completions: CompletionConsumer, members: Mapping[Partition, PartitionWorker]
    ) -> None:
        self._state = state
        self._completions = completions
        self._members = members
        self._dispatchers = [member.dispatcher for member in members.values()]
        self._unprepared_log = LogThrottle()
        self._preparing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until `stop`, or, in burst mode, until nothing is left. One partition may make work for another."""
        last = -1
        while not self._state.stopping and last != (last := self._claimed):
            await asyncio.gather(*[self._work(partition, member) for partition, member in self._members.items()])

    @property
    def _claimed(self) -> int:
        return sum(dispatcher.claimed for dispatcher in self._dispatchers)

    async def _work(self, partition: Partition, member: PartitionWorker) -> None:
        if await self._is_prepared(partition, member):
            await member.dispatcher.run()

    async def _is_prepared(self, partition: Partition, member: PartitionWorker) -> bool:
        """Prepare the work in a partition, when it is there; false if the worker stops before."""
        task = asyncio.get_running_loop().create_task(self._prepare(partition, member))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        try:
            await task
        except asyncio.CancelledError:
            if not self._state.stopping:
                raise
            return False
        return True

    async def _prepare(self, partition: Partition, member: PartitionWorker) -> None:
        """Prepare the work in a partition. If a cluster has lost its node, wait for it; the others work meanwhile."""
        while True:
            try:
                await member.register()
                await member.router.prepare()
                await self._completions.prepare(partition)
                return
            except BackendUnavailableError as error:
                if len(self._members) == 1 or self._state.settings.burst:
                    raise
                if self._unprepared_log.allows(str(error)):
                    _log.warning("server_unavailable", extra={"error": str(error)})
                await asyncio.sleep(_PAUSE_S)

    async def finish(self, grace_s: float) -> None:
        """Wait for the running jobs; after ``grace_s`` seconds, release those that are left."""
        await asyncio.gather(*[dispatcher.settle(grace_s) for dispatcher in self._dispatchers])
        self._state.store_heartbeats()
        left = [lease for dispatcher in self._dispatchers for lease in dispatcher.drop_jobs()]
        self._state.cache.close()
        if left:
            _log.warning("jobs_released", extra={"count": len(left)})
            await self._state.release(left)

    def listen(self) -> list[asyncio.Task[None]]:
        """Start to listen to notifications and to route events, until the caller cancels the tasks."""
        loop = asyncio.get_running_loop()
        return [
            loop.create_task(listening)
            for member in self._members.values()
            for listening in (member.notifications.run(), member.router.run())
        ]

    def clock_set(self) -> None:
        """Do what is due now: a test has set the clock."""
        for dispatcher in self._dispatchers:
            dispatcher.clock_set()

    @property
    def has_followed(self) -> bool:
        """Whether all periodic tasks have run since `clock_set`. Callable from any thread."""
        return all(dispatcher.has_followed for dispatcher in self._dispatchers)

    def stop(self) -> None:
        """Claim no more jobs."""
        for dispatcher in self._dispatchers:
            dispatcher.stop()
        for task in self._preparing:
            task.cancel()

    @property
    def job_count(self) -> int:
        """The number of running jobs."""
        return sum(dispatcher.job_count for dispatcher in self._dispatchers)
