"""Connections: clients of a URL with their options, and the requirements on a server."""

from __future__ import annotations

import encodings.idna  # noqa: F401  Python encodes host names with it; see below
import re
import socket
from collections.abc import Mapping
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from stepflow_broker.redis_client.cluster import owner_of, whole_cluster
from stepflow_broker.redis_client.errors import CLIENT_ERRORS, server_error
from stepflow_broker.redis_client.locator import LocatedServer
from stepflow_broker.redis_client.sentinel import primary_at
from stepflow_broker.redis_client.url import DEFAULT_URL, ServerUrl, bad_url, read_url, safe_url
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import NAME

__all__ = [
    "DEFAULT_URL",
    "check_server",
    "connect",
    "connect_all",
    "connect_async",
    "infos",
    "safe_url",
]

# Python imports `encodings.idna` in the first connection of a process. If the exception of a signal handler, such as
# the timeout of a web server, interrupts that import in one thread while another one waits for it, the codec is unknown
# from then on, and the process can never connect again.

C = TypeVar("C", redis.Redis, redis.asyncio.Redis)
SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
OLDEST_SERVER = (6, 2)


def _options(url: ServerUrl, retry: Retry | AsyncRetry) -> dict[str, Any]:
    return {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
        "health_check_interval": 30,
        "retry": retry,
        **({} if url.text.startswith("unix:") else _keepalive()),
        **url.options,
    }


def _keepalive() -> dict[str, Any]:
    """A connection to a machine that is gone breaks after 30 s, even if nothing is sent on it."""
    settings = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    known = {getattr(socket, name): value for name, value in settings.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": known}


def connect(url: str, *, slot: int = 0, **options: Any) -> redis.Redis:
    """A blocking client.

    Args:
        url: the URL of the server.
        slot: a slot of a cluster. The client connects to the node that owns it.
        options: options of redis-py that differ from the default.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    parsed = read_url(url)
    try:
        options = {**_options(parsed, Retry(NoBackoff(), 0)), **options}
        server = _located(parsed, options, slot)
        return _checked(server.client() if server else redis.Redis.from_url(parsed.text, **options))
    except (ValueError, TypeError, exceptions.RedisError) as error:
        raise bad_url(url, str(error)) from None


def connect_async(url: str, *, slot: int = 0, **options: Any) -> redis.asyncio.Redis:
    """As `connect`, for asyncio."""
    parsed = read_url(url)
    try:
        options = {**_options(parsed, AsyncRetry(NoBackoff(), 0)), **options}
        server = _located(parsed, options, slot)
        return _checked(server.async_client() if server else redis.asyncio.Redis.from_url(parsed.text, **options))
    except (ValueError, TypeError, exceptions.RedisError) as error:
        raise bad_url(url, str(error)) from None


def _located(url: ServerUrl, options: Mapping[str, Any], slot: int) -> LocatedServer | None:
    """The server of a URL whose address has to be searched; ``None``: the URL names the address itself."""
    if url.is_of_cluster:
        return owner_of(slot, url.text, options)
    return primary_at(url.text, options) if url.is_of_sentinels else None


def connect_all(url: str) -> Any:
    """A blocking client of redis-py for keys in no partition. On a cluster it is a client of all nodes.

    Raises:
        ConfigurationError: the URL is invalid.
        BackendUnavailableError: the cluster does not answer.
    """
    parsed = read_url(url)
    if not parsed.is_of_cluster:
        return connect(url)
    try:
        return whole_cluster(parsed.text, _options(parsed, Retry(NoBackoff(), 0)))
    except CLIENT_ERRORS as error:
        raise server_error(error, url, "cluster slots") from None
    except (ValueError, TypeError) as error:
        raise bad_url(url, str(error)) from None


def infos(client: Any) -> list[Mapping[str, Any]]:
    """The replies to ``INFO`` of a server, or of each primary of a cluster that answers.

    Raises:
        RedisError, OSError: none answers.
    """
    if not isinstance(client, redis.RedisCluster):
        return [client.info()]
    answers, failure = list[Mapping[str, Any]](), None
    for node in client.get_primaries():
        try:
            answers.append(client.info(target_nodes=node))
        except CLIENT_ERRORS as error:
            failure = error
    if failure is not None and not answers:
        raise failure
    return answers


def _checked(client: C) -> C:
    """The client, after a check of its options, which redis-py would only check at the first connection."""
    pool: Any = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client


def check_server(info: Mapping[str, Any], url: str) -> None:
    """Refuse a server that would lose runs.

    Args:
        info: its reply to ``INFO``.
        url: its URL, for the message.

    Raises:
        ConfigurationError: its version is too old, or it evicts keys when its memory is full.
    """
    version = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_SERVER:
        raise ConfigurationError(f"the server at {safe_url(url)} is version {version}; {NAME} needs 6.2 or newer")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise ConfigurationError(
            f"the server at {safe_url(url)} evicts keys (maxmemory-policy is {policy}), which would lose runs: "
            "run CONFIG SET maxmemory-policy noeviction, and set it in the server's configuration"
        )
