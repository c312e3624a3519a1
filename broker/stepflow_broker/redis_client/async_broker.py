"""The asyncio broker: calls that are made in the same turn of the loop leave as one write to each server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import redis.asyncio

from stepflow_broker.protocol.command import Call
from stepflow_broker.protocol.keys import Keys, slot_of
from stepflow_broker.redis_client.pipelined_client import AsyncLink
from stepflow_broker.redis_client.url import read_url

__all__ = ["AsyncBroker"]

T = TypeVar("T")


class AsyncBroker:
    """Sends calls to the server, or, on a cluster, to the node that has a call's keys. For one event loop.

    Args:
        url: the server's.
        patience_s: how long to try again while the server does not answer or accepts no writes, in seconds.
    """

    def __init__(self, url: str, *, patience_s: float = 3.0) -> None:
        self.url = url
        self._patience_s = patience_s
        self._links: dict[int, AsyncLink] = {}
        self._only = None if read_url(url).is_of_cluster else AsyncLink(url, patience_s=patience_s)

    def client(self, keys: Keys) -> redis.asyncio.Redis:
        """The client of the server that has a partition, for what is no call."""
        return self._link(keys.partition).client

    def submit(self, call: Call[T]) -> asyncio.Future[T]:
        """Send a call with the others of this turn; the future is given its answer, or the error that `run` raises."""
        if self._only is not None:
            return self._only.submit(call)
        return self._link(call.place).submit(call)

    async def run(self, call: Call[T]) -> T:
        """Send one call and return its answer.

        Raises:
            ServerError: the server does not answer, or cannot do it now.
            ConfigurationError: the server refuses the user.
            MissingRightError: the user may not do this.
        """
        return await self.submit(call)

    async def run_all(self, calls: Sequence[Call[T]]) -> list[T]:
        """Send several calls and return their answers."""
        return await asyncio.gather(*[self.submit(call) for call in calls])

    def _link(self, place: str) -> AsyncLink:
        if self._only is not None:
            return self._only
        slot = slot_of(place)
        if slot not in self._links:
            self._links[slot] = AsyncLink(self.url, patience_s=self._patience_s, slot=slot)
        return self._links[slot]

    async def close(self) -> None:
        """Send what is waiting, then close the connections."""
        links = [self._only] if self._only is not None else list(self._links.values())
        await asyncio.gather(*[link.close() for link in links])
