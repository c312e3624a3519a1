"""The asyncio client: commands that are submitted in one turn of the event loop are one write to one server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import redis.asyncio
from hiredis import pack_command
from redis import exceptions

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.redis_client.connection import connect_async
from stepflow_broker.redis_client.errors import ServerRefusesError, is_refusal, outage_error, server_error
from stepflow_broker.redis_client.pipelined_connection import PipelinedConnection, fresh_context
from stepflow_broker.redis_client.retry import Attempt, Decision, Next, backoff_s, decide
from stepflow_engine.errors import StepflowError

__all__ = ["PipelinedClient"]

T = TypeVar("T")


class _Request(Generic[T]):
    """A command that was submitted, and the future of its answer.

    Attributes:
        packed: the command as it is sent.
        give_up_at: the deadline of its retries, on the clock of the loop, in seconds; 0.0: it has not failed yet.
        has_source: whether it is sent with the source of its script.
        refusals: how often the server has refused it.
    """

    __slots__ = ("call", "future", "give_up_at", "has_source", "packed", "refusals")

    def __init__(self, call: Command[T], future: asyncio.Future[T]) -> None:
        self.call = call
        self.future = future
        self.packed = pack_command(call.args)  # type: ignore[arg-type]  # its stub knows tuples of one word only
        self.give_up_at = 0.0
        self.has_source = False
        self.refusals = 0

    def add_source(self) -> None:
        """Send it with the source of its script from now on."""
        self.packed = pack_command(self.call.with_source())  # type: ignore[arg-type]
        self.has_source = True


class PipelinedClient:
    """Sends commands to one server, from one event loop.

    The commands of one turn of the loop are one write. The next write does not wait for their replies, so the server
    executes some commands while this process prepares others.

    Commands that the server refuses temporarily, or may not have received, are resent in the order in which they were
    submitted. A command that depends on another must be submitted after the answer of the other.

    Args:
        url: the URL of the server.
        retry_for_s: how long to retry while the server is unreachable or accepts no writes, in seconds.
        slot: a slot of a cluster. The server is the node that owns it.
        on_refusal: see `AsyncBroker`.
    """

    def __init__(
        self,
        url: str,
        *,
        retry_for_s: float,
        slot: int = 0,
        on_refusal: Callable[[ServerRefusesError], None] | None = None,
    ) -> None:
        self.url = url
        self.client: redis.asyncio.Redis = connect_async(url, slot=slot)
        self._retry_for_s = retry_for_s
        self._on_refusal = on_refusal
        self._loop: asyncio.AbstractEventLoop | None = None  # to ask for it is a system call before Python 3.12
        self._connection: PipelinedConnection[_Request[Any]] | None = None
        self._waiting: list[_Request[Any]] = []
        self._flush_set = False
        self._connecting: asyncio.Task[None] | None = None
        self._connect_at = 0.0
        self._failed_connections = 0
        self._delayed: list[_Request[Any]] = []
        self._is_closed = False

    def submit(self, call: Command[T]) -> asyncio.Future[T]:
        """Send a command with the others of this turn. The future receives its answer, or an error."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        self._send(_Request(call, future))
        return future

    async def close(self) -> None:
        """Send the waiting commands, then close the connections. A later command opens one for itself."""
        self._is_closed = True
        if self._waiting or self._connection is not None:
            with contextlib.suppress(StepflowError):
                await self.submit(command(bytes, "PING"))  # its reply comes after all others
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)  # the transport closes its socket in the next turn of the loop
        await self.client.aclose()

    def drop(self) -> None:
        """Close the connection at once, even if its event loop has ended."""
        if self._connection is not None:
            self._connection.drop()
            self._connection = None
        if self._connecting is not None and not self._connecting.get_loop().is_closed():
            self._connecting.cancel()

    # -- sending -----------------------------------------------------------------

    def _send(self, request: _Request[Any]) -> None:
        """Write a request with the others of this turn, or at once if the connection is idle, as in a single run."""
        self._waiting.append(request)
        if self._flush_set:
            return
        if self._connection is not None and self._connection.is_idle:
            self._flush()
        else:
            self._flush_set = True
            asyncio.get_running_loop().call_soon(self._flush, context=fresh_context())

    def _flush(self) -> None:
        """Write all waiting requests."""
        self._flush_set = False
        if self._connection is None:
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect(), context=fresh_context())
            return
        requests, self._waiting = self._waiting, []
        self._connection.send(b"".join([request.packed for request in requests]), requests)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                await asyncio.sleep(self._connect_at - loop.time())
                connection = PipelinedConnection(self._on_reply, self._on_lost)
                try:
                    await connection.open(self.client)
                except (exceptions.RedisError, OSError, TimeoutError) as error:
                    self._delay_next_connection()
                    self._waiting = self._retried(self._waiting, error)
                else:
                    self._connection = connection
                    self._flush()
                    return
        finally:
            self._connecting = None

    def _delay_next_connection(self) -> None:
        """Pause before the next connection."""
        self._failed_connections += 1
        self._connect_at = asyncio.get_running_loop().time() + backoff_s(self._failed_connections)

    # -- receiving ---------------------------------------------------------------

    def _on_reply(self, request: _Request[Any], reply: Any) -> None:
        if self._is_closed:
            asyncio.get_running_loop().call_soon(self._close_if_idle, context=fresh_context())
        future = request.future
        if future.done():
            return
        if isinstance(reply, Exception):
            self._on_error_reply(request, reply)
            return
        try:
            future.set_result(request.call.answer(reply))
        except StepflowError as error:  # corrupt data fails this request only
            future.set_exception(error)

    def _close_if_idle(self) -> None:
        if self._connection is not None and self._connection.is_idle and not self._waiting and not self._delayed:
            self._connection.close()

    def _on_error_reply(self, request: _Request[Any], error: Exception) -> None:
        """The server replied with an error."""
        decision = self._decide(request, error)
        if decision.next is Next.RESEND_WITH_SOURCE:
            request.add_source()
            self._send(request)
            return
        if decision.reconnect and self._connection is not None:
            self._connection.close()
        if decision.next is Next.FAIL:
            self._fail(request, error)
            return
        request.refusals += 1
        if not self._delayed:
            delay_s = backoff_s(request.refusals)
            fresh_context().run(asyncio.get_running_loop().call_later, delay_s, self._resend_delayed)
        self._delayed.append(request)

    def _resend_delayed(self) -> None:
        """Resend the requests that the server refused temporarily, before all waiting requests."""
        self._waiting[:0], self._delayed = self._delayed, []
        self._flush()

    def _on_lost(self, requests: list[_Request[Any]], error: Exception) -> None:
        """The connection is lost. The requests may have been executed, and are resent."""
        if self._connection is not None and self._connection.was_answered:
            self._failed_connections = 0
        else:  # the server accepts connections and closes them
            self._delay_next_connection()
        self._connection = None
        self._waiting[:0] = self._retried(requests, error)
        if self._waiting:
            self._flush()

    def _retried(self, requests: list[_Request[Any]], error: Exception) -> list[_Request[Any]]:
        """The requests to resend after an error of the connection. The others fail."""
        retried = []
        for request in requests:
            if request.future.done():
                continue
            if self._decide(request, error).next is Next.FAIL:
                self._fail(request, error)
            else:
                retried.append(request)
        return retried

    def _decide(self, request: _Request[Any], error: Exception) -> Decision:
        now = asyncio.get_running_loop().time()
        request.give_up_at = request.give_up_at or now + self._retry_for_s
        is_patient = self._on_refusal is not None
        if self._on_refusal is not None and is_refusal(error):
            refusal = outage_error(error, self.url, request.call.action)
            if isinstance(refusal, ServerRefusesError):
                self._on_refusal(refusal)
        return decide(error, Attempt(request.give_up_at, has_source=request.has_source, is_patient=is_patient), now)

    def _fail(self, request: _Request[Any], error: Exception) -> None:
        explain = outage_error if self._on_refusal is not None else server_error
        request.future.set_exception(explain(error, self.url, request.call.action))
