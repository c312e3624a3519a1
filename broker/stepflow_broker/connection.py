"""Connections: from a URL to a client, the server's errors as ours, and what a server must be like."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from stepflow_broker.sentinel import (
    PrimaryAwayError,
    UnknownPrimaryError,
    is_sentinel_url,
    sentinel_client,
    sentinel_client_async,
)
from stepflow_engine.errors import ConfigurationError, ServerError

__all__ = [
    "DEFAULT_URL",
    "check_server",
    "connect",
    "connect_async",
    "is_misled",
    "is_transient",
    "safe_url",
    "server_error",
]

DEFAULT_URL = "redis://127.0.0.1:6379/0"
SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
OLDEST_SERVER = (6, 2)

_TRANSIENT_ERRORS = (
    exceptions.ConnectionError,  # also LOADING
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,  # also MASTERDOWN
    OSError,
    TimeoutError,
)
_TRANSIENT_WORDS = frozenset({"BUSY", "NOREPLICAS", "UNBLOCKED"})


def safe_url(url: str) -> str:
    """The URL without its passwords, for people and logs."""
    shown = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)  # to the last @: one in a password should be %40, and is not
    return re.sub(r"(password=)[^&]*", r"\1***", shown, flags=re.IGNORECASE)


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
        "health_check_interval": 30,
    }
    if url.startswith("unix:"):
        return options
    return {**options, "socket_keepalive": True, "socket_keepalive_options": _keepalive()}


def _keepalive() -> dict[int, int]:
    """After 30 s, a connection to a machine that is gone is broken, also one on which nothing is ever asked."""
    settings = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in settings.items() if hasattr(socket, name)}


def connect(url: str, **options: Any) -> redis.Redis:
    """A blocking client.

    Raises:
        ConfigurationError: the URL cannot be one of a server.
    """
    try:
        options = {**_options(url), "retry": Retry(NoBackoff(), 0), **options}
        client = sentinel_client(url, options) if is_sentinel_url(url) else redis.Redis.from_url(url, **options)
        _check_options(client.connection_pool)
    except (ValueError, TypeError) as error:
        raise _bad_url(url, error) from None
    return client


def connect_async(url: str, **options: Any) -> redis.asyncio.Redis:
    """A client for asyncio.

    Raises:
        ConfigurationError: the URL cannot be one of a server.
    """
    try:
        options = {**_options(url), "retry": AsyncRetry(NoBackoff(), 0), **options}
        client = (
            sentinel_client_async(url, options)
            if is_sentinel_url(url)
            else redis.asyncio.Redis.from_url(url, **options)
        )
        _check_options(client.connection_pool)
    except (ValueError, TypeError) as error:
        raise _bad_url(url, error) from None
    return client


def _check_options(pool: Any) -> None:
    """Make a connection and do not connect it: redis-py looks at a URL's options only then.

    Raises:
        TypeError, ValueError: one of them is not known.
    """
    pool.connection_class(**pool.connection_kwargs)


def _bad_url(url: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"redis_url {safe_url(url)!r} is not a server's URL ({error}): write redis://host:6379/0, "
        "rediss://… for TLS, unix:///path, or redis+sentinel://host1:26379,host2:26379/primary/0 for sentinels, "
        "in redis_url= or STEPFLOW_REDIS_URL"
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return False
    if isinstance(error, _TRANSIENT_ERRORS) or str(error).partition(" ")[0] in _TRANSIENT_WORDS:
        return True
    return is_misled(error)


def is_misled(error: BaseException) -> bool:
    """Whether a server answers that is not the primary, or not yet: a new connection may lead to the one that is."""
    if isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError | exceptions.BusyLoadingError):
        return True
    return "-READONLY " in str(error)  # in a script, before Redis 7


def server_error(error: BaseException, url: str) -> Exception:
    """The error to show for one of the server's or the connection's."""
    where, text = safe_url(url), str(error)
    match error:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return ConfigurationError(f"the server at {where} refuses the user or password ({text}): correct redis_url")
        case exceptions.NoPermissionError():
            return ConfigurationError(f"the server at {where} denies a right ({text}): extend the user's ACL")
        case UnknownPrimaryError():
            return ConfigurationError(f"{where} names no primary ({text}): correct redis_url")
        case PrimaryAwayError():
            return ServerError(
                f"no primary is found by {where} ({text}): are the sentinels running, or is a fail-over under way?"
            )
        case exceptions.ReadOnlyError():
            return ServerError(f"the server at {where} is a replica ({text}): name the primary, or its sentinels")
        case exceptions.OutOfMemoryError():
            return ServerError(f"the server at {where} is out of memory ({text}): raise maxmemory or free memory")
    if text.startswith(("NOAUTH", "WRONGPASS", "invalid username")):
        return ConfigurationError(f"the server at {where} refuses the user or password ({text}): correct redis_url")
    if text.startswith(("OOM", "MISCONF")):
        return ServerError(f"the server at {where} does not accept writes ({text}): free memory or disk, then go on")
    if is_transient(error):
        return ServerError(f"the server at {where} does not answer ({text}): is it running, and is the URL right?")
    return ServerError(f"the server at {where} answers with an error: {text}")


def check_server(info: Mapping[str, Any], url: str) -> None:
    """Refuse a server that would lose work.

    Args:
        info: the server's ``INFO``.
        url: its URL, for the message.

    Raises:
        ConfigurationError: its version is too old, or it evicts keys when its memory is full.
    """
    version = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_SERVER:
        raise ConfigurationError(f"the server at {safe_url(url)} is version {version}; stepflow needs 6.2 or newer")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise ConfigurationError(
            f"the server at {safe_url(url)} evicts keys (maxmemory-policy is {policy}), which would lose runs: "
            "run CONFIG SET maxmemory-policy noeviction, and set it in the server's configuration"
        )
