"""The blocking broker: sends commands and waits for their answers. For producers, the CLI and threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import TypeVar

import redis

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys, slot_of
from stepflow_broker.redis_client.blocking_client import BlockingClient
from stepflow_broker.redis_client.cluster import ANY_SLOT
from stepflow_broker.redis_client.url import read_url
from stepflow_engine.errors import BackendUnavailableError

__all__ = ["Broker"]

T = TypeVar("T")


class Broker:
    """Sends commands to the server, or, on a cluster, to the node that has their keys. Thread-safe.

    Args:
        url: the URL of the server.
        retry_for_s: how long to retry while the server is unreachable or accepts no writes, in seconds.
    """

    def __init__(self, url: str, *, retry_for_s: float = 3.0) -> None:
        self.url = url
        self._retry_for_s = retry_for_s
        self._lock = threading.RLock()  # a signal handler may call, too, while its thread has the lock
        self._clients: dict[int, BlockingClient] = {}
        self._only = None if read_url(url).is_of_cluster else BlockingClient(url, retry_for_s=retry_for_s)

    def client(self, keys: Keys) -> redis.Redis:
        """The redis-py client of the server that has a partition, for pub/sub."""
        return self._client_for(keys.partition).client

    def execute(self, call: Command[T]) -> T:
        """Send one command and return its answer.

        Raises:
            BackendUnavailableError: the server is unreachable, or cannot execute the command now.
            ConfigurationError: the server refuses the user or the password.
            PermissionDeniedError: the user does not have the right to the command.
        """
        return self.execute_all([call])[0]

    def execute_any(self, calls: Sequence[Command[T]]) -> T:
        """Send commands with the same answer, one to each partition, in turn, and return the first answer.

        Raises:
            BackendUnavailableError: as `execute`. No node of a cluster answers.
        """
        if self._only is None and len(calls) > 1:
            for call in calls:
                with contextlib.suppress(BackendUnavailableError):
                    return self._client_for(call.routing_key).execute_all([call], retry_for_s=0.0)[0]
        return self.execute(calls[0])

    def execute_each(self, calls: Sequence[Command[T]]) -> list[T | BackendUnavailableError]:
        """Send commands, one to each partition, and return for each its answer, or the reason why there is none.

        On a cluster, some nodes may be away. A server that is not a cluster has all partitions.

        Raises:
            BackendUnavailableError: as `execute`. There is no answer at all.
        """
        if self._only is not None:
            replies: Sequence[T] = self._only.execute_all(calls)
            return list(replies)
        answers = list[T | BackendUnavailableError]()
        for call in calls:
            try:
                (answer,) = self._client_for(call.routing_key).execute_all([call], retry_for_s=0.0)
                answers.append(answer)
            except BackendUnavailableError as error:
                answers.append(error)
        if all(isinstance(one, BackendUnavailableError) for one in answers):
            patient: Sequence[T] = self.execute_all(calls)
            return list(patient)
        return answers

    def execute_all(self, calls: Sequence[Command[T]], *, as_one: bool = False) -> list[T]:
        """Send several commands, in one round trip to each server, and return their answers.

        Args:
            as_one: whether the last commands confirm those before them, as ``WAIT`` does. If one is resent, all are.
                All must be of one partition.

        Raises:
            BackendUnavailableError: as `execute`. Each command may have been executed, and can be sent again.
        """
        if self._only is not None:
            return self._only.execute_all(calls, as_one=as_one)
        if as_one:
            return self._run_at(calls[0].routing_key, calls, as_one=True)
        answers: dict[int, T] = {}
        for at in self.by_server(calls):
            answers.update(zip(at, self._run_at(calls[at[0]].routing_key, [calls[n] for n in at]), strict=True))
        return [answers[n] for n in range(len(calls))]

    def _run_at(self, routing_key: str, calls: Sequence[Command[T]], *, as_one: bool = False) -> list[T]:
        """Send commands to the node of a partition, or of a key in no partition. The client of the latter is closed."""
        if routing_key.startswith("{") or not routing_key:
            return self._client_for(routing_key).execute_all(calls, as_one=as_one)
        client = BlockingClient(self.url, retry_for_s=self._retry_for_s, slot=slot_of(routing_key))
        try:
            return client.execute_all(calls, as_one=as_one)
        finally:
            client.close()

    def by_server(self, calls: Sequence[Command[T]]) -> list[list[int]]:
        """The positions of the commands, grouped by the server that receives them."""
        if self._only is not None:
            return [list(range(len(calls)))]
        groups: dict[str, list[int]] = {}
        for n, call in enumerate(calls):
            groups.setdefault(call.routing_key, []).append(n)
        return list(groups.values())

    def _client_for(self, routing_key: str) -> BlockingClient:
        if self._only is not None:
            return self._only
        slot = slot_of(routing_key) if routing_key else ANY_SLOT
        with self._lock:
            if slot not in self._clients:
                self._clients[slot] = BlockingClient(self.url, retry_for_s=self._retry_for_s, slot=slot)
            return self._clients[slot]

    def close(self) -> None:
        """Close the connections; those in use, when their calls end."""
        for client in [self._only, *self._clients.values()]:
            if client is not None:
                client.close()
