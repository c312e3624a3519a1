"""The connections of a client: those of one process, which its threads share, and those of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.pipelined_connection import fresh_context
from stepflow_broker.redis_client.replication import AsyncReplicator
from stepflow_broker.views.results import AsyncRunEndSubscriber, RunEndSubscriber

__all__ = ["LoopConnections", "ProcessConnections"]

_CLOSE_S = 1.0
"""How long the end of an event loop waits for commands that were sent and have no reply."""


class ProcessConnections:
    """The blocking connections of a process.

    Args:
        url: the URL of the server.

    Attributes:
        url: the URL of the server.
        broker: sends commands.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.broker = Broker(url)
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may ask, too, while its thread has the lock
        self._subscribers: dict[Partition, RunEndSubscriber] = {}

    def is_of(self, url: str) -> bool:
        """Whether these are connections of this process to this server. A forked process needs its own."""
        return self.url == url and self._pid == os.getpid()

    def subscriber(self, partition: Partition) -> RunEndSubscriber:
        """Waits for the ends of the runs of a partition."""
        with self._lock:
            if partition not in self._subscribers:
                self._subscribers[partition] = RunEndSubscriber(self.broker, partition)
            return self._subscribers[partition]

    def close(self) -> None:
        """Close the connections, unless a parent process uses them; those of calls that go on, when these end."""
        if self._pid != os.getpid():
            return
        with self._lock:
            for subscriber in self._subscribers.values():
                subscriber.close()
        self.broker.close()


class LoopConnections:
    """The connections of the running event loop. They are closed when the loop shuts down.

    `asyncio.run` shuts down the asynchronous generators of its loop at its end, and so do `asyncio.Runner` and the
    servers that use them. These connections are closed by such a generator. A loop that is closed without it leaves
    them to `drop`.

    Args:
        url: the URL of the server.

    Attributes:
        url: the URL of the server.
        broker: sends commands.
        replicator: sends commands that a replica has to confirm; ``None``: not used so far.
        is_closed: whether they were closed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.broker = AsyncBroker(url)
        self.replicator: AsyncReplicator | None = None
        self.is_closed = False
        self._subscribers: dict[Partition, AsyncRunEndSubscriber] = {}
        self._closing: asyncio.Task[None] | None = None
        self._end = self._close_at_the_end()
        with contextlib.suppress(StopIteration):  # it yields without waiting; from now on the loop knows it
            self._end.__anext__().send(None)

    def subscriber(self, partition: Partition) -> AsyncRunEndSubscriber:
        """Waits for the ends of the runs of a partition."""
        if partition not in self._subscribers:
            self._subscribers[partition] = AsyncRunEndSubscriber(self.broker, partition)
        return self._subscribers[partition]

    @property
    def waits(self) -> int:
        """How many waiters there are."""
        return sum(len(subscriber.waits) for subscriber in self._subscribers.values())

    async def close(self) -> None:
        """Send the waiting commands, then close the connections; those of calls that go on, when these end."""
        await self._end.aclose()

    def close_soon(self) -> None:
        """Close the connections in a task of the running event loop."""
        self._closing = asyncio.get_running_loop().create_task(self.close(), context=fresh_context())

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.is_closed = True
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await asyncio.gather(*[subscriber.close() for subscriber in self._subscribers.values()])
                    await self.broker.close()
            except TimeoutError:
                self.drop()
            except BaseException:
                self.drop()
                raise
            await asyncio.sleep(0)  # so that nothing is left to do for the loop

    def drop(self) -> None:
        """Close the connections at once, even if the event loop has ended."""
        for subscriber in self._subscribers.values():
            subscriber.drop()
        self.broker.drop()
