"""Connections: from a URL to a client, the server's errors as ours, and what a server must be like."""

from __future__ import annotations

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

from stepflow_broker.cluster import (
    NodeAwayError,
    NotInClusterError,
    cluster_client,
    cluster_client_async,
    whole_cluster,
)
from stepflow_broker.roles import roles_that_may
from stepflow_broker.sentinel import PrimaryAwayError, UnknownPrimaryError, sentinel_client, sentinel_client_async
from stepflow_broker.server_url import ServerUrl, bad_url, read_url, safe_url, user_of
from stepflow_broker.tls import explain_tls, tls_error
from stepflow_engine.errors import ConfigurationError, MissingRightError, ServerError

__all__ = [
    "DEFAULT_URL",
    "check_server",
    "connect",
    "connect_all",
    "connect_async",
    "infos",
    "is_misled",
    "is_refused_right",
    "is_transient",
    "safe_url",
    "server_error",
]

C = TypeVar("C", redis.Redis, redis.asyncio.Redis)
DEFAULT_URL = "redis://127.0.0.1:6379/0"
SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
OLDEST_SERVER = (6, 2)

_TRANSIENT_ERRORS = (
    exceptions.ConnectionError,  # also LOADING
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.AskError,
    exceptions.ClusterDownError,  # also MASTERDOWN
    OSError,
    TimeoutError,
)
_MISLED = (
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,  # also MOVED's and CLUSTERDOWN's class
    exceptions.MovedError,
    exceptions.ClusterDownError,
    exceptions.BusyLoadingError,
)
_REFUSED_RIGHT = ("NOPERM", "ACL failure in script", "The user executing the script can't")
_TRANSIENT_WORDS = frozenset({"BUSY", "NOREPLICAS", "UNBLOCKED"})


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
    """After 30 s, a connection to a machine that is gone is broken, also one on which nothing is ever asked."""
    settings = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    known = {getattr(socket, name): value for name, value in settings.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": known}


def connect(url: str, *, slot: int = 0, **options: Any) -> redis.Redis:
    """A blocking client.

    Args:
        slot: of a cluster; the client's server is the node that has it.

    Raises:
        ConfigurationError: the URL cannot be one of a server.
    """
    given = read_url(url)
    try:
        options = {**_options(given, Retry(NoBackoff(), 0)), **options}
        if given.is_of_cluster:
            return _checked(cluster_client(given.text, options, slot))
        if given.is_of_sentinels:
            return _checked(sentinel_client(given.text, options))
        return _checked(redis.Redis.from_url(given.text, **options))
    except (ValueError, TypeError, exceptions.RedisError) as error:
        raise bad_url(url, str(error)) from None


def connect_async(url: str, *, slot: int = 0, **options: Any) -> redis.asyncio.Redis:
    """As `connect`, for asyncio."""
    given = read_url(url)
    try:
        options = {**_options(given, AsyncRetry(NoBackoff(), 0)), **options}
        if given.is_of_cluster:
            return _checked(cluster_client_async(given.text, options, slot))
        if given.is_of_sentinels:
            return _checked(sentinel_client_async(given.text, options))
        return _checked(redis.asyncio.Redis.from_url(given.text, **options))
    except (ValueError, TypeError, exceptions.RedisError) as error:
        raise bad_url(url, str(error)) from None


def connect_all(url: str) -> Any:
    """A blocking client, of a cluster one of all its nodes: redis-py's own, for what is in no partition.

    Raises:
        ConfigurationError: the URL cannot be one of a server.
        ServerError: the cluster does not answer.
    """
    given = read_url(url)
    if not given.is_of_cluster:
        return connect(url)
    try:
        return whole_cluster(given.text, _options(given, Retry(NoBackoff(), 0)))
    except (exceptions.RedisError, OSError) as error:
        raise server_error(error, url, "cluster slots") from None
    except (ValueError, TypeError) as error:
        raise bad_url(url, str(error)) from None


def infos(client: Any) -> list[Mapping[str, Any]]:
    """``INFO`` of a server, or of each primary of a cluster."""
    if isinstance(client, redis.RedisCluster):
        found: Any = client.info(target_nodes=redis.RedisCluster.PRIMARIES)
        return list(found.values()) if all(isinstance(one, dict) for one in found.values()) else [found]
    return [client.info()]


def _checked(client: C) -> C:
    """The client, if a connection can be made with its options, which redis-py finds out when it needs the first."""
    pool: Any = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError) or tls_error(error):
        return False
    if isinstance(error, _TRANSIENT_ERRORS) or str(error).partition(" ")[0] in _TRANSIENT_WORDS:
        return True
    return is_misled(error)


