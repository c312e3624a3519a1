"""The server of a client: its partitions, and which connections a process and an event loop use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TypeVar

from stepflow.client.connections import LoopConnections, ProcessConnections
from stepflow.client.function_names import DeclaredFunctions
from stepflow_broker.protocol.clock import REAL_CLOCK, Clock
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.connection import DEFAULT_URL
from stepflow_broker.redis_client.partitions import check_partitions, partition_for, read_partitions, refuse_other
from stepflow_broker.redis_client.replication import AsyncReplicator, run_replicated
from stepflow_engine.cipher import Cipher
from stepflow_engine.errors import BackendUnavailableError, StepUsageError
from stepflow_engine.product import REDIS_URL
from stepflow_engine.run_loop import is_run_loop

__all__ = ["Backend"]

T = TypeVar("T")


class Backend:
    """The server of a client. Connections are opened on first use, so creating an app does not connect to Redis.

    The connections of an event loop are closed when the loop shuts down. Those of loops that were closed without it are
    closed when another loop needs connections. If the URL in the environment changes, calls go to the new server.

    Args:
        url: the URL of the server; ``None``: ``STEPFLOW_REDIS_URL``, else ``redis://127.0.0.1:6379/0``.
        retention_ms: how long an ended run is kept, in milliseconds.
        cipher: seals and opens payloads.
        declared: the functions that this process has declared.
        actor: who acts, for the audit log: by default the app.
        replica_timeout_ms: how long to wait for a replica to confirm a write, in milliseconds; 0: do not wait.
    """

    def __init__(
        self,
        url: str | None,
        *,
        retention_ms: int,
        cipher: Cipher,
        declared: DeclaredFunctions,
        replica_timeout_ms: int = 0,
    ) -> None:
        self.cipher = cipher
        self.declared = declared
        self.retention_ms = retention_ms
        self.actor = declared.app_id
        self._replica_timeout_ms = replica_timeout_ms
        self._url = url
        self._clock = REAL_CLOCK
        self._partition: tuple[str, Partition] | None = None
        self._agreed_at = ""
        self._lock = threading.RLock()  # a signal handler may use the client, too, while its thread has the lock
        self._process: ProcessConnections | None = None
        self._loops: dict[asyncio.AbstractEventLoop, LoopConnections] = {}

    @property
    def url(self) -> str:
        """The URL of the server."""
        return self._url or os.environ.get(REDIS_URL) or DEFAULT_URL

    @contextlib.contextmanager
    def moved(self, url: str, clock: Clock) -> Iterator[None]:
        """Use another server with another clock, within a block. A test moves the app of a module with it."""
        before = self._url, self._clock
        self._url, self._clock, self._partition = url, clock, None
        try:
            yield
        finally:
            (self._url, self._clock), self._partition = before, None

    @property
    def broker(self) -> Broker:
        """The blocking broker of this process; a forked child makes its own."""
        return self._of_process().broker

    @property
    def partition(self) -> Partition:
        """The first partition of the server."""
        url = self.url
        if self._partition is None or self._partition[0] != url:
            self._partition = (url, partition_for(url, self.cipher, self._clock))
        return self._partition[1]

    @property
    def abroker(self) -> AsyncBroker:
        """The asyncio broker of the running event loop."""
        return self._of_loop().broker

    def deliver(self, calls: Sequence[Command[T]]) -> list[T]:
        """Send commands that create something, in one round trip. On return, they have the durability of the app.

        Raises:
            ReplicationError: no replica has confirmed the commands in time.
            BackendUnavailableError: the server does not answer.
            ConfigurationError: the number of partitions in the URL differs from that of the server.
        """
        if self._agreed_at != self.url:
            check_partitions(self.broker, self.partition.keys, decide=len(self.partition.all) > 1)
            self._agreed_at = self.url
        if not self._replica_timeout_ms:
            return self.broker.execute_all(calls)
        return run_replicated(self.broker, self.partition.keys, calls, timeout_ms=self._replica_timeout_ms)

    async def adeliver(self, calls: Sequence[Command[T]]) -> list[T]:
        """The asyncio twin of `deliver`."""
        if self._agreed_at != self.url:
            await self._acheck_partitions()
            self._agreed_at = self.url
        if not self._replica_timeout_ms:
            return await self.abroker.execute_all(calls)
        connections = self._of_loop()
        if connections.replicator is None:
            timeout_ms = self._replica_timeout_ms
            connections.replicator = AsyncReplicator(self.broker, self.partition.keys, timeout_ms=timeout_ms)
        return await connections.replicator.execute_all(calls)

    async def _acheck_partitions(self) -> None:
        """The asyncio twin of `check_partitions`."""
        keys = self.partition.keys
        try:
            agreed = await self.abroker.execute(read_partitions(keys))
        except BackendUnavailableError:
            if len(self.partition.all) == 1:
                raise
        else:
            refuse_other(agreed, keys, self.url)

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
        subscriber = self._of_process().subscriber(self.partition.of(run_id))
        subscriber.wait(run_id, None if timeout_ms is None else timeout_ms / 1000)

    async def await_end(self, run_id: str, timeout_ms: int | None) -> None:
        """The asyncio twin of `wait`."""
        subscriber = self._of_loop().subscriber(self.partition.of(run_id))
        await subscriber.wait(run_id, None if timeout_ms is None else timeout_ms / 1000)

    # -- connections -------------------------------------------------------------

    def _of_process(self) -> ProcessConnections:
        url = self.url
        with self._lock:
            process = self._process  # a signal handler may close the client before the next line
            if process is None or not process.is_of(url):
                former, self._process = process, (process := ProcessConnections(url))
                if former is not None:
                    former.close()
            return process

    def _of_loop(self) -> LoopConnections:
        loop, url = asyncio.get_running_loop(), self.url
        connections = self._loops.get(loop)
        if connections is not None and connections.url == url and not connections.is_closed:
            return connections
        self._drop_ended_loops()
        if connections is not None:
            connections.close_soon()
        self._loops[loop] = LoopConnections(url)
        return self._loops[loop]

    def _drop_ended_loops(self) -> None:
        """Drop the connections of closed loops. Those of a loop that is being shut down belong to its thread."""
        for loop, connections in list(self._loops.items()):
            if loop.is_closed():
                self._loops.pop(loop, None)
                connections.drop()

    def close(self) -> None:
        """Close the blocking connections of this process, and those of event loops that have ended."""
        self._drop_ended_loops()
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and those that `close` closes."""
        connections = self._loops.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.close()
        self.close()
