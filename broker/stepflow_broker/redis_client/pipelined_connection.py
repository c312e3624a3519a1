"""A wire: one connection of an event loop, on which requests leave in order and replies come back in order.

redis-py opens the connection (address, TLS, user, database); the wire then takes its transport over. So many requests
can be on their way at once, and a reply costs no task, no await and no time-out of its own.
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

__all__ = ["PipelinedConnection", "fresh_context"]

R = TypeVar("R")
_NOTHING = object()


def fresh_context() -> contextvars.Context:
    """A context for what belongs to the connection, and not to the run that happened to need it first."""
    return contextvars.Context()


class PipelinedConnection(asyncio.Protocol, Generic[R]):
    """A connection to the server.

    Args:
        heard: called with each request and its reply, in order; an error reply is an exception.
        lost: called once when the connection is gone, with the requests that have no reply, and why.

    Attributes:
        was_answered: whether the server has ever replied on it.
    """

    def __init__(self, heard: Callable[[R, Any], None], lost: Callable[[list[R], Exception], None]) -> None:
        self.was_answered = False
        self._heard = heard
        self._lost = lost
        self._flying: deque[R] = deque()
        self._reader = Reader(replyError=DefaultParser.parse_error, notEnoughData=_NOTHING)
        self._writer: Any = None
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._why: Exception | None = None

    async def open(self, client: redis.asyncio.Redis) -> None:
        """Connect as this client would.

        Raises:
            RedisError, OSError: the server cannot be reached, or refuses the user, or does not answer in time.
        """
        connection: Any = client.connection_pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):  # also for who accepts and then says nothing
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        reader, self._writer = connection._reader, connection._writer  # kept: it closes the transport when it goes
        connection._reader = connection._writer = None
        if reader.at_eof() or self._writer.transport.is_closing():  # nobody would tell this protocol of it
            self._writer.transport.abort()
            raise ConnectionError("the server has closed the connection")
        self._writer.transport.set_protocol(self)

    @property
    def is_idle(self) -> bool:
        """Whether every request has its reply."""
        return not self._flying

    def send(self, packed: bytes, requests: Sequence[R]) -> None:
        """Write requests, as the bytes that they are packed to."""
        loop = asyncio.get_running_loop()
        if not self._flying:
            self._heard_at = loop.time()
        self._flying.extend(requests)
        self._writer.transport.write(packed)
        if self._watch is None:
            self._watch = fresh_context().run(loop.call_later, SOCKET_TIMEOUT_S, self._check)

    def close(self) -> None:
        """Hang up. Requests without a reply are given back to ``lost``."""
        self._writer.transport.abort()

    # -- what the transport calls ------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Replies have come."""
        reader, flying = self._reader, self._flying
        reader.feed(data)
        while (reply := reader.gets()) is not _NOTHING:
            self._heard(flying.popleft(), reply)
        self._heard_at = asyncio.get_running_loop().time()
        self.was_answered = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        unanswered = list(self._flying)
        self._flying.clear()
        self._lost(unanswered, self._why or exc or ConnectionError("the server has closed the connection"))

    def _check(self) -> None:
        """Hang up when the server has said nothing for too long, though it was asked."""
        loop = asyncio.get_running_loop()
        self._watch = None
        if not self._flying:
            return
        left = self._heard_at + SOCKET_TIMEOUT_S - loop.time()
        if left > 0:
            self._watch = fresh_context().run(loop.call_later, left, self._check)
        else:
            self._why = TimeoutError(f"no answer for {SOCKET_TIMEOUT_S:g} s")
            self.close()
