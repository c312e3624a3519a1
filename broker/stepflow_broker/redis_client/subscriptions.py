"""Connections that are subscribed to channels, for an event loop and for threads.

Both send commands and hand over what the server sends. They know nothing about channels: see `RunEndWaits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections.abc import Callable, Iterable
from typing import Any

import redis
import redis.asyncio
from hiredis import Reader, pack_command
from redis import exceptions
from redis.asyncio.connection import DefaultParser

from stepflow_broker.redis_client.pipelined_connection import drop_transport, take_over

__all__ = ["AsyncSubscription", "Subscription"]

_INCOMPLETE = object()


class AsyncSubscription(asyncio.Protocol):
    """A connection of an event loop. It needs no task: the transport calls it.

    Args:
        on_reply: called with each reply. An error reply is an exception.
        on_lost: called once when the connection is lost.
    """

    def __init__(self, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> None:
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._reader = Reader(replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE)
        self._writer: Any = None

    async def open(self, client: redis.asyncio.Redis) -> None:
        """Connect with the options of a client.

        Raises:
            RedisError, OSError: the server is unreachable, refuses the user, or does not answer in time.
        """
        self._writer = await take_over(client, self)

    def send(self, commands: Iterable[tuple[str, ...]]) -> None:
        """Send commands."""
        self._writer.transport.write(b"".join([pack_command(words) for words in commands]))  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the connection. ``on_lost`` is called."""
        self._writer.transport.abort()

    def drop(self) -> None:
        """Close the connection at once, even if its event loop has ended."""
        drop_transport(self._writer)

    def data_received(self, data: bytes) -> None:
        """Hand over the replies in the data."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not _INCOMPLETE:
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the owner."""
        self._on_lost()


class Subscription:
    """A connection of one thread. Other threads may only call `wake`.

    Args:
        client: the client whose options the connection has.
    """

    def __init__(self, client: redis.Redis) -> None:
        pool: Any = client.connection_pool
        self._connection = pool.connection_class(**pool.connection_kwargs)
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def open(self) -> None:
        """Connect.

        Raises:
            RedisError, OSError: the server is unreachable, refuses the user, or does not answer in time.
        """
        self._connection.connect()
        self._selector.register(self._connection._sock, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def wake(self) -> None:
        """End the current or the next `receive` of the owner."""
        with contextlib.suppress(OSError):  # it is full, so it wakes anyway; or it is closed
            self._wake.send(b"\0")

    def send(self, commands: Iterable[tuple[str, ...]]) -> None:
        """Send commands."""
        for words in commands:
            self._connection.send_command(*words, check_health=False)

    def receive(self, timeout_s: float) -> list[Any]:
        """What the server has sent, after a wait of at most ``timeout_s`` seconds. An error reply is an exception.

        Raises:
            RedisError, OSError: the connection is lost.
        """
        replies = self._pending()
        if not replies and self._is_readable(timeout_s):
            replies = self._pending()
        return replies

    def _is_readable(self, timeout_s: float) -> bool:
        """Wait until the server has sent something, or another thread wakes this one."""
        ready = [key.fileobj for key, _ in self._selector.select(timeout_s)]
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        return self._connection._sock in ready

    def _pending(self) -> list[Any]:
        replies = []
        while self._connection.can_read(timeout=0):
            try:
                replies.append(self._connection.read_response(disable_decoding=True))
            except exceptions.ResponseError as error:
                replies.append(error)
        return replies

    def close(self) -> None:
        """Close the connection."""
        self._selector.close()
        self._connection.disconnect()
        self._woken.close()
        self._wake.close()
