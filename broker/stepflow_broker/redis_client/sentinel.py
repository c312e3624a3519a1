"""Sentinel: URLs that name sentinels, and the search for the primary that the sentinels know."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.connection import parse_url

from stepflow_broker.redis_client.locator import Address, LocatedServer, Question, Search
from stepflow_broker.redis_client.url import SENTINEL_SCHEMES, read_address
from stepflow_engine.product import WORKER_LOGGER

__all__ = [
    "PrimaryUnavailableError",
    "SentinelLocator",
    "SentinelUrl",
    "UnknownPrimaryError",
    "primary_at",
]

_log = logging.getLogger(WORKER_LOGGER)
_DEFAULT_PORT = 26379
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
_TIMEOUT_S = 1.0
"""The time limit of one sentinel. After it, the next one is asked."""
_REPORT_S = 60.0
_reported: dict[Address, float] = {}
"""Sentinel → when this process has last reported it. Each of its clients asks the sentinels."""


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
    """Asks the sentinels for the address of a primary. See `stepflow_broker.redis_client.locator.Locator`.

    One sentinel may be wrong: it was cut off, or belongs to another installation. So the address counts that most of
    the sentinels name. Those that agreed are asked first the next time.

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
            PrimaryUnavailableError: the sentinels know no primary of this name that is up.
            UnknownPrimaryError: all sentinels answer, and none knows the name.
            AuthenticationError: all sentinels refuse the user or the password.
        """
        failures: list[Exception] = []
        names: set[str] = set()
        views: dict[Address, _View] = {}
        most = len(self._sentinels) // 2 + 1
        for sentinel in self._sentinels:
            known = yield Question(sentinel, ("SENTINEL MASTERS",))
            if isinstance(known, Exception):
                failures.append(known)
                continue
            names.update(known)
            if self._primary in known:
                view = _View.of(known[self._primary])
                views[sentinel] = view
                if view.is_up and [one.address for one in views.values()].count(view.address) >= most:
                    break
        if (address := _believed(views)) is None:
            raise self._error(names, failures)
        self._note(views, address)
        return address

    def _note(self, views: Mapping[Address, _View], address: Address) -> None:
        """Ask those first that named the address, and report the others that answered, once a minute."""
        right = [sentinel for sentinel, view in views.items() if view.address == address]
        last = [sentinel for sentinel in self._sentinels if sentinel in views and sentinel not in right]
        unasked = [sentinel for sentinel in self._sentinels if sentinel not in views]
        self._sentinels = (*right, *unasked, *last)
        now = time.monotonic()
        for sentinel in last:
            if now - _reported.get(sentinel, -_REPORT_S) >= _REPORT_S:
                _reported[sentinel] = now
                wrong, named = f"{sentinel[0]}:{sentinel[1]}", views[sentinel].address
                _log.warning(
                    "sentinel_disagrees",
                    extra={
                        "sentinel": wrong,
                        "primary": self._primary,
                        "named": f"{named[0]}:{named[1]}",
                        "used": f"{address[0]}:{address[1]}",
                    },
                )

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


@dataclass(frozen=True, slots=True)
class _View:
    """What one sentinel says of the primary.

    Attributes:
        address: its address.
        is_up: whether it is up.
        epoch: the number of the fail-over that made it the primary.
    """

    address: Address
    is_up: bool
    epoch: int

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _View:
        """Read the state of a primary, as redis-py parses ``SENTINEL MASTERS``."""
        is_up = bool(state["is_master"] and not state["is_sdown"] and not state["is_odown"])
        return cls((str(state["ip"]), int(state["port"])), is_up, int(state.get("config-epoch", 0)))


def _believed(views: Mapping[Address, _View]) -> Address | None:
    """The address that most sentinels name; ``None``: they say that it is down. Among equals, the newest that is up."""

    def weight(view: _View) -> tuple[int, bool, int]:
        votes = sum(other.address == view.address for other in views.values())
        return votes, view.is_up, view.epoch

    best = max(views.values(), key=weight, default=None)
    return best.address if best is not None and best.is_up else None
