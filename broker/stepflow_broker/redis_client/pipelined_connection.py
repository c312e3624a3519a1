"""The pipelined connection: sends requests in order and receives replies in order, many at a time.

redis-py opens the connection (address, TLS, user, database). `PipelinedConnection` then takes over its transport, so
that a reply needs no task, no ``await`` and no timeout of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import redis.asyncio
from hiredis import Reader
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004  redis-py's are meant

from stepflow_broker.redis_client.connection import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S

__all__ = ["PipelinedConnection", "drop_transport", "fresh_context", "take_over"]

R = TypeVar("R")
_INCOMPLETE = object()


def fresh_context() -> contextvars.Context:
    """An empty context, for callbacks of the connection: they must not inherit the context of the first caller."""
    return contextvars.Context()


async def take_over(client: redis.asyncio.Redis, protocol: asyncio.Protocol) -> Any:
    """Connect with the options of a client, give the transport to a protocol, and return its stream writer.

    Keep the writer: a deleted one closes the transport.

    Raises:
        RedisError, OSError: the server is unreachable, refuses the user, or does not answer in time.
    """
    connection: Any = client.connection_pool.make_connection()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):  # also if the server accepts and then sends nothing
            await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    reader, writer = connection._reader, connection._writer
    connection._reader = connection._writer = None
    if reader.at_eof() or writer.transport.is_closing():  # before the protocol could be notified
        writer.transport.abort()
        raise ConnectionError("the server has closed the connection")
    writer.transport.set_protocol(protocol)
    return writer


def drop_transport(writer: Any) -> None:
    """Close a transport at once, even if its event loop has ended."""
    transport = writer.transport
    try:
        transport.abort()
    except RuntimeError:  # the loop has ended, so it cannot close the socket
        transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
        open_socket, transport._sock = getattr(transport, "_sock", None), None
        if open_socket is not None:
            open_socket.close()


class PipelinedConnection(asyncio.Protocol, Generic[R]):
    """A connection to the server.

    Args:
        on_reply: called with each request and its reply, in order. An error reply is an exception.
        on_lost: called once when the connection is lost, with the requests without a reply, and the error.

    Attributes:
        was_answered: whether the server has replied at least once.
    """

    def __init__(self, on_reply: Callable[[R, Any], None], on_lost: Callable[[list[R], Exception], None]) -> None:
        self.was_answered = False
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._unanswered: deque[R] = deque()
        self._reader = Reader(replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE)
        self._writer: Any = None
        self._replied_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    async def open(self, client: redis.asyncio.Redis) -> None:
        """Connect with the options of a client.

        Raises:
            RedisError, OSError: the server is unreachable, refuses the user, or does not answer in time.
        """
        self._writer = await take_over(client, self)

    @property
    def is_idle(self) -> bool:
        """Whether every request has its reply."""
        return not self._unanswered

    def send(self, packed: bytes, requests: Sequence[R]) -> None:
        """Write requests, given as their packed bytes."""
        loop = asyncio.get_running_loop()
        if not self._unanswered:
            self._replied_at = loop.time()
        self._unanswered.extend(requests)
        self._writer.transport.write(packed)
        if self._watch is None:
            self._watch = fresh_context().run(loop.call_later, SOCKET_TIMEOUT_S, self._check)

    def close(self) -> None:
        """Close the connection. ``on_lost`` receives the requests without a reply."""
        self._writer.transport.abort()

    def drop(self) -> None:
        """Close the connection at once, even if its event loop has ended."""
        drop_transport(self._writer)

    # -- callbacks of the transport ----------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Handle the replies in the data."""
        reader, unanswered = self._reader, self._unanswered
        reader.feed(data)
        while (reply := reader.gets()) is not _INCOMPLETE:
            self._on_reply(unanswered.popleft(), reply)
        self._replied_at = asyncio.get_running_loop().time()
        self.was_answered = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand the unanswered requests to ``on_lost``."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        unanswered = list(self._unanswered)
        self._unanswered.clear()
        self._on_lost(unanswered, self._error or exc or ConnectionError("the server has closed the connection"))

    def _check(self) -> None:
        """Close the connection if requests are unanswered and the server has sent nothing for too long."""
        loop = asyncio.get_running_loop()
        self._watch = None
        if not self._unanswered:
            return
        left = self._replied_at + SOCKET_TIMEOUT_S - loop.time()
        if left > 0:
            self._watch = fresh_context().run(loop.call_later, left, self._check)
        else:
            self._error = TimeoutError(f"no answer for {SOCKET_TIMEOUT_S:g} s")
            self.close()