def is_misled(error: BaseException) -> bool:
    """Whether a server answers that is not the primary, or not yet: a new connection may lead to the one that is.

    Of a cluster: a node that has the slot no longer (MOVED), or is cut off.
    """
    if isinstance(error, _MISLED):
        return True
    return "-READONLY " in str(error)  # in a script, before Redis 7


def server_error(error: BaseException, url: str, action: str = "") -> Exception:
    """The error to show for one of the server's or the connection's.

    Args:
        action: what was to be done, as `Call.action` names it.
    """
    where, text = safe_url(url), str(error)
    if is_refused_right(error):
        return _missing_right(text, url, action)
    if tls := tls_error(error):
        return ConfigurationError(f"no TLS with the server at {where}: {explain_tls(tls)}")
    if (told := _told_by_class(error, where, text)) is not None:
        return told
    if text.startswith(("NOAUTH", "WRONGPASS", "invalid username")):
        return ConfigurationError(f"the server at {where} refuses the user or password ({text}): correct redis_url")
    if text.startswith(("OOM", "MISCONF")):
        return ServerError(f"the server at {where} does not accept writes ({text}): free memory or disk, then go on")
    if is_transient(error):
        return ServerError(f"the server at {where} does not answer ({text}): is it running, {_asked_when_away(url)}?")
    return ServerError(f"the server at {where} answers with an error: {text}")


def _told_by_class(error: BaseException, where: str, text: str) -> Exception | None:
    match error:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return ConfigurationError(f"the server at {where} refuses the user or password ({text}): correct redis_url")
        case UnknownPrimaryError():
            return ConfigurationError(f"{where} names no primary ({text}): correct redis_url")
        case NotInClusterError():
            return ConfigurationError(f"{where}: {text}: write redis://… for a single server")
        case NodeAwayError():
            return ServerError(f"no node of {where} can be asked ({text}): is the cluster running?")
        case PrimaryAwayError():
            return ServerError(
                f"no primary is found by {where} ({text}): are the sentinels running, or is a fail-over under way?"
            )
        case exceptions.MovedError():
            return ServerError(f"a partition of {where} has moved to another node ({text}), and is not found there yet")
        case exceptions.TryAgainError() | exceptions.AskError():
            return ServerError(f"a partition of {where} stands still while its slot moves to another node ({text})")
        case exceptions.ReadOnlyError():
            return ServerError(f"the server at {where} is a replica ({text}): name the primary, or its sentinels")
        case exceptions.OutOfMemoryError():
            return ServerError(f"the server at {where} is out of memory ({text}): raise maxmemory or free memory")
    return None


def _asked_when_away(url: str) -> str:
    if url.startswith("rediss"):  # a server says neither that its port has no TLS, nor always what it wants of clients
        return "is this its tls-port, and does it want a certificate of clients (ssl_certfile=, ssl_keyfile=)"
    return "and is the URL right"


def is_refused_right(error: BaseException) -> bool:
    """Whether the server refuses something to its user; how it says so depends on its version and on scripts."""
    return isinstance(error, exceptions.NoPermissionError) or any(words in str(error) for words in _REFUSED_RIGHT)


def _missing_right(text: str, url: str, action: str) -> MissingRightError:
    user = user_of(url)
    roles = roles_that_may(action)
    advice = f"{action} is for role {' or '.join(roles)}" if roles else "no role of stepflow's has this right"
    return MissingRightError(
        f"user {user} of the server at {safe_url(url)} may not do this ({action or 'command'}: {text}): {advice}; "
        "use a URL with a user of that role, or extend the user's ACL",
        user=user,
        action=action,
        roles=roles,
    )


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
