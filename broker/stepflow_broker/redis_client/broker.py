"""The blocking broker: sends calls and waits for their answers. For producers, the CLI and threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeVar

import redis

from stepflow_broker.protocol.command import Call
from stepflow_broker.protocol.keys import Keys, slot_of
from stepflow_broker.redis_client.blocking_client import Link
from stepflow_broker.redis_client.url import read_url

__all__ = ["Broker"]

T = TypeVar("T")


class Broker:
    """Sends calls to the server, or, on a cluster, to the node that has a call's keys. For several threads.

    Args:
        url: the server's.
        patience_s: how long to try again while the server does not answer or accepts no writes, in seconds.
    """

    def __init__(self, url: str, *, patience_s: float = 3.0) -> None:
        self.url = url
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._links: dict[int, Link] = {}
        self._only = None if read_url(url).is_of_cluster else Link(url, patience_s=patience_s)

    def client(self, keys: Keys) -> redis.Redis:
        """The client of the server that has a partition, for what is no call."""
        return self._link(keys.partition).client

    def run(self, call: Call[T]) -> T:
        """Send one call and return its answer.

        Raises:
            ServerError: the server does not answer, or cannot do it now.
            ConfigurationError: the server refuses the user.
            MissingRightError: the user may not do this.
        """
        return self.run_all([call])[0]

    def run_all(self, calls: Sequence[Call[T]], *, as_one: bool = False) -> list[T]:
        """Send several calls, those to one server in one round trip, and return their answers.

        Args:
            as_one: the last calls speak for those before them, all of one partition: when one is to be sent again, all
                are.

        Raises:
            ServerError: as `run`; every call may or may not have been executed, and can be sent again.
        """
        if self._only is not None:
            return self._only.run_all(calls, as_one=as_one)
        if as_one:
            return self._run_at(calls[0].place, calls, as_one=True)
        answers: dict[int, T] = {}
        for at in self.by_server(calls):
            answers.update(zip(at, self._run_at(calls[at[0]].place, [calls[n] for n in at]), strict=True))
        return [answers[n] for n in range(len(calls))]

    def _run_at(self, place: str, calls: Sequence[Call[T]], *, as_one: bool = False) -> list[T]:
        """Send calls to a partition's node, or to that of a key in no partition, of which a connection is not kept."""
        if place.startswith("{") or not place:
            return self._link(place).run_all(calls, as_one=as_one)
        link = Link(self.url, patience_s=self._patience_s, slot=slot_of(place))
        try:
            return link.run_all(calls, as_one=as_one)
        finally:
            link.close()

    def by_server(self, calls: Sequence[Call[T]]) -> list[list[int]]:
        """The positions of those calls that go together: to the server, or each to the node that has its partition."""
        if self._only is not None:
            return [list(range(len(calls)))]
        found: dict[str, list[int]] = {}
        for n, call in enumerate(calls):
            found.setdefault(call.place, []).append(n)
        return list(found.values())

    def _link(self, place: str) -> Link:
        if self._only is not None:
            return self._only
        slot = slot_of(place)
        with self._lock:
            if slot not in self._links:
                self._links[slot] = Link(self.url, patience_s=self._patience_s, slot=slot)
            return self._links[slot]

    def close(self) -> None:
        """Close the connections."""
        for link in [self._only, *self._links.values()]:
            if link is not None:
                link.close()
