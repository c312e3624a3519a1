"""Sentinel: URLs that name sentinels, and the search for the primary that the sentinels know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.connection import parse_url

from stepflow_broker.redis_client.locator import Address, LocatedServer, Question, Search
from stepflow_broker.redis_client.url import SENTINEL_SCHEMES, read_address

__all__ = [
    "PrimaryUnavailableError",
    "SentinelLocator",
    "SentinelUrl",
    "UnknownPrimaryError",
    "primary_at",
]

_DEFAULT_PORT = 26379
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
_TIMEOUT_S = 1.0
"""The time limit of one sentinel. After it, the next one is asked."""


class PrimaryUnavailableError(exceptions.ConnectionError):
    """No sentinel knows a primary that is up: none answers, or a fail-over is in progress."""


class UnknownPrimaryError(exceptions.RedisError):
    """All sentinels answer, and none knows a primary of this name."""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """A parsed URL of sentinels.

    Attributes:
        sentinels: the address of each sentinel.
        primary: the name under which the sentinels monitor the primary.
        server: options of connections to the primary.
        sentinel: options of connections to the sentinels.
    """

    sentinels: tuple[Address, ...]
    primary: str
    server: dict[str, Any]
    sentinel: dict[str, Any]

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Read ``redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0``.

        User, password and database are those of the primary. ``?sentinel_username=…&sentinel_password=…`` are those of
        the sentinels. With ``rediss+sentinel`` both use TLS, with the same ``ssl_…`` options.

        Raises:
            ValueError: the URL is invalid.
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
        sentinel = {name.removeprefix("sentinel_"): server.pop(name) for name in _SENTINEL_LOGIN if name in server}
        tls = {name: value for name, value in server.items() if name.startswith("ssl_")}
        if parts.scheme == "rediss+sentinel":
            server["ssl"] = tls["ssl"] = True
        sentinels = [read_address(host, default_port=_DEFAULT_PORT, what="sentinels") for host in hosts.split(",")]
        return cls(tuple(sentinels), unquote(primary), server, sentinel | tls)


def primary_at(url: str, options: Mapping[str, Any]) -> LocatedServer:
    """The primary that the sentinels of a URL know.

    Args:
        options: the options of connections to the primary, as far as the URL does not set them.

    Raises:
        ValueError: the URL is invalid.
    """
    parsed = SentinelUrl.parse(url)
    # the credential provider has the password of the primary
    search_options = {name: value for name, value in options.items() if name != "credential_provider"}
    search_options |= {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S, **parsed.sentinel}
    locator = SentinelLocator(parsed.sentinels, parsed.primary, search_options)
    return LocatedServer(locator, {**options, **parsed.server})


class SentinelLocator:
    """Asks the sentinels in turn for the address of a primary. See `stepflow_broker.redis_client.locator.Locator`.

    The sentinel that knew the address is asked first the next time.

    Args:
        sentinels: the addresses of the sentinels.
        primary: the name under which they monitor the primary.
        options: the options of connections to the sentinels.
    """

    def __init__(self, sentinels: tuple[Address, ...], primary: str, options: Mapping[str, Any]) -> None:
        self.options = options
        self.address: Address | None = None
        self._sentinels = sentinels
        self._primary = primary

    def search(self) -> Search:
        """Search for the primary.

        Raises:
            PrimaryUnavailableError: no sentinel knows a primary of this name that is up.
            UnknownPrimaryError: all sentinels answer, and none knows the name.
            AuthenticationError: all sentinels refuse the user or the password.
        """
        failures: list[Exception] = []
        names: set[str] = set()
        for sentinel in self._sentinels:
            known = yield Question(sentinel, ("SENTINEL MASTERS",))
            if isinstance(known, Exception):
                failures.append(known)
                continue
            names.update(known)
            if self._primary in known and (address := _address_if_up(known[self._primary])):
                self._sentinels = (sentinel, *[other for other in self._sentinels if other != sentinel])
                return address
        raise self._error(names, failures)

    def _error(self, names: set[str], failures: list[Exception]) -> exceptions.RedisError:
        """The reason why no sentinel has named an address."""
        primary, text = self._primary, "; ".join(str(error) for error in failures)
        if primary in names:
            return PrimaryUnavailableError(f"the sentinels say that primary {primary!r} is down")
        if not failures:
            known = ", ".join(repr(name) for name in sorted(names)) or "none"
            return UnknownPrimaryError(f"the sentinels know of no primary {primary!r}; they know: {known}")
        if all(isinstance(error, exceptions.AuthenticationError) for error in failures):
            return exceptions.AuthenticationError(f"the sentinels: {text}")
        if names:
            return PrimaryUnavailableError(f"no sentinel that answers knows of primary {primary!r}: {text}")
        return PrimaryUnavailableError(f"no sentinel answers: {text}")


def _address_if_up(state: Mapping[str, Any]) -> Address | None:
    """The address in the state of a primary, as redis-py parses ``SENTINEL MASTERS``; ``None`` if it is down."""
    if not state["is_master"] or state["is_sdown"] or state["is_odown"]:
        return None
    return str(state["ip"]), int(state["port"])
