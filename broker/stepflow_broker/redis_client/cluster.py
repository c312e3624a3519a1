"""Cluster: URLs that name nodes of a Redis Cluster, and clients of the node that has a slot.

A client speaks for one slot, and asks any node who has it whenever it connects. So a connection that is lost, or that
leads to a node which has the slot no longer, need only be closed: the next one leads to the node that has it now.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis import exceptions
from redis.cluster import ClusterNode
from redis.connection import parse_url

from stepflow_broker.redis_client.url import CLUSTER_SCHEMES, read_address

__all__ = [
    "ClusterUrl",
    "NodeAwayError",
    "NotInClusterError",
    "cluster_client",
    "cluster_client_async",
    "whole_cluster",
]

Address = tuple[str, int]
_DEFAULT_PORT = 6379
_TIMEOUT_S = 2.0
"""How long one node may take to say who has which slots; then the next is asked."""
_FRESH_S = 0.5
"""How long what a node has said counts: many connections are made at once."""


class NodeAwayError(exceptions.ConnectionError):
    """No node says who has the slot: none answers, or the cluster has lost the slot's primary."""


class NotInClusterError(exceptions.RedisError):
    """A server answers, and is no node of a cluster."""


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """What a URL says.

    Attributes:
        nodes: host and port of each that it names; these know the others.
        options: of connections to all nodes.
    """

    nodes: tuple[Address, ...]
    options: dict[str, Any]

    @classmethod
    def parse(cls, url: str) -> ClusterUrl:
        """Read ``redis+cluster://user:password@host1:6379,host2:6379``.

        Raises:
            ValueError: it is not one.
        """
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        if parts.path.strip("/") not in ("", "0"):
            raise ValueError("a cluster has no databases: end its address with the last port")
        options = parse_url(f"{CLUSTER_SCHEMES[parts.scheme]}://{user}{at}any?{parts.query}")
        kept = {name: value for name, value in options.items() if name not in ("host", "connection_class")}
        if parts.scheme == "rediss+cluster":
            kept["ssl"] = True
        nodes = [read_address(host, default_port=_DEFAULT_PORT, what="nodes") for host in hosts.split(",")]
        return cls(tuple(nodes), kept)


class _SlotMap:
    """Who has which slots, as the last node that was asked said, and whom to ask."""

    def __init__(self, nodes: Iterable[Address]) -> None:
        self._named = tuple(nodes)
        self._primaries: dict[tuple[int, int], Address] = {}
        self._heard_at = -_FRESH_S
        self._failures: list[Exception] = []

    def to_ask(self) -> list[Address]:
        """All nodes that are known, those that answered last first; none when what is known is fresh."""
        if time.monotonic() - self._heard_at < _FRESH_S:
            return []
        self._failures = []
        return list(dict.fromkeys([*self._primaries.values(), *self._named]))

    def failed(self, error: Exception) -> None:
        """A node does not answer, or refuses to."""
        self._failures.append(error)

    def heard(self, asked: Address, slots: Iterable[Any]) -> None:
        """A node says which are the primaries: ``[first, last, [host, port, …], replicas …]`` for each range."""
        self._primaries = {
            (int(first), int(last)): (_text(primary[0]) or asked[0], int(primary[1]))
            for first, last, primary, *_ in slots
        }
        self._heard_at = time.monotonic()

    def owner(self, slot: int) -> Address:
        """Who has a slot.

        Raises:
            RedisError: nobody, or no node has said so.
        """
        if self._failures and time.monotonic() - self._heard_at >= _FRESH_S:
            raise self._error()
        for (first, last), address in self._primaries.items():
            if first <= slot <= last:
                return address
        self._heard_at = -_FRESH_S
        raise NodeAwayError(f"no node of the cluster has slot {slot}")

    def _error(self) -> Exception:
        for error in self._failures:
            if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
                return error
            if "cluster support disabled" in str(error):
                return NotInClusterError("the server is no node of a cluster")
        return NodeAwayError(f"no node answers: {'; '.join(str(error) for error in self._failures)}")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


