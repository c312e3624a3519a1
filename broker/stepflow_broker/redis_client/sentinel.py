"""Sentinel: URLs that name sentinels, and clients that ask these for the primary whenever they connect.

A client knows no address but the sentinels'. So a connection that is lost, or that leads to a server which is no longer
the primary, need only be closed: the next one leads to the new primary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis import exceptions
from redis.connection import parse_url

from stepflow_broker.redis_client.url import SENTINEL_SCHEMES, read_address

__all__ = [
    "PrimaryAwayError",
    "SentinelUrl",
    "UnknownPrimaryError",
    "sentinel_client",
    "sentinel_client_async",
]

_DEFAULT_PORT = 26379
_TIMEOUT_S = 1.0
"""How long one sentinel may take to answer; then the next is asked."""


class PrimaryAwayError(exceptions.ConnectionError):
    """No sentinel knows of a primary that is up: none answers, or a fail-over is under way."""


class UnknownPrimaryError(exceptions.RedisError):
    """All sentinels answer, and none knows the name of the primary."""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a URL says.

    Attributes:
        sentinels: host and port of each.
        primary: the name that the sentinels have for it.
        server: options of connections to the primary.
        sentinel: options of connections to the sentinels.
    """

    sentinels: tuple[tuple[str, int], ...]
    primary: str
    server: dict[str, Any]
    sentinel: dict[str, Any]

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Read ``redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0``.

        User, password and database are the primary's; ``?sentinel_username=…&sentinel_password=…`` are the sentinels'
        own. With ``rediss+sentinel`` both speak TLS, by the same ``ssl_…`` options.

        Raises:
            ValueError: it is not one.
        """
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        primary, _, database = parts.path.strip("/").partition("/")
        if not primary:
            raise ValueError("it does not name the primary, as in …:26379/mymaster/0")
        if not (database or "0").isdecimal():
            raise ValueError(f"its database {database!r} is not a number")
        options = parse_url(f"{SENTINEL_SCHEMES[parts.scheme]}://{user}{at}any/{database}?{parts.query}")
        server = {name: value for name, value in options.items() if name not in ("host", "port", "connection_class")}
        sentinel = {name.removeprefix("sentinel_"): server.pop(name) for name in list(server) if _is_sentinels(name)}
        tls = {name: value for name, value in server.items() if name.startswith("ssl_")}
        if parts.scheme == "rediss+sentinel":
            server["ssl"] = tls["ssl"] = True
        sentinels = [read_address(host, default_port=_DEFAULT_PORT, what="sentinels") for host in hosts.split(",")]
        return cls(tuple(sentinels), unquote(primary), server, sentinel | tls)


def _is_sentinels(option: str) -> bool:
    return option in ("sentinel_username", "sentinel_password")


# -- clients -------------------------------------------------------------------


def sentinel_client(url: str, options: Mapping[str, Any]) -> redis.Redis:
    """A blocking client of the primary.

    Raises:
        ValueError: the URL is not one of sentinels.
    """
    found = SentinelUrl.parse(url)
    manager = _Sentinel(found.sentinels, sentinel_kwargs=_sentinel_options(options, found))  # type: ignore[no-untyped-call]
    pool = _Pool(found.primary, manager, **{**options, **found.server})  # type: ignore[no-untyped-call]
    return redis.Redis.from_pool(pool)


def sentinel_client_async(url: str, options: Mapping[str, Any]) -> redis.asyncio.Redis:
    """As `sentinel_client`, for asyncio."""
    found = SentinelUrl.parse(url)
    manager = _AsyncSentinel(found.sentinels, sentinel_kwargs=_sentinel_options(options, found))  # type: ignore[no-untyped-call]
    pool = _AsyncPool(found.primary, manager, **{**options, **found.server})  # type: ignore[no-untyped-call]
    return redis.asyncio.Redis.from_pool(pool)


def _sentinel_options(options: Mapping[str, Any], found: SentinelUrl) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name != "credential_provider"}  # the primary's
    return {**kept, "socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S, **found.sentinel}


class _Sentinel(redis.sentinel.Sentinel):
    def discover_master(self, service_name: str) -> tuple[str, int]:
        """The address of the primary, by the first sentinel that knows it; that one is asked first the next time."""
        inquiry = _Inquiry(service_name)
        for sentinel in self.sentinels:
            try:
                known: Any = sentinel.sentinel_masters()
            except (exceptions.RedisError, OSError) as error:
                inquiry.failed(error)
                continue
            if (address := inquiry.heard(known)) is not None:
                self.sentinels = _first(sentinel, self.sentinels)
                return address
        raise inquiry.error()


class _AsyncSentinel(redis.asyncio.sentinel.Sentinel):
    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """As that of `_Sentinel`."""
        inquiry = _Inquiry(service_name)
        for sentinel in self.sentinels:
            try:
                known: Any = await sentinel.sentinel_masters()
            except (exceptions.RedisError, OSError) as error:
                inquiry.failed(error)
                continue
            if (address := inquiry.heard(known)) is not None:
                self.sentinels = _first(sentinel, self.sentinels)
                return address
        raise inquiry.error()


class _Pool(redis.sentinel.SentinelConnectionPool):
    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; with all of them, those to the sentinels."""
        super().disconnect(inuse_connections)
        if inuse_connections:
            self.sentinel_manager.close()


class _AsyncPool(redis.asyncio.sentinel.SentinelConnectionPool):
    async def disconnect(self, inuse_connections: bool = True) -> None:
        """As that of `_Pool`."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def _first(sentinel: Any, sentinels: list[Any]) -> list[Any]:
    """A new list, since other threads may be going through the old one."""
    return [sentinel, *[other for other in sentinels if other is not sentinel]]


class _Inquiry:
    """What the sentinels say of one primary."""

    def __init__(self, primary: str) -> None:
        self._primary = primary
        self._failures: list[Exception] = []
        self._names: set[str] = set()
        self._is_known = False

    def failed(self, error: Exception) -> None:
        """A sentinel does not answer, or refuses to."""
        self._failures.append(error)

    def heard(self, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, int] | None:
        """A sentinel names the primaries that it knows; the address of ours, if it is up."""
        self._names.update(known)
        state = known.get(self._primary)
        if state is None:
            return None
        self._is_known = True
        if not state["is_master"] or state["is_sdown"] or state["is_odown"]:
            return None
        return str(state["ip"]), int(state["port"])

    def error(self) -> exceptions.RedisError:
        """Why there is no address."""
        failures = "; ".join(str(error) for error in self._failures)
        if self._is_known:
            return PrimaryAwayError(f"the sentinels say that primary {self._primary!r} is down")
        if not self._failures:
            names = ", ".join(repr(name) for name in sorted(self._names)) or "none"
            return UnknownPrimaryError(f"the sentinels know of no primary {self._primary!r}; they know: {names}")
        if all(isinstance(error, exceptions.AuthenticationError) for error in self._failures):
            return exceptions.AuthenticationError(f"the sentinels: {failures}")
        if self._names:
            return PrimaryAwayError(f"no sentinel that answers knows of primary {self._primary!r}: {failures}")
        return PrimaryAwayError(f"no sentinel answers: {failures}")
