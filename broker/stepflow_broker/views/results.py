"""Waiting for the end of a run.

The script that ends a run publishes on the channel of that run. Each run has its own channel, so the cost of a wait
does not depend on the number of other runs. Pub/sub does not keep messages: a waiter subscribes first, reads the
status next, and reads it again whenever its connection was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from redis import exceptions

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.errors import server_error
from stepflow_broker.transitions.runs import read_status
from stepflow_engine.errors import BackendUnavailableError
from stepflow_engine.run_loop import end_tasks
from stepflow_engine.state_machine import RunStatus

__all__ = ["RunEndSubscriber", "wait_for_end"]

_RECHECK_S = 30.0
"""How often a waiter reads the status without a message, in case its connection is dead and reports no error."""
_AWAY_S = 15.0
"""How long the server may be unavailable before a waiter gives up: longer than a failover takes."""


def wait_for_end(broker: Broker, partition: Partition, run_id: str, timeout_s: float | None) -> RunStatus | None:
    """Block until a run has ended or the timeout is over, and return its status; ``None`` if there is no such run.

    Args:
        timeout_s: the timeout in seconds; ``None``: no timeout.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    status = broker.execute(read_status(partition, run_id))
    while status is not None and not status.ended:
        if deadline is not None and time.monotonic() >= deadline:
            return status
        try:
            _listen(broker, partition, run_id, deadline)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            pass  # the status is read next; that read raises if the server stays unavailable
        except exceptions.RedisError as error:
            raise server_error(error, broker.url, "subscribe") from None
        status = _read_patiently(broker, partition, run_id, deadline)
    return status


def _read_patiently(broker: Broker, partition: Partition, run_id: str, deadline: float | None) -> RunStatus | None:
    give_up_at = _give_up_at(time.monotonic(), deadline)
    while True:
        try:
            return broker.execute(read_status(partition, run_id))
        except BackendUnavailableError:
            if time.monotonic() >= give_up_at:
                raise


def _give_up_at(now: float, deadline: float | None) -> float:
    return now + _AWAY_S if deadline is None else min(now + _AWAY_S, deadline)


def _listen(broker: Broker, partition: Partition, run_id: str, deadline: float | None) -> None:
    """Return when the run has ended, the deadline is over, or the status must be read again."""
    recheck = time.monotonic() + _RECHECK_S
    until = recheck if deadline is None else min(recheck, deadline)
    with broker.client(partition.of(run_id).keys).pubsub(ignore_subscribe_messages=False) as pubsub:
        pubsub.subscribe(partition.run_key("RUN_ENDED", run_id))
        while (left := until - time.monotonic()) > 0:
            message = pubsub.get_message(timeout=left)
            if message is None:
                continue
            if message["type"] == "message":
                return
            status = broker.execute(read_status(partition, run_id))
            if status is None or status.ended:
                return


class RunEndSubscriber:
    """Waits for the ends of many runs of one partition, on one connection and one event loop.

    Args:
        broker: the broker of the event loop.
        partition: the partition of the runs.
    """

    def __init__(self, broker: AsyncBroker, partition: Partition) -> None:
        self._broker = broker
        self._partition = partition
        self._pubsub = broker.client(partition.keys).pubsub()
        self._lock = asyncio.Lock()  # without it, redis-py opens a connection for each concurrent call
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._listener: asyncio.Task[None] | None = None

    async def wait(self, run_id: str, timeout_s: float | None) -> RunStatus | None:
        """As `wait_for_end`, without blocking the loop."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        give_up_at = loop.time()
        while True:
            ended = await self._subscribe(run_id)
            try:
                status = await self._read_patiently(run_id, give_up_at)
                if status is None or status.ended:
                    return status
                left = _RECHECK_S if deadline is None else min(_RECHECK_S, deadline - loop.time())
                if left <= 0:
                    return status
                await asyncio.wait((ended,), timeout=left)
                if ended.done():
                    ended.result()  # raises the error of the server, if any
            finally:
                await self._unsubscribe(run_id, ended)
            give_up_at = _give_up_at(loop.time(), deadline)

    async def _read_patiently(self, run_id: str, give_up_at: float) -> RunStatus | None:
        while True:
            try:
                return await self._broker.execute(read_status(self._partition, run_id))
            except BackendUnavailableError:
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise

    async def _subscribe(self, run_id: str) -> asyncio.Future[None]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(run_id, set())
        waiters.add(ended)
        with contextlib.suppress(exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            async with self._lock:
                await self._pubsub.subscribe(self._partition.keys("RUN_ENDED", run_id))
        if self._listener is None or self._listener.done():
            self._listener = asyncio.get_running_loop().create_task(self._listen())
        return ended

    async def _unsubscribe(self, run_id: str, ended: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(run_id, set())
        waiters.discard(ended)
        ended.cancel()
        if not waiters:
            self._waiters.pop(run_id, None)
            with contextlib.suppress(exceptions.ConnectionError, exceptions.TimeoutError, OSError):
                async with self._lock:
                    await self._pubsub.unsubscribe(self._partition.keys("RUN_ENDED", run_id))

    async def _listen(self) -> None:
        while self._waiters:
            try:
                message = await self._pubsub.get_message(timeout=_RECHECK_S)
            except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
                await asyncio.sleep(0.2)
                self._wake_all()
                continue
            except exceptions.RedisError as error:
                self._fail_all(server_error(error, self._broker.url, "subscribe"))
                return
            if message is None:
                continue
            if message["type"] in ("message", "subscribe"):
                self._wake(message["channel"].decode().removeprefix(self._partition.keys("RUN_ENDED")))

    def _wake(self, run_id: str) -> None:
        for ended in self._waiters.get(run_id, ()):
            if not ended.done():
                ended.set_result(None)

    def _wake_all(self) -> None:
        for run_id in list(self._waiters):
            self._wake(run_id)

    def _fail_all(self, error: Exception) -> None:
        for ended in [ended for waiters in self._waiters.values() for ended in waiters]:
            if not ended.done():
                ended.set_exception(error)

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            await end_tasks([self._listener])
        await self._pubsub.aclose()
