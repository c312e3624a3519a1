"""Cluster: URLs that name nodes of a Redis Cluster, and the search for the node that owns a slot."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.cluster import ClusterNode
from redis.connection import parse_url

from stepflow_broker.protocol import replies
from stepflow_broker.redis_client.locator import Address, LocatedServer, Question, Search
from stepflow_broker.redis_client.url import CLUSTER_SCHEMES, read_address

__all__ = [
    "ANY_SLOT",
    "ClusterLocator",
    "ClusterUrl",
    "NodeUnavailableError",
    "NotInClusterError",
    "SlotMap",
    "owner_of",
    "whole_cluster",
]

ANY_SLOT = -1
"""The slot of commands without keys: any node can execute them, so one is chosen that answers."""
_DEFAULT_PORT = 6379
_TIMEOUT_S = 2.0
"""The time limit of one node. After it, the next one is asked."""
_FRESH_S = 0.5
"""How long an answer is used without another query, because many connections are made at once."""


class NodeUnavailableError(exceptions.ConnectionError):
    """No node names an owner of the slot: none answers, or the cluster has lost the primary of the slot."""


class NotInClusterError(exceptions.RedisError):
    """A server answers, and is not a node of a cluster."""


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """A parsed URL of a cluster.

    Attributes:
        nodes: the address of each node that it names. These know the other nodes.
        options: the options of connections to all nodes.
    """

    nodes: tuple[Address, ...]
    options: dict[str, Any]

    @classmethod
    def parse(cls, url: str) -> ClusterUrl:
        """Read ``redis+cluster://user:password@host1:6379,host2:6379``.

        Raises:
            ValueError: the URL is invalid.
        """
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        if parts.path.strip("/") not in ("", "0"):
            raise ValueError("a cluster has no databases: end its address with the last port")
        options = parse_url(f"{CLUSTER_SCHEMES[parts.scheme]}://{user}{at}any?{parts.query}")
        connection = {name: value for name, value in options.items() if name not in ("host", "connection_class")}
        if parts.scheme == "rediss+cluster":
            connection["ssl"] = True
        nodes = [read_address(host, default_port=_DEFAULT_PORT, what="nodes") for host in hosts.split(",")]
        return cls(tuple(nodes), connection)


class SlotMap:
    """The owners of all slots, as the node that answered last named them, and the nodes to ask."""

    def __init__(self, nodes: Iterable[Address]) -> None:
        self._named = tuple(nodes)
        self._primaries: dict[tuple[int, int], Address] = {}
        self._answered: Address | None = None
        self._updated_at = -_FRESH_S
        self._failures: list[Exception] = []

    def to_query(self) -> list[Address]:
        """All known nodes, primaries first. Empty while the last answer is fresh."""
        if time.monotonic() - self._updated_at < _FRESH_S:
            return []
        self._failures = []
        return list(dict.fromkeys([*self._primaries.values(), *self._named]))

    def failed(self, error: Exception) -> None:
        """Record that a node did not answer, or refused."""
        self._failures.append(error)

    def update(self, node: Address, slots: Iterable[Any]) -> None:
        """Record the reply of a node to ``CLUSTER SLOTS``: ``[first, last, [host, port, …], replica …]`` of each range.

        A node that does not know its own host leaves it empty.
        """
        self._primaries = {
            (int(first), int(last)): (replies.text(primary[0]) or node[0], int(primary[1]))
            for first, last, primary, *_ in slots
        }
        self._answered = node
        self._updated_at = time.monotonic()

    def owner(self, slot: int) -> Address:
        """The address of the node that owns a slot; of the node that answered last, for `ANY_SLOT`.

        Raises:
            RedisError: no node owns it, or no node has answered.
        """
        if self._failures and time.monotonic() - self._updated_at >= _FRESH_S:
            raise self._error()
        if slot == ANY_SLOT and self._answered is not None:
            return self._answered
        for (first, last), address in self._primaries.items():
            if first <= slot <= last:
                return address
        self._updated_at = -_FRESH_S
        raise NodeUnavailableError(f"no node of the cluster has slot {slot}")

    def _error(self) -> Exception:
        for error in self._failures:
            if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
                return error
            if "cluster support disabled" in str(error):
                return NotInClusterError("the server is no node of a cluster")
        return NodeUnavailableError(f"no node answers: {'; '.join(str(error) for error in self._failures)}")


class ClusterLocator:
    """Asks the nodes in turn for the owner of a slot. See `stepflow_broker.redis_client.locator.Locator`.

    Args:
        nodes: the addresses of some nodes.
        slot: the slot.
        options: the options of connections to the nodes.
    """

    def __init__(self, nodes: Iterable[Address], slot: int, options: Mapping[str, Any]) -> None:
        self.options = options
        self.address: Address | None = None
        self._slot = slot
        self._slots = SlotMap(nodes)

    def search(self) -> Search:
        """Search for the owner of the slot.

        Raises:
            NodeUnavailableError: no node answers, or none owns the slot.
            NotInClusterError: a server answers that is not a node of a cluster.
            AuthenticationError, NoPermissionError: a node refuses the user, and no other node answers.
        """
        for node in self._slots.to_query():
            slots = yield Question(node, ("CLUSTER", "SLOTS"))
            if isinstance(slots, Exception):
                self._slots.failed(slots)
                continue
            self._slots.update(node, slots)
            break
        return self._slots.owner(self._slot)


def owner_of(slot: int, url: str, options: Mapping[str, Any]) -> LocatedServer:
    """The node that owns a slot of the cluster at a URL.

    Args:
        options: the options of connections to the node, as far as the URL does not set them.

    Raises:
        ValueError: the URL is invalid.
    """
    parsed = ClusterUrl.parse(url)
    connection = {**options, **parsed.options}
    search_options = {**connection, "socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    return LocatedServer(ClusterLocator(parsed.nodes, slot, search_options), connection)


def whole_cluster(url: str, options: Mapping[str, Any]) -> redis.RedisCluster:
    """redis-py's own client of all nodes, for keys in no partition: RQ's registry of workers.

    Raises:
        ValueError: the URL is invalid.
    """
    parsed = ClusterUrl.parse(url)
    nodes = [ClusterNode(host, port) for host, port in parsed.nodes]
    connection = {name: value for name, value in {**options, **parsed.options}.items() if name != "retry"}
    return redis.RedisCluster(startup_nodes=nodes, **connection)
