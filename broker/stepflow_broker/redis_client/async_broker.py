"""The asyncio broker: commands that are submitted in one turn of the event loop are one write to each server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import redis.asyncio

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys, slot_of
from stepflow_broker.redis_client.cluster import ANY_SLOT
from stepflow_broker.redis_client.errors import ServerRefusesError
from stepflow_broker.redis_client.pipelined_client import PipelinedClient
from stepflow_broker.redis_client.url import read_url

__all__ = ["AsyncBroker"]

T = TypeVar("T")
_NEXT_S = 0.2
"""How long `AsyncBroker.execute_any` waits for a partition before it asks the next one, too."""


class AsyncBroker:
    """Sends commands to the server, or, on a cluster, to the node that has their keys. For one event loop.

    Args:
        url: the URL of the server.
        retry_for_s: how long to retry while the server is unreachable or accepts no writes, in seconds.
        on_refusal: called when the server refuses the user, a right or the TLS connection, with the error for a person.
            The broker then retries as in an outage, and raises no `ConfigurationError`. ``None``: a refusal is final.
    """

    def __init__(
        self, url: str, *, retry_for_s: float = 3.0, on_refusal: Callable[[ServerRefusesError], None] | None = None
    ) -> None:
        self.url = url
        self._retry_for_s = retry_for_s
        self._on_refusal = on_refusal
        self._clients: dict[int, PipelinedClient] = {}
        self._only = None if read_url(url).is_of_cluster else self._client_of(0)

    def client(self, keys: Keys) -> redis.asyncio.Redis:
        """The redis-py client of the server that has a partition, for pub/sub."""
        return self._client_for(keys.partition).client

    def submit(self, call: Command[T]) -> asyncio.Future[T]:
        """Send a command with the others of this turn. The future receives its answer, or the error of `execute`."""
        if self._only is not None:
            return self._only.submit(call)
        return self._client_for(call.routing_key).submit(call)

    def execute(self, call: Command[T]) -> Awaitable[T]:
        """Send one command; the answer is awaited.

        Raises:
            BackendUnavailableError: the server is unreachable, or cannot execute the command now.
            ConfigurationError: the server refuses the user or the password.
            PermissionDeniedError: the user does not have the right to the command.
        """
        return self.submit(call)

    async def execute_at(self, keys: Keys, call: Command[T]) -> T:
        """As `execute`, for a command without keys: send it to the server that has a partition."""
        return await self._client_for(keys.partition).submit(call)

    async def execute_any(self, calls: Sequence[Command[T]]) -> T:
        """As `Broker.execute_any`. A partition that does not answer soon is not waited for."""
        if self._only is not None or len(calls) == 1:
            return await self.execute(calls[0])
        sent: list[asyncio.Future[T]] = []
        for call in calls:
            sent.append(self.submit(call))
            sent[-1].add_done_callback(lambda done: done.cancelled() or done.exception())
            if (answered := await _first_answered(sent, None if len(sent) == len(calls) else _NEXT_S)) is not None:
                return answered.result()
        return await sent[0]

    async def execute_all(self, calls: Sequence[Command[T]]) -> list[T]:
        """Send several commands and return their answers."""
        return await asyncio.gather(*[self.submit(call) for call in calls])

    def _client_for(self, routing_key: str) -> PipelinedClient:
        if self._only is not None:
            return self._only
        slot = slot_of(routing_key) if routing_key else ANY_SLOT
        if slot not in self._clients:
            self._clients[slot] = self._client_of(slot)
        return self._clients[slot]

    def _client_of(self, slot: int) -> PipelinedClient:
        return PipelinedClient(self.url, retry_for_s=self._retry_for_s, slot=slot, on_refusal=self._on_refusal)

    async def close(self) -> None:
        """Send the waiting commands, then close the connections."""
        await asyncio.gather(*[client.close() for client in self._all()])

    def drop(self) -> None:
        """Close the connections at once, even if their event loop has ended."""
        for client in self._all():
            client.drop()

    def _all(self) -> list[PipelinedClient]:
        return [self._only] if self._only is not None else list(self._clients.values())


async def _first_answered(sent: Collection[asyncio.Future[T]], timeout_s: float | None) -> asyncio.Future[T] | None:
    """The first of some requests that is answered; ``None``: all fail, or none is answered in time."""
    waiting = set(sent)
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        answered = next((one for one in done if one.exception() is None), None)
        if answered is not None or not done:
            return answered
    return None
