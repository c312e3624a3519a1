"""Errors of the server and of the network: their meaning, and the errors of stepflow that callers receive."""

from __future__ import annotations

import os
import re

from redis import exceptions

from stepflow_broker.access.roles import roles_that_may
from stepflow_broker.redis_client.cluster import NodeUnavailableError, NotInClusterError
from stepflow_broker.redis_client.sentinel import PrimaryUnavailableError, UnknownPrimaryError
from stepflow_broker.redis_client.tls import explain_tls, tls_error
from stepflow_broker.redis_client.url import DEFAULT_URL, safe_url, user_of
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError, PermissionDeniedError, StepflowError
from stepflow_engine.product import NAME, REDIS_URL

__all__ = [
    "CLIENT_ERRORS",
    "ServerRefusesError",
    "is_permission_error",
    "is_refusal",
    "is_transient",
    "is_wrong_node",
    "outage_error",
    "server_error",
]

CLIENT_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
"""What redis-py raises for the server and the network. The client of a whole cluster has an error of its own."""


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
_WRONG_NODE = (
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,  # also MOVED's and CLUSTERDOWN's class
    exceptions.MovedError,
    exceptions.ClusterDownError,
    exceptions.BusyLoadingError,
)
_PERMISSION_DENIED = ("NOPERM", "ACL failure in script", "The user executing the script can't")
_REFUSED_LOGIN = ("NOAUTH", "WRONGPASS", "invalid username")
_TRANSIENT_CODES = frozenset({"BUSY", "NOREPLICAS", "UNBLOCKED"})


class ServerRefusesError(BackendUnavailableError):
    """The server refuses the user, a right or the TLS connection of a client that has worked with it before.

    Attributes:
        right: the command that the user may not call, or the kind of its arguments; ``""``: it is no right.
    """

    def __init__(self, message: str, *, right: str = "") -> None:
        super().__init__(message)
        self.right = right


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later, on this server or another."""
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError) or tls_error(error):
        return False
    if isinstance(error, _TRANSIENT_ERRORS) or str(error).partition(" ")[0] in _TRANSIENT_CODES:
        return True
    return is_wrong_node(error)


def is_refusal(error: BaseException) -> bool:
    """Whether the server refuses the user, the password, a right or the TLS connection.

    A client that connects for the first time is misconfigured. Later somebody is changing the server.
    """
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError) or is_permission_error(error):
        return True
    return str(error).startswith(_REFUSED_LOGIN) or tls_error(error) is not None


def is_wrong_node(error: BaseException) -> bool:
    """Whether the server that answers is not the primary, or is still loading. A new connection may lead to another.

    In a cluster: the node no longer owns the slot (MOVED), or is cut off.
    """
    if isinstance(error, _WRONG_NODE):
        return True
    return "-READONLY " in str(error)  # in a script, before Redis 7


def server_error(error: BaseException, url: str, action: str = "") -> StepflowError:
    """The error that a caller receives for an error of the server or of the connection.

    Args:
        action: the refused command, as `Command.action` names it.
    """
    where, text = safe_url(url), str(error)
    if is_permission_error(error):
        return _permission_denied(text, url, action)
    if tls := tls_error(error):
        return ConfigurationError(f"no TLS with the server at {where}: {explain_tls(tls)}")
    if (known := _error_for(error, where, text)) is not None:
        return known
    if text.startswith(_REFUSED_LOGIN):
        return ConfigurationError(f"the server at {where} refuses the user or password ({text}): correct redis_url")
    if "Too many open files" in text:
        return BackendUnavailableError(
            f"this process cannot connect to the server at {where} ({text}): close files that it does not need, or "
            "raise its limit (ulimit -n)"
        )
    if text.startswith(("OOM", "MISCONF")):
        return BackendUnavailableError(
            f"the server at {where} does not accept writes ({text}): free memory or disk, then go on"
        )
    if is_transient(error):
        return BackendUnavailableError(
            f"the server at {where} does not answer ({text}): is it running, {_advice_when_unreachable(url)}?"
        )
    return BackendUnavailableError(f"the server at {where} answers with an error: {text}")


def outage_error(error: BaseException, url: str, action: str = "") -> BackendUnavailableError:
    """As `server_error`, for a client that has worked with the server before: a refusal is an outage, too."""
    explained = server_error(error, url, action)
    if isinstance(explained, BackendUnavailableError):
        return explained
    return ServerRefusesError(str(explained), right=_refused_right(str(error)) if is_permission_error(error) else "")


def _refused_right(text: str) -> str:
    """The right that a refusal of the server names: a command, keys or channels. Versions differ in their texts."""
    command = re.search(r"'([\w|]+)' command", text)
    if command:
        return command[1].lower()
    return "channels" if "channel" in text else "keys" if "key" in text else "commands"


def _error_for(error: BaseException, where: str, text: str) -> StepflowError | None:
    match error:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return ConfigurationError(f"the server at {where} refuses the user or password ({text}): correct redis_url")
        case UnknownPrimaryError():
            return ConfigurationError(f"{where} names no primary ({text}): correct redis_url")
        case NotInClusterError():
            return ConfigurationError(f"{where}: {text}: write redis://… for a single server")
        case NodeUnavailableError():
            return BackendUnavailableError(f"no node of {where} can be asked ({text}): is the cluster running?")
        case PrimaryUnavailableError():
            return BackendUnavailableError(
                f"no primary is found by {where} ({text}): are the sentinels running, or is a fail-over under way?"
            )
        case exceptions.MovedError():
            return BackendUnavailableError(
                f"a partition of {where} has moved to another node ({text}), and is not found there yet"
            )
        case exceptions.TryAgainError() | exceptions.AskError():
            return BackendUnavailableError(
                f"a partition of {where} stands still while its slot moves to another node ({text})"
            )
        case exceptions.ReadOnlyError():
            return BackendUnavailableError(
                f"the server at {where} is a replica ({text}): name the primary, or its sentinels"
            )
        case exceptions.OutOfMemoryError():
            return BackendUnavailableError(
                f"the server at {where} is out of memory ({text}): raise maxmemory or free memory"
            )
    return None


def _advice_when_unreachable(url: str) -> str:
    if url.startswith("rediss"):  # servers neither report a port without TLS, nor always a missing certificate
        return "is this its tls-port, and does it want a certificate of clients (ssl_certfile=, ssl_keyfile=)"
    if url == os.environ.get(REDIS_URL):
        return f"and is {REDIS_URL} right"
    if url == DEFAULT_URL:
        return f"and is the default URL right, as {REDIS_URL} is not set"
    return "and is the URL right"


def is_permission_error(error: BaseException) -> bool:
    """Whether the server refuses the action to this user. The texts depend on its version, and differ in scripts."""
    return isinstance(error, exceptions.NoPermissionError) or any(text in str(error) for text in _PERMISSION_DENIED)


def _permission_denied(text: str, url: str, action: str) -> PermissionDeniedError:
    user = user_of(url)
    roles = roles_that_may(action)
    advice = f"{action} is for role {' or '.join(roles)}" if roles else f"no role of {NAME} has this right"
    return PermissionDeniedError(
        f"user {user} of the server at {safe_url(url)} may not do this ({action or 'command'}: {text}): {advice}; "
        "use a URL with a user of that role, or extend the user's ACL",
        user=user,
        action=action,
        roles=roles,
    )
