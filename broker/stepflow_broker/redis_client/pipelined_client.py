"""A link of an event loop: calls that are made in the same turn of the loop leave as one write to one server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Generic, TypeVar

import redis.asyncio
from hiredis import pack_command
from redis import exceptions

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.redis_client.connection import connect_async
from stepflow_broker.redis_client.errors import is_wrong_node, server_error
from stepflow_broker.redis_client.pipelined_connection import PipelinedConnection, fresh_context
from stepflow_broker.redis_client.retry import backoff_s, is_retryable
from stepflow_engine.errors import StepflowError

__all__ = ["PipelinedClient"]

T = TypeVar("T")


class _Request(Generic[T]):
    """A call that was made, and the future of its answer.

    Attributes:
        packed: the command as it is sent.
        give_up_at: when to stop trying again, in the loop's time; 0.0: it has not failed yet.
        refusals: how often the server has refused it.
    """

    __slots__ = ("call", "future", "give_up_at", "packed", "refusals")

    def __init__(self, call: Command[T], future: asyncio.Future[T]) -> None:
        self.call = call
        self.future = future
        self.packed = pack_command(call.args)  # type: ignore[arg-type]  # its stub knows tuples of one word only
        self.give_up_at = 0.0
        self.refusals = 0


class PipelinedClient:
    """Sends calls to one server, from one event loop.

    What is submitted in one turn of the loop is one write; the next write does not wait for its replies. So the
    server works on one part of the calls while this process works on another.

    What the server refuses for a time, or may not have got, is sent again in the order in which it was submitted. A
    call that must not be executed without another is submitted after the other's answer.

    Args:
        url: the server's.
        retry_for_s: how long to try again while the server does not answer or accepts no writes, in seconds.
        slot: of a cluster; the server is the node that has it.
    """

    def __init__(self, url: str, *, retry_for_s: float, slot: int = 0) -> None:
        self.url = url
        self.client: redis.asyncio.Redis = connect_async(url, slot=slot)
        self._retry_for_s = retry_for_s
        self._wire: PipelinedConnection[_Request[Any]] | None = None
        self._waiting: list[_Request[Any]] = []
        self._flush_set = False
        self._connecting: asyncio.Task[None] | None = None
        self._connect_at = 0.0
        self._vain_connections = 0
        self._put_off: list[_Request[Any]] = []

    def submit(self, call: Command[T]) -> asyncio.Future[T]:
        """Send a call with the others of this turn; the future is given its answer, or an error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._send(_Request(call, future))
        return future

    async def close(self) -> None:
        """Send what is waiting, then close the connections."""
        if self._waiting or self._wire is not None:
            with contextlib.suppress(StepflowError):
                await self.submit(command(bytes, "PING"))  # its reply comes after all others
        if self._wire is not None:
            self._wire.close()
        await self.client.aclose()

    # -- sending -----------------------------------------------------------------

    def _send(self, request: _Request[Any]) -> None:
        """Write at once what comes alone, as the steps of a single run do; otherwise with the others of this turn."""
        self._waiting.append(request)
        if self._flush_set:
            return
        if self._wire is not None and self._wire.is_idle:
            self._flush()
        else:
            self._flush_set = True
            asyncio.get_running_loop().call_soon(self._flush, context=fresh_context())

    def _flush(self) -> None:
        """Write all that waits."""
        self._flush_set = False
        if self._wire is None:
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect(), context=fresh_context())
            return
        requests, self._waiting = self._waiting, []
        self._wire.send(b"".join([request.packed for request in requests]), requests)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                await asyncio.sleep(self._connect_at - loop.time())
                wire = PipelinedConnection(self._heard, self._lost)
                try:
                    await wire.open(self.client)
                except (exceptions.RedisError, OSError, TimeoutError) as error:
                    self._connected_in_vain()
                    self._waiting = [request for request in self._waiting if self._is_kept(request, error)]
                else:
                    self._wire = wire
                    self._flush()
                    return
        finally:
            self._connecting = None

    def _connected_in_vain(self) -> None:
        """Pause before the next connection."""
        self._vain_connections += 1
        self._connect_at = asyncio.get_running_loop().time() + backoff_s(self._vain_connections)

    # -- hearing -----------------------------------------------------------------

    def _heard(self, request: _Request[Any], reply: Any) -> None:
        future = request.future
        if future.done():
            return
        if isinstance(reply, Exception):
            self._refused(request, reply)
            return
        try:
            future.set_result(request.call.answer(reply))
        except StepflowError as error:  # a reply that cannot be read is its caller's error, and no other's
            future.set_exception(error)

    def _refused(self, request: _Request[Any], error: Exception) -> None:
        """The server answered with an error."""
        if isinstance(error, exceptions.NoScriptError):
            request.packed = pack_command(request.call.with_source())  # type: ignore[arg-type]
            self._send(request)
            return
        if is_wrong_node(error) and self._wire is not None:
            self._wire.close()  # the next one may lead to the primary
        if self._is_kept(request, error):
            request.refusals += 1
            if not self._put_off:
                delay_s = backoff_s(request.refusals)
                fresh_context().run(asyncio.get_running_loop().call_later, delay_s, self._send_put_off)
            self._put_off.append(request)

    def _send_put_off(self) -> None:
        """Send again, before all that waits, what the server has refused for a time."""
        self._waiting[:0], self._put_off = self._put_off, []
        self._flush()

    def _lost(self, requests: list[_Request[Any]], error: Exception) -> None:
        """The connection is gone; whether these were executed is not known, and they may all be sent twice."""
        if self._wire is not None and self._wire.was_answered:
            self._vain_connections = 0
        else:  # it accepts, and hangs up
            self._connected_in_vain()
        self._wire = None
        self._waiting[:0] = [request for request in requests if self._is_kept(request, error)]
        if self._waiting:
            self._flush()

    def _is_kept(self, request: _Request[Any], error: Exception) -> bool:
        """Whether a request that failed is worth another try; if not, its caller is told."""
        now = asyncio.get_running_loop().time()
        request.give_up_at = request.give_up_at or now + self._retry_for_s
        if request.future.done():
            return False
        if is_retryable(error) and now < request.give_up_at:
            return True
        request.future.set_exception(server_error(error, self.url, request.call.action))
        return False