class _Nodes:
    """Asks the nodes, for blocking connections."""

    def __init__(self, found: ClusterUrl, options: Mapping[str, Any]) -> None:
        self._map = _SlotMap(found.nodes)
        self._options = _asking(options, found)

    def owner(self, slot: int) -> Address:
        for host, port in self._map.to_ask():
            with redis.Redis(host=host, port=port, **self._options) as node:
                try:
                    slots: Any = node.execute_command("CLUSTER", "SLOTS")
                    self._map.heard((host, port), slots)
                    break
                except (exceptions.RedisError, OSError) as error:
                    self._map.failed(error)
        return self._map.owner(slot)


class _AsyncNodes:
    """Asks the nodes, for connections of an event loop."""

    def __init__(self, found: ClusterUrl, options: Mapping[str, Any]) -> None:
        self._map = _SlotMap(found.nodes)
        self._options = _asking(options, found)

    async def owner(self, slot: int) -> Address:
        for host, port in self._map.to_ask():
            async with redis.asyncio.Redis(host=host, port=port, **self._options) as node:
                try:
                    slots: Any = await node.execute_command("CLUSTER", "SLOTS")
                    self._map.heard((host, port), slots)
                    break
                except (exceptions.RedisError, OSError) as error:
                    self._map.failed(error)
        return self._map.owner(slot)


def _asking(options: Mapping[str, Any], found: ClusterUrl) -> dict[str, Any]:
    return {**options, **found.options, "socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}


# -- connections ---------------------------------------------------------------


class _Placed:
    """A connection to the node that has a slot when it is made."""

    def __init__(self, *, nodes: Any, slot: int, **options: Any) -> None:
        self._nodes = nodes
        self._slot = slot
        super().__init__(**options)

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        if not self._sock:  # type: ignore[attr-defined]
            self.host, self.port = self._nodes.owner(self._slot)
        super().connect_check_health(*args, **options)  # type: ignore[misc]


class _AsyncPlaced:
    """As `_Placed`, for asyncio."""

    def __init__(self, *, nodes: Any, slot: int, **options: Any) -> None:
        self._nodes = nodes
        self._slot = slot
        super().__init__(**options)

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:  # type: ignore[attr-defined]
            self.host, self.port = await self._nodes.owner(self._slot)
        await super().connect_check_health(*args, **options)  # type: ignore[misc]


class _Connection(_Placed, redis.Connection):
    pass


class _SSLConnection(_Placed, redis.SSLConnection):
    pass


class _AsyncConnection(_AsyncPlaced, redis.asyncio.Connection):
    pass


class _AsyncSSLConnection(_AsyncPlaced, redis.asyncio.SSLConnection):
    pass


# -- clients -------------------------------------------------------------------


def cluster_client(url: str, options: Mapping[str, Any], slot: int) -> redis.Redis:
    """A blocking client of the node that has a slot.

    Raises:
        ValueError: the URL is not one of a cluster.
    """
    found = ClusterUrl.parse(url)
    given = {**options, **found.options}
    kind = _SSLConnection if given.pop("ssl", False) else _Connection
    nodes = _Nodes(found, options)
    return redis.Redis.from_pool(redis.ConnectionPool(connection_class=kind, nodes=nodes, slot=slot, **given))


def cluster_client_async(url: str, options: Mapping[str, Any], slot: int) -> redis.asyncio.Redis:
    """As `cluster_client`, for asyncio."""
    found = ClusterUrl.parse(url)
    given = {**options, **found.options}
    kind = _AsyncSSLConnection if given.pop("ssl", False) else _AsyncConnection
    nodes = _AsyncNodes(found, options)
    pool = redis.asyncio.ConnectionPool(connection_class=kind, nodes=nodes, slot=slot, **given)
    return redis.asyncio.Redis.from_pool(pool)


def whole_cluster(url: str, options: Mapping[str, Any]) -> redis.RedisCluster:
    """redis-py's own client of all nodes, for what is not in a partition: RQ's registry of workers.

    Raises:
        ValueError: the URL is not one of a cluster.
    """
    found = ClusterUrl.parse(url)
    nodes = [ClusterNode(host, port) for host, port in found.nodes]
    kept = {name: value for name, value in {**options, **found.options}.items() if name != "retry"}
    return redis.RedisCluster(startup_nodes=nodes, **kept)
