"""Locators: find the server to connect to, each time a client connects.

A fixed address needs no search, so redis-py connects to it by itself. Behind Sentinel the address of the primary
changes, and in a cluster the node that owns a slot. For these a `Locator` states the search without I/O, as a
generator: it yields questions to servers, receives replies or errors, and returns the address. A blocking and an
asyncio connection class execute the search.

So a connection that is lost, or that leads to the wrong server, only has to be closed: the next one finds the right
server.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import redis
import redis.asyncio
from redis import exceptions

__all__ = ["Address", "LocatedServer", "Locator", "Question", "Search"]

Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class Question:
    """One command for one of the servers that know addresses: a sentinel, a node of the cluster.

    Attributes:
        address: the server.
        args: the command.
    """

    address: Address
    args: tuple[str, ...]


Search: TypeAlias = Generator[Question, Any, Address]
"""Yields questions, receives for each the reply or the exception, and returns the address."""


class Locator(Protocol):
    """Knows how to find a server.

    Attributes:
        options: the options of connections to the servers that it asks.
        address: the address that the last search has returned.
    """

    options: Mapping[str, Any]
    address: Address | None

    def search(self) -> Search:
        """Start a search.

        Raises:
            RedisError: no server knows the address. Raised by the generator.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocatedServer:
    """A server whose address a locator finds.

    Attributes:
        locator: finds the address.
        options: the options of connections to the server.
    """

    locator: Locator
    options: Mapping[str, Any]

    def client(self) -> redis.Redis:
        """A blocking client."""
        options = dict(self.options)
        kind = _SSLConnection if options.pop("ssl", False) else _Connection
        pool = redis.ConnectionPool(connection_class=kind, locator=self.locator, **options)
        return redis.Redis.from_pool(pool)

    def async_client(self) -> redis.asyncio.Redis:
        """An asyncio client."""
        options = dict(self.options)
        kind = _AsyncSSLConnection if options.pop("ssl", False) else _AsyncConnection
        pool = redis.asyncio.ConnectionPool(connection_class=kind, locator=self.locator, **options)
        return redis.asyncio.Redis.from_pool(pool)


# -- the two forms of a search ---------------------------------------------------


def _locate(locator: Locator) -> Address:
    search, reply = locator.search(), None
    try:
        while True:
            question = search.send(reply)
            host, port = question.address
            with redis.Redis(host=host, port=port, **locator.options) as server:
                try:
                    reply = server.execute_command(*question.args)
                except (exceptions.RedisError, OSError) as error:
                    reply = error
    except StopIteration as end:
        address: Address = end.value
        locator.address = address
        return address


async def _locate_async(locator: Locator) -> Address:
    search, reply = locator.search(), None
    try:
        while True:
            question = search.send(reply)
            host, port = question.address
            async with redis.asyncio.Redis(host=host, port=port, **locator.options) as server:
                try:
                    reply = await server.execute_command(*question.args)
                except (exceptions.RedisError, OSError) as error:
                    reply = error
    except StopIteration as end:
        address: Address = end.value
        locator.address = address
        return address


class _Connection(redis.Connection):
    """A connection to the server that the locator finds when the connection is made."""

    def __init__(self, *, locator: Locator, **options: Any) -> None:
        self._locator = locator
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Connect, unless it is connected. The pool calls this for each connection that it hands out."""
        if self.is_connected and (self.host, self.port) != self._locator.address:
            # the search for another connection has returned a new address
            self.disconnect()  # type: ignore[no-untyped-call]
        if not self.is_connected:
            self.host, self.port = _locate(self._locator)
        super().connect_check_health(check_health, retry_socket_connect)


class _SSLConnection(_Connection, redis.SSLConnection):
    pass


class _AsyncConnection(redis.asyncio.Connection):
    """As `_Connection`. Pools of asyncio hold no idle connections that are open, so none leads to an old address."""

    def __init__(self, *, locator: Locator, **options: Any) -> None:
        self._locator = locator
        super().__init__(**options)

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Connect, unless it is connected."""
        if not self.is_connected:
            self.host, self.port = await _locate_async(self._locator)
        await super().connect_check_health(check_health, retry_socket_connect)


class _AsyncSSLConnection(_AsyncConnection, redis.asyncio.SSLConnection):
    pass
