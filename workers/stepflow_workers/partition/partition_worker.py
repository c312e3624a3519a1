"""The partition workers: what a worker has once for each partition. On a server that is not divided there is one.

Each takes jobs, routes events, fires timers and sees to finished runs in its partition, and none waits for another: a
node of a cluster that is away holds up nothing but its own partitions. They share the worker's slots, and take turns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from stepflow_broker.protocol.keys import Keys
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.consumers.event_router import Router
from stepflow_workers.partition.dispatcher import Dispatcher
from stepflow_workers.partition.notifications import NotificationListener
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["PartitionWorker", "PartitionWorkers"]

_log = logging.getLogger("stepflow.worker")


@dataclass(frozen=True, slots=True)
class PartitionWorker:
    """What a worker has for one partition."""

    dispatcher: Dispatcher
    router: Router
    notifications: NotificationListener


class PartitionWorkers:
    """Those of all partitions of one worker.

    Args:
        build: makes the partition worker of a partition.
    """

    def __init__(
        self, state: WorkerState, completions: CompletionConsumer, build: Callable[[Keys], PartitionWorker]
    ) -> None:
        self._state = state
        self._keys = keys = state.keys
        self._completions = completions
        self._found = {one: build(one) for one in keys.all}
        self._dispatchers = [partition_worker.dispatcher for partition_worker in self._found.values()]
        self._next = 0
        state.signals.subscribe(self)

    async def run(self) -> None:
        """Work until `stop`, or, in burst mode, until nothing is left: what is done in one may make work in another."""
        last = -1
        while not self._state.stopping and last != (last := self._claimed):
            await asyncio.gather(
                *[self._work(keys, partition_worker) for keys, partition_worker in self._found.items()]
            )

    @property
    def _claimed(self) -> int:
        return sum(dispatcher.claimed for dispatcher in self._dispatchers)

    async def _work(self, keys: Keys, partition_worker: PartitionWorker) -> None:
        await partition_worker.router.prepare()
        await self._completions.prepare(keys)
        await partition_worker.dispatcher.run()

    async def finish(self, grace_s: float) -> None:
        """Wait for the jobs at hand; after ``grace_s`` seconds, hand back those that are left."""
        await asyncio.gather(*[dispatcher.settle(grace_s) for dispatcher in self._dispatchers])
        left = [lease for dispatcher in self._dispatchers for lease in dispatcher.drop_jobs()]
        self._state.runs.close()
        if left:
            _log.warning("jobs_released", extra={"count": len(left)})
            await self._state.release(left)

    def listen(self) -> list[asyncio.Task[None]]:
        """Begin to listen to messages and to route events, until these tasks are cancelled."""
        loop = asyncio.get_running_loop()
        return [
            loop.create_task(listening)
            for partition_worker in self._found.values()
            for listening in (partition_worker.notifications.run(), partition_worker.router.run())
        ]

    def stop(self) -> None:
        """Take no more jobs."""
        for dispatcher in self._dispatchers:
            dispatcher.stop()

    @property
    def job_count(self) -> int:
        """How many jobs are at hand."""
        return sum(dispatcher.job_count for dispatcher in self._dispatchers)

    def slot_freed(self) -> None:
        """A slot is free: the next partition worker that may have jobs looks."""
        for n in range(self._next, self._next + len(self._dispatchers)):
            dispatcher = self._dispatchers[n % len(self._dispatchers)]
            if dispatcher.wants_slots:
                self._next = n + 1
                dispatcher.wake()
                return

    def job_queued(self, run_id: str) -> None:
        """A job was queued for a run by this worker, which may as well take it itself."""
        self._found[self._keys.of(run_id)].dispatcher.wake(has_jobs=True)

    def timer_set(self, run_id: str, delay_ms: int) -> None:
        """A timer was set for a run by this worker."""
        self._found[self._keys.of(run_id)].dispatcher.timer_set(delay_ms)

    def on_lost(self, jobs: list[str]) -> None:
        """The leases of these jobs are another's: let go of them."""
        self._dispatchers[0].on_lost(jobs)
