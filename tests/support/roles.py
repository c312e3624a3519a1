"""Users for the roles on the servers of tests: with ``--acl``, each process has only the rights of its role."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import redis

from stepflow_broker.access.acl import acl_file, rules
from stepflow_broker.access.roles import ROLES

__all__ = ["as_role", "as_roles", "knows_users", "password_of", "role_of_words", "users_option"]

ADMIN = "admin"
_ADDRESS = re.compile(r"^rediss?://(?:[^@/]*@)?([^/]+)")
_known: set[str] = set()
"""Addresses of servers that have users."""

_FRESH = ("resetkeys", "resetchannels", "-@all")
"""What a user's rules begin with."""

_PRODUCING = frozenset({"start", "send", "invoke"})
_STEERING = frozenset(
    {
        "answer",
        "backfill",
        "cancel",
        "create",
        "delete",
        "fork",
        "pause",
        "rerun",
        "reset",
        "resume",
        "retry",
        "set",
        "signal",
        "stop",
        "trigger",
        "unpin",
    }
)


def password_of(role: str) -> str:
    """The password of a role's user."""
    return f"secret-of-{role}"


def users_option(folder: Path, *, divided: bool | None = None) -> dict[str, str]:
    """The option that gives a server its users.

    Args:
        divided: whether its keys are divided into partitions; ``None``: by some tests.
    """
    names = [*(role.name for role in ROLES), ADMIN]
    path = folder / "users.acl"
    file = acl_file({name: password_of(name) for name in names}, cluster=bool(divided))
    for role in ROLES if divided is None else ():
        more = " ".join(word for word in rules(role, cluster=True) if word not in _FRESH)
        file = re.sub(rf"^user {role.user} .*$", rf"\g<0> {more}", file, flags=re.MULTILINE)
    path.write_text(file)
    return {"aclfile": str(path)}


def knows_users(url: str) -> None:
    """From now on, the server at this URL is one that has users."""
    _known.add(_address(url))


def as_role(url: str, role: str) -> str:
    """The URL with a role's user, if it is that of a server with users; any other text as it is."""
    if not _has_users(url):
        return url
    user = role if role == ADMIN else f"stepflow-{role}"
    return _named(url, user, password_of(role))


def as_roles(url: str, names: Sequence[str]) -> str:
    """The URL with a user who has the rights of several roles."""
    if len(names) == 1 or not _has_users(url):
        return as_role(url, names[0])
    user = "and".join(names)
    given = [rules(role, cluster=cluster) for role in ROLES if role.name in names for cluster in (False, True)]
    granted = [*_FRESH, *(word for words in given for word in words if word not in _FRESH)]
    with redis.Redis.from_url(as_role(url, ADMIN)) as admin:
        admin.execute_command("ACL", "SETUSER", user, "on", f">{password_of(user)}", *granted)
    return _named(url, user, password_of(user))


def role_of_words(program: str, words: Sequence[str]) -> str:
    """The role that a command line needs."""
    if program == "worker" or words[:1] in (("worker",), ("dev",)):
        return "worker"
    if "--repair" in words or any(word in _STEERING for word in words[:2]):
        return "operator"
    return "producer" if words and words[0] in _PRODUCING else "read-only"


def _has_users(url: str) -> bool:
    return _address(url) in _known


def _address(url: str) -> str:
    found = _ADDRESS.match(url)
    return found[1] if found else ""


def _named(url: str, user: str, password: str) -> str:
    scheme, _, address = url.partition("://")
    return f"{scheme}://{user}:{password}@{address.rpartition('@')[2]}"
