"""The asyncio broker: calls that are made in the same turn of the loop leave as one write."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import redis.asyncio
from hiredis import pack_command
from redis import exceptions

from stepflow_broker.call import Call
from stepflow_broker.connection import SOCKET_TIMEOUT_S, connect_async, is_transient, server_error

__all__ = ["AsyncBroker"]

T = TypeVar("T")
_MOST_CALLS = 512
_LONGEST_PAUSE_S = 2.0


class AsyncBroker:
    """Sends calls to one server, from one event loop.

    One batch is on its way at a time; calls made meanwhile leave together when it is back. Under load the batches
    grow, and the cost of a round trip is shared.

    Args:
        url: the server's.
        patience_s: how long to try again while the server does not answer, in seconds.
    """

    def __init__(self, url: str, *, patience_s: float = 3.0) -> None:
        self.url = url
        self.client: redis.asyncio.Redis = connect_async(url)
        self._patience_s = patience_s
        self._waiting: list[tuple[Call[Any], asyncio.Future[Any]]] = []
        self._pump: asyncio.Task[None] | None = None

    def submit(self, call: Call[T]) -> asyncio.Future[T]:
        """Send a call with the others of this turn; the future is given its answer, or the error that `run` raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run_pump())
        return future

    async def run(self, call: Call[T]) -> T:
        """Send one call and return its answer.

        Raises:
            ServerError: the server does not answer, or cannot do it now.
            ConfigurationError: the server refuses the user.
        """
        return await self.submit(call)

    async def run_all(self, calls: Sequence[Call[T]]) -> list[T]:
        """Send several calls and return their answers."""
        return await asyncio.gather(*[self.submit(call) for call in calls])

    async def _run_pump(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST_CALLS], self._waiting[_MOST_CALLS:]
                await self._deliver(batch)
        finally:
            self._pump = None

    async def _deliver(self, batch: list[tuple[Call[Any], asyncio.Future[Any]]]) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + self._patience_s, 0.05
        while batch:
            try:
                replies = await self._once([call for call, _ in batch])
            except (exceptions.RedisError, OSError, TimeoutError) as error:
                replies = [error] * len(batch)
            batch = self._settle(batch, replies, last=loop.time() + pause_s > deadline)
            if batch:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _settle(
        self, batch: list[tuple[Call[Any], asyncio.Future[Any]]], replies: list[Any], *, last: bool
    ) -> list[tuple[Call[Any], asyncio.Future[Any]]]:
        """Give each future its answer; return those calls that are worth another try."""
        again = []
        for (call, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if not isinstance(reply, Exception):
                future.set_result(call.read(reply))
            elif is_transient(reply) and not last:
                again.append((call, future))
            else:
                future.set_exception(server_error(reply, self.url))
        return again

    async def _once(self, calls: Sequence[Call[Any]]) -> list[Any]:
        replies = await self._send(call.words for call in calls)
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
        if unknown:
            again = await self._send(calls[n].with_source() for n in unknown)
            for n, reply in zip(unknown, again, strict=True):
                replies[n] = reply
        return replies

    async def _send(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Write all commands, then read all replies as they are; an error reply is an exception in the list."""
        packed = [pack_command(words) for words in commands]
        pool = self.client.connection_pool
        connection = await pool.get_connection()
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                await connection.send_packed_command([b"".join(packed)])
                return [await self._read(connection) for _ in packed]
        except BaseException:
            await connection.disconnect(nowait=True)  # replies may be left on it
            raise
        finally:
            await pool.release(connection)

    @staticmethod
    async def _read(connection: Any) -> Any:
        try:
            return await connection.read_response(disable_decoding=True, timeout=math.inf)
        except exceptions.ResponseError as error:
            return error

    async def close(self) -> None:
        """Send what is waiting, then close the connections."""
        if self._pump is not None:
            await self._pump
        await self.client.aclose()
