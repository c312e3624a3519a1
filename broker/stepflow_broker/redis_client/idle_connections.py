"""The idle connections of a blocking client.

A call takes a connection and gives it back when it has read all replies. A call that is interrupted, by an error or by
the exception of a signal handler, never gives its connection back: it may be half open, or hold the replies of that
call. There is no lock, so no moment at which an interruption would leave one behind.
"""

from __future__ import annotations

import os
from typing import Any

import redis
from redis import exceptions

__all__ = ["IdleConnections"]

_LARGEST = 64
"""How many connections are kept. More calls at once open more, and close them."""


class IdleConnections:
    """Connections with the options of a client that no call uses. Thread-safe.

    Args:
        client: the client.
    """

    def __init__(self, client: redis.Redis) -> None:
        pool: Any = client.connection_pool
        self._make = pool.connection_class
        self._options = pool.connection_kwargs
        self._idle: list[Any] = []
        self._is_closed = False
        self._pid = os.getpid()

    def take(self) -> Any:
        """A connection: the one that was given back last, or a new one. It need not be open: see `prepare`."""
        if self._pid != os.getpid():  # a forked process must not use the connections of its parent
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._make(**self._options)

    @staticmethod
    def prepare(connection: Any) -> None:
        """Open a connection, if it is not open and usable.

        Raises:
            RedisError, OSError: the server is unreachable, refuses the user, or does not answer in time.
        """
        connection.connect()
        try:
            if not connection.can_read():
                return
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            pass
        connection.disconnect()  # the server has closed it
        connection.connect()

    def give_back(self, connection: Any, taken_from: list[Any]) -> None:
        """Keep a connection for the next call, unless this was closed or reset since it was taken.

        Args:
            connection: the connection, with no replies unread.
            taken_from: `current` when it was taken.
        """
        if taken_from is self._idle and not self._is_closed and len(taken_from) < _LARGEST:
            taken_from.append(connection)
        else:
            connection.disconnect()

    @property
    def current(self) -> list[Any]:
        """What a connection that is taken now belongs to. `reset` makes another."""
        return self._idle

    def close(self) -> None:
        """As `reset`, and for good: a later call opens a connection for itself."""
        self._is_closed = True
        self.reset()

    def reset(self) -> None:
        """Close the idle connections now, and those that are in use when their calls end."""
        closing, self._idle = self._idle, []
        if self._pid == os.getpid():
            while closing:
                closing.pop().disconnect()
