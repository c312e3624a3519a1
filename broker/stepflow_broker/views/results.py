"""Waiting for the end of a run.

An event loop has one subscriber for each partition, and so has a process for all its threads. A subscriber has one
connection, however many waiters it has, and `RunEndWaits` says what it subscribes to. Waiters never use the connection.
A wait costs three reads of the status and two commands on the connection, however long it lasts; more only if the
connection is lost, or every 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from redis import exceptions

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.errors import server_error
from stepflow_broker.redis_client.pipelined_connection import fresh_context
from stepflow_broker.redis_client.retry import backoff_s, is_retryable
from stepflow_broker.redis_client.subscriptions import AsyncSubscription, Subscription
from stepflow_broker.transitions.runs.run_state import read_status
from stepflow_broker.views.run_end_waits import RunEndWaits, Wake
from stepflow_engine.errors import BackendUnavailableError
from stepflow_engine.product import NAME
from stepflow_engine.run_loop import end_tasks
from stepflow_engine.state_machine import RunStatus

__all__ = ["AsyncRunEndSubscriber", "RunEndSubscriber"]

_RECHECK_S = 30.0
"""How often a waiter reads the status without a message, in case its connection is dead and reports no error."""
_CONFIRM_S = 5.0
"""How often a waiter reads the status as long as its subscription is not confirmed."""
_AWAY_S = 15.0
"""How long the server may be unavailable before a waiter gives up: longer than a failover takes."""
_IDLE_S = 10.0
"""How long the thread of a subscriber, and its connection, are kept without a waiter."""


class _Losses:
    """How often the connection of a subscriber was lost, or could not be made, since the server has last replied."""

    def __init__(self) -> None:
        self.count = 0
        self._since = 0.0

    def add(self) -> None:
        if not self.count:
            self._since = time.monotonic()
        self.count += 1

    def is_final(self, error: Exception) -> bool:
        """Whether the waiters get the error: trying again is no use, or has been none for too long."""
        return not is_retryable(error) or time.monotonic() - self._since >= _AWAY_S


def _give_up_at(now: float, deadline: float | None) -> float:
    return now + _AWAY_S if deadline is None else min(now + _AWAY_S, deadline)


def _is_final(status: RunStatus | None, now: float, deadline: float | None) -> bool:
    """Whether there is nothing to wait for: the run has ended or does not exist, or the time is over."""
    return status is None or status.ended or (deadline is not None and now >= deadline)


def _pause_s(now: float, deadline: float | None, *, confirmed: bool) -> float:
    """How long to wait for a message before the status is read anyway."""
    longest = _RECHECK_S if confirmed else _CONFIRM_S
    return longest if deadline is None else min(longest, deadline - now)


class AsyncRunEndSubscriber:
    """Waits for the ends of runs of one partition, for one event loop.

    Args:
        broker: the broker of the event loop.
        partition: the partition of the runs.

    Attributes:
        waits: the waiters.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition) -> None:
        self._broker = broker
        self._partition = partition
        self.waits = RunEndWaits(partition.keys("RUN_ENDED"))
        self._connection: AsyncSubscription | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._update_set = False
        self._is_closed = False
        self._losses = _Losses()

    async def wait(self, run_id: str, timeout_s: float | None) -> RunStatus | None:
        """Wait until a run has ended or the timeout is over, and return its status; ``None`` if there is no such run.

        Args:
            run_id: the run.
            timeout_s: the timeout in seconds; ``None``: no timeout.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        status = await self._broker.execute(read_status(self._partition, run_id))
        if _is_final(status, loop.time(), deadline):
            return status
        woken = asyncio.Event()
        errors: list[Exception] = []

        def wake(error: Exception | None) -> None:
            if error is not None:
                errors.append(error)
            woken.set()

        self.waits.add(run_id, wake)
        self._update_soon()
        if self.waits.is_confirmed(run_id):
            woken.set()
        try:
            while not _is_final(status, loop.time(), deadline):
                with contextlib.suppress(TimeoutError):
                    pause_s = _pause_s(loop.time(), deadline, confirmed=self.waits.is_confirmed(run_id))
                    async with asyncio.timeout(pause_s):
                        await woken.wait()
                woken.clear()
                if errors:
                    raise errors[0]
                status = await self._read_patiently(run_id, deadline)
            return status
        finally:
            self.waits.discard(run_id, wake)
            self._update_soon()

    async def _read_patiently(self, run_id: str, deadline: float | None) -> RunStatus | None:
        loop = asyncio.get_running_loop()
        give_up_at = _give_up_at(loop.time(), deadline)
        while True:
            try:
                return await self._broker.execute(read_status(self._partition, run_id))
            except BackendUnavailableError:
                if loop.time() >= give_up_at:
                    raise

    # -- the connection ----------------------------------------------------------

    def _update_soon(self) -> None:
        """Send what is missing, with the changes of all waiters of this turn of the loop."""
        if not self._update_set:
            self._update_set = True
            asyncio.get_running_loop().call_soon(self._update, context=fresh_context())

    def _update(self) -> None:
        self._update_set = False
        if self._connection is not None:
            if self._is_closed and not self.waits:
                self._connection.close()
            elif commands := self.waits.commands():
                self._connection.send(commands)
        elif self.waits and self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), context=fresh_context())

    async def _connect(self) -> None:
        try:
            while self.waits:
                if self._losses.count:
                    await asyncio.sleep(backoff_s(self._losses.count))
                connection = AsyncSubscription(self._on_reply, self._on_lost)
                try:
                    await connection.open(self._broker.client(self._partition.keys))
                except (exceptions.RedisError, OSError) as error:
                    self._losses.add()
                    if self._losses.is_final(error):
                        self.waits.fail(server_error(error, self._broker.url, "subscribe"))
                else:
                    self._connection = connection
                    self._update()
                    return
        finally:
            self._connecting = None

    def _on_reply(self, reply: Any) -> None:
        self._losses.count = 0
        if isinstance(reply, Exception):
            self.waits.fail(server_error(reply, self._broker.url, "subscribe"))
        else:
            self.waits.receive(reply)

    def _on_lost(self) -> None:
        self._connection = None
        self._losses.add()
        self.waits.forget_subscriptions()
        if self.waits:
            self._update()

    async def close(self) -> None:
        """Close the connection, when there is no waiter left."""
        self._is_closed = True
        if self.waits:
            return
        if self._connecting is not None:
            await end_tasks([self._connecting])
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)  # the transport closes its socket in the next turn of the loop

    def drop(self) -> None:
        """Close the connection at once, even if its event loop has ended."""
        if self._connection is not None:
            self._connection.drop()
            self._connection = None


class RunEndSubscriber:
    """Waits for the ends of runs of one partition, for all threads of a process.

    One thread has the connection. It starts with the first waiter, and ends when there has been none for ten seconds.

    Args:
        broker: the broker of the process.
        partition: the partition of the runs.

    Attributes:
        waits: the waiters.
    """

    def __init__(self, broker: Broker, partition: Partition) -> None:
        self._broker = broker
        self._partition = partition
        self.waits = RunEndWaits(partition.keys("RUN_ENDED"))
        self._lock = threading.RLock()  # a signal handler may wait, too, while its thread has the lock
        self._connection: Subscription | None = None
        self._thread: threading.Thread | None = None
        self._losses = _Losses()
        self._is_closed = False

    def wait(self, run_id: str, timeout_s: float | None) -> RunStatus | None:
        """Block until a run has ended or the timeout is over, and return its status; ``None`` if there is no such run.

        Args:
            run_id: the run.
            timeout_s: the timeout in seconds; ``None``: no timeout.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        status = self._broker.execute(read_status(self._partition, run_id))
        if _is_final(status, time.monotonic(), deadline):
            return status
        woken = threading.Event()
        errors: list[Exception] = []

        def wake(error: Exception | None) -> None:
            if error is not None:
                errors.append(error)
            woken.set()

        with self._registered(run_id, wake):
            if self.waits.is_confirmed(run_id):
                woken.set()
            while not _is_final(status, time.monotonic(), deadline):
                woken.wait(_pause_s(time.monotonic(), deadline, confirmed=self.waits.is_confirmed(run_id)))
                woken.clear()
                if errors:
                    raise errors[0]
                status = self._read_patiently(run_id, deadline)
        return status

    @contextlib.contextmanager
    def _registered(self, run_id: str, wake: Wake) -> Iterator[None]:
        try:
            with self._lock:
                self.waits.add(run_id, wake)
                self._wake_thread()
            yield
        finally:
            with self._lock:
                self.waits.discard(run_id, wake)
                self._wake_thread()

    def _read_patiently(self, run_id: str, deadline: float | None) -> RunStatus | None:
        give_up_at = _give_up_at(time.monotonic(), deadline)
        while True:
            try:
                return self._broker.execute(read_status(self._partition, run_id))
            except BackendUnavailableError:
                if time.monotonic() >= give_up_at:
                    raise

    # -- the thread --------------------------------------------------------------

    def _wake_thread(self) -> None:
        if self._connection is not None:
            self._connection.wake()
        if self._thread is None and self.waits:
            self._thread = threading.Thread(target=self._serve, name=f"{NAME}-run-ends", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the process may have no more threads
                self._thread = None
                raise

    def _serve(self) -> None:
        try:
            while self._is_needed():
                self._serve_on_one_connection()
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _serve_on_one_connection(self) -> None:
        if self._losses.count:
            time.sleep(backoff_s(self._losses.count))
        try:
            with contextlib.closing(Subscription(self._broker.client(self._partition.keys))) as connection:
                connection.open()
                with self._lock:
                    self._connection = connection
                self._listen(connection)
        except (exceptions.RedisError, OSError) as error:
            self._losses.add()
            if self._losses.is_final(error):
                self._fail(error)
        finally:
            with self._lock:
                self._connection = None
                self.waits.forget_subscriptions()

    def _is_needed(self) -> bool:
        """Whether there is a waiter. If not, the thread ends; the next waiter starts another."""
        with self._lock:
            if self.waits:
                return True
            self._thread = None
            return False

    def _listen(self, connection: Subscription) -> None:
        """Serve the waiters until there has been none for a while."""
        idle_at = time.monotonic() + _IDLE_S
        while True:
            with self._lock:
                commands = self.waits.commands()
            connection.send(commands)
            for reply in connection.receive(_IDLE_S):
                self._losses.count = 0
                if isinstance(reply, Exception):
                    self._fail(reply)
                    continue
                with self._lock:
                    self.waits.receive(reply)
            now = time.monotonic()
            if self.waits:
                idle_at = now + _IDLE_S
            elif self._is_closed or now >= idle_at:
                return

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self.waits.fail(server_error(error, self._broker.url, "subscribe"))

    def close(self) -> None:
        """Close the connection, when there is no waiter left."""
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                self._connection.wake()
