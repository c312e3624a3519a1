"""The connections of a client: one blocking broker per process, and one asyncio broker per event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TypeVar

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.connection import DEFAULT_URL
from stepflow_broker.redis_client.partitions import check_partitions, keys_for, read_partitions, refuse_other
from stepflow_broker.redis_client.replication import AsyncReplicator, run_replicated
from stepflow_broker.views.results import RunEndSubscriber, wait_for_end
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.errors import StepUsageError
from stepflow_engine.product import REDIS_URL
from stepflow_engine.run_loop import is_run_loop

__all__ = ["Backend"]

T = TypeVar("T")
_OfLoop = tuple[AsyncBroker, dict[Keys, RunEndSubscriber]]
"""The broker of an event loop, and its subscribers by partition."""


class Backend:
    """The connections of a client. They are opened on first use, so creating an app does not connect to Redis.

    Args:
        url: the URL of the server; ``None``: ``STEPFLOW_REDIS_URL``, else ``redis://127.0.0.1:6379/0``.
        retention_ms: how long an ended run is kept, in milliseconds.
        cipher: seals and opens payloads.
        replica_timeout_ms: how long to wait for a replica to confirm a write, in milliseconds; 0: do not wait.
    """

    def __init__(
        self, url: str | None, *, retention_ms: int, cipher: Cipher = NO_ENCRYPTION, replica_timeout_ms: int = 0
    ) -> None:
        self.cipher = cipher
        self.retention_ms = retention_ms
        self._replica_timeout_ms = replica_timeout_ms
        self._url = url
        self._keys: tuple[str, Keys] | None = None
        self._agreed_at = ""
        self._lock = threading.Lock()
        self._broker: tuple[int, Broker] | None = None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = weakref.WeakKeyDictionary()
        self._replicators: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncReplicator] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def url(self) -> str:
        """The URL of the server."""
        return self._url or os.environ.get(REDIS_URL) or DEFAULT_URL

    @property
    def broker(self) -> Broker:
        """The blocking broker of this process; a forked child makes its own."""
        with self._lock:
            if self._broker is None or self._broker[0] != os.getpid():
                self._broker = (os.getpid(), Broker(self.url))
            return self._broker[1]

    @property
    def keys(self) -> Keys:
        """The keys of the server's first partition."""
        url = self.url
        if self._keys is None or self._keys[0] != url:
            self._keys = (url, keys_for(url))
        return self._keys[1]

    @property
    def abroker(self) -> AsyncBroker:
        """The asyncio broker of the running event loop."""
        return self._of_loop()[0]

    def deliver(self, calls: Sequence[Command[T]]) -> list[T]:
        """Send commands that create something, in one round trip. On return, they have the durability of the app.

        Raises:
            ReplicationError: no replica has confirmed the commands in time.
            BackendUnavailableError: the server does not answer.
            ConfigurationError: the number of partitions in the URL differs from that of the server.
        """
        if self._agreed_at != self.url:
            check_partitions(self.broker, self.keys, decide=len(self.keys.all) > 1)
            self._agreed_at = self.url
        if not self._replica_timeout_ms:
            return self.broker.execute_all(calls)
        return run_replicated(self.broker, self.keys, calls, timeout_ms=self._replica_timeout_ms)

    async def adeliver(self, calls: Sequence[Command[T]]) -> list[T]:
        """The asyncio twin of `deliver`."""
        if self._agreed_at != self.url:
            refuse_other(await self.abroker.execute(read_partitions(self.keys)), self.keys, self.url)
            self._agreed_at = self.url
        if not self._replica_timeout_ms:
            return await self.abroker.execute_all(calls)
        loop = asyncio.get_running_loop()
        replicator = self._replicators.get(loop)
        if replicator is None:
            replicator = AsyncReplicator(self.broker, self.keys, timeout_ms=self._replica_timeout_ms)
            self._replicators[loop] = replicator
        return await replicator.execute_all(calls)

    @staticmethod
    def refuse_to_block(call: str, instead: str) -> None:
        """Refuse a blocking wait in the event loop of a worker: a run that it waits for may need the same worker.

        Args:
            call: the method that would block.
            instead: the code to write instead.

        Raises:
            StepUsageError: the caller runs in the event loop of a worker.
        """
        if is_run_loop():
            raise StepUsageError(
                f"{call} would block the event loop of the worker: write {instead}, or call it in a plain def"
            )

    def wait(self, run_id: str, timeout_ms: int | None) -> None:
        """Block until the run has ended, or for ``timeout_ms`` milliseconds; ``None``: no limit."""
        wait_for_end(self.broker, self.keys, run_id, None if timeout_ms is None else timeout_ms / 1000)

    async def await_end(self, run_id: str, timeout_ms: int | None) -> None:
        """The asyncio twin of `wait`."""
        broker, subscribers = self._of_loop()
        keys = self.keys.of(run_id)
        if keys not in subscribers:
            subscribers[keys] = RunEndSubscriber(broker, keys)
        await subscribers[keys].wait(run_id, None if timeout_ms is None else timeout_ms / 1000)

    def _of_loop(self) -> _OfLoop:
        loop = asyncio.get_running_loop()
        connections = self._loops.get(loop)
        if connections is None:
            connections = self._loops[loop] = (AsyncBroker(self.url), {})
        return connections

    def close(self) -> None:
        """Close the blocking connections of this process."""
        with self._lock:
            if self._broker is not None:
                self._broker[1].close()
                self._broker = None

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        connections = self._loops.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            broker, subscribers = connections
            await asyncio.gather(*[subscriber.close() for subscriber in subscribers.values()])
            await broker.close()
