"""CompletionConsumer: processes finished events, so that the end of every child wakes its parent.

The worker that ends a child resolves the step of its parent in the same round trip. If it dies in between, the event on
the stream remains: every worker reads the stream, and takes over events that another worker read and did not process.

Messages to other partitions are delivered in tasks of their own, because the node of a partition may be unreachable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import assert_never

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.operation import arun_operation
from stepflow_broker.redis_client.pipelined_connection import fresh_context
from stepflow_broker.transitions.invokes.invokes import Resolved, wake_parent
from stepflow_broker.transitions.invokes.outbox import (
    ChildCancelled,
    EndedBatch,
    EndedRun,
    Finished,
    Message,
    RemoteChildFinished,
    StartChild,
    read_finished,
    take_over_finished,
)
from stepflow_broker.transitions.invokes.remote_invokes import deliver
from stepflow_broker.transitions.runs.batches import end_batch
from stepflow_engine.encryption_scopes import open_memo
from stepflow_engine.errors import BackendUnavailableError, CorruptDataError, DecryptionError, StepflowError
from stepflow_engine.memo import read_memo
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.state.run_cache import RunCache

__all__ = ["CompletionConsumer"]

_log = logging.getLogger(WORKER_LOGGER)
_TAKE_OVER_MS = 10_000
_LIMIT = 500
_DELIVERY_WAIT_S = 0.2
"""How long a caller waits for a delivery to another partition."""


class CompletionConsumer:
    """Wakes parents, for one worker.

    Args:
        cache: the runs in the memory of this worker, which get their memos at once.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition, worker: str, cache: RunCache) -> None:
        self._broker = broker
        self._partition = partition
        self._worker = worker
        self._cache = cache
        self._deliveries: dict[Message, asyncio.Task[None]] = {}

    async def prepare(self, partition: Partition) -> None:
        """Create the stream of a partition and its group, if they do not exist."""
        with contextlib.suppress(BackendUnavailableError):  # they exist already
            await self._broker.execute(create_group(partition.keys, "FINISHED"))

    async def wake(self, child: str) -> None:
        """Wake the parent of a child that has ended."""
        resolved = await self._broker.execute(wake_parent(self._partition, child, worker=self._worker))
        if resolved is not None:
            self.apply_resolved(resolved)

    async def end_batch(self, batch: str) -> None:
        """Process the runs of a batch that has ended."""
        while await self._broker.execute(end_batch(self._partition, batch)):
            pass
        if len(self._partition.all) > 1:  # parents of these runs may live elsewhere
            await self.process_new(self._partition.of(batch))

    async def deliver(self, partition: Partition, messages: Iterable[Message]) -> None:
        """Deliver messages of a partition to others. The caller waits only a short time; the delivery continues.

        A message that cannot be delivered stays on its stream.
        """
        tasks = [self._delivery(partition, message) for message in messages if message not in self._deliveries]
        if tasks:
            await asyncio.wait(tasks, timeout=_DELIVERY_WAIT_S)

    def _delivery(self, partition: Partition, message: Message) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._deliver(partition, message), context=fresh_context())
        self._deliveries[message] = task
        task.add_done_callback(lambda _task: self._deliveries.pop(message))
        return task

    async def _deliver(self, partition: Partition, message: Message) -> None:
        try:
            resolved = await arun_operation(self._broker, deliver(partition, message, worker=self._worker))
        except StepflowError as error:
            _log.warning("message_not_delivered", extra={"run_id": message.child, "error": str(error)})
        else:
            if resolved is not None:
                self.apply_resolved(resolved)

    def apply_resolved(self, resolved: Resolved) -> None:
        """Apply the memo to the parent, if it is in memory. If the memo cannot be decrypted, drop the parent."""
        run = self._cache.get(resolved.run_id)
        if run is None:
            return
        try:
            memo = open_memo(self._partition.cipher, resolved.run_id, resolved.key, read_memo(resolved.memo))
        except (DecryptionError, CorruptDataError):
            self._cache.drop(run)
        else:
            run.apply_memo(resolved.position, resolved.key, memo, len(resolved.memo))

    async def process_new(self, partition: Partition) -> None:
        """Process the new finished events of a partition."""
        await self._process(partition, read_finished(partition, self._worker, limit=_LIMIT))

    async def take_over(self, partition: Partition) -> None:
        """Process the finished events of a partition that a worker read and did not process, because it died."""
        await self._process(partition, take_over_finished(partition, self._worker, idle_ms=_TAKE_OVER_MS, limit=_LIMIT))

    async def _process(self, partition: Partition, call: Command[list[Finished]]) -> None:
        try:
            events = await self._broker.execute(call)
        except BackendUnavailableError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.prepare(partition)  # the server was emptied, or lost the group
            return
        messages: list[Message] = []
        handled = []
        for event in events:
            match event:
                case EndedRun(child):
                    handled.append(self.wake(child))
                case EndedBatch(batch):
                    handled.append(self.end_batch(batch))
                case RemoteChildFinished() | StartChild() | ChildCancelled():
                    messages.append(event)
                case other:
                    assert_never(other)
        await asyncio.gather(*handled, self.deliver(partition, messages))
