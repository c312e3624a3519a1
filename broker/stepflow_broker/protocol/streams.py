"""Reading the two streams, of events and of finished runs, as one consumer group of all workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import GROUP, Keys

__all__ = ["create_group", "read_group", "renew_pending", "take_over"]

T = TypeVar("T")


def create_group(keys: Keys, stream: str) -> Command[bytes]:
    """Create a stream (EVENTS, FINISHED) and its consumer group. If the group exists, the server returns an error."""
    return command(bytes, "XGROUP", "CREATE", keys(stream), GROUP, "0", "MKSTREAM")


def read_group(
    keys: Keys, stream: str, worker: str, *, limit: int, read: Callable[[list[Any]], list[T]]
) -> Command[list[T]]:
    """Take new entries of a stream for this worker. ``read`` parses them."""
    return command(
        lambda reply: read(reply[0][1]) if reply else [],
        "XREADGROUP",
        "GROUP",
        GROUP,
        worker,
        "COUNT",
        limit,
        "STREAMS",
        keys(stream),
        ">",
    )


def take_over(
    keys: Keys, stream: str, worker: str, *, idle_ms: int, limit: int, read: Callable[[list[Any]], list[T]]
) -> Command[list[T]]:
    """Take over entries that another worker took and has not acknowledged for ``idle_ms``."""
    return command(
        lambda reply: read(reply[1]), "XAUTOCLAIM", keys(stream), GROUP, worker, idle_ms, "0", "COUNT", limit
    )


def renew_pending(keys: Keys, stream: str, worker: str, *, cursor: str, limit: int = 500) -> Command[str]:
    """Treat the entries that workers took and have not acknowledged as taken now, by this worker.

    The server counts from the time at which an entry was taken. While that is in the future, because the clock was
    ahead, no worker can take the entry over. Returns the next cursor (``0-0``: the page was the last).
    """
    return command(
        lambda reply: str(reply[0].decode()),
        *("XAUTOCLAIM", keys(stream), GROUP, worker, 0, cursor, "COUNT", limit, "JUSTID"),
    )
