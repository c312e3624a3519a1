"""Check one server: its version, settings, replicas, memory and clock, and the rights of the user."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from stepflow_broker.access.roles import ROLES, Role
from stepflow_broker.doctor.findings import Finding, Severity
from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import REAL_CLOCK, server_time_ms
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import KEYS, Key, Keys
from stepflow_broker.protocol.scripts import script, script_names
from stepflow_broker.redis_client.connection import OLDEST_SERVER
from stepflow_engine.errors import ConfigurationError, StepflowError
from stepflow_engine.product import NAME

__all__ = ["Node", "examine_info", "examine_node", "is_in_partition", "key_of_nobody"]

T = TypeVar("T")
_CLOCK_MS = 5_000
_BACK_MS = 1_000
_FULL, _FILLING = 0.95, 0.8
_LAG_S = 30
_NOBODY = "doctor"
_SETTINGS = ("appendfsync", "cluster-require-full-coverage", "min-replicas-to-write")
_TRIES = re.findall(r"\{'([A-Z]+)'(?:, '([A-Z]+)', key)?", script("check_permissions").text)
_TRIED = frozenset("|".join(filter(None, words)).lower() for words in _TRIES)
"""The commands that are tried."""

_FSYNC = {
    "always": (Severity.OK, "no acknowledged write is lost, unless the disk loses it"),
    "everysec": (Severity.OK, "a power failure loses up to about 2 s of acknowledged writes"),
    "no": (Severity.WARNING, "a power failure loses what the system has not written yet, often 30 s: set everysec"),
    "": (Severity.OK, "the fsync policy is unknown, because this user may not read it or the server hides it"),
}  # fmt: skip


class Node(Protocol):
    """A client of one server."""

    def execute_all(self, calls: Sequence[Command[T]]) -> list[T]:
        """Send calls in one round trip, and return their answers."""
        ...


def examine_node(
    node: Node, partitions: Sequence[Keys], *, refused: Sequence[str] = (), in_cluster: bool = False
) -> list[Finding]:
    """Check a server. Each check gives a finding, also if it passes.

    Args:
        partitions: the partitions on it.
        refused: what the user may not do elsewhere, in the words of ``check_permissions``.
        in_cluster: whether it is known to be one of a cluster.

    Raises:
        BackendUnavailableError: the server does not answer.
        ConfigurationError: the server refuses the user.
    """
    info = _ask(node, command(replies.server_info, "INFO", "everything"))
    settings = {name: value for name in _SETTINGS if (value := _setting(node, name)) is not None}
    found = examine_info(info, settings, in_cluster=in_cluster)
    if info.get("cluster_enabled") == "1" and not in_cluster:
        return found  # it has only some of the partitions
    found += [_clock(node, partitions), _scripts(node)]
    return found + [_rights(node, keys, refused) for keys in partitions[:1]]


def examine_info(info: dict[str, str], settings: dict[str, str], *, in_cluster: bool = False) -> list[Finding]:
    """Check the ``INFO`` and the settings of a server.

    Args:
        info: its fields.
        settings: ``appendfsync``, ``min-replicas-to-write`` and ``cluster-require-full-coverage``, if they are known.
        in_cluster: whether it is known to be one of a cluster.
    """
    looks: list[Callable[[_Server], Iterator[Finding]]] = [_version, _eviction, _persistence, _replicas, _memory]
    server = _Server(info, settings, in_cluster)
    return [finding for look in [*looks, *[_coverage] * in_cluster] for finding in look(server)]


@dataclass(frozen=True, slots=True)
class _Server:
    """The ``INFO`` and the settings of a server."""

    info: dict[str, str]
    settings: dict[str, str]
    in_cluster: bool

    def number(self, name: str) -> int:
        """A field of ``INFO`` as a number; 0 if it is none."""
        found = re.match(r"\d+", self.info.get(name, ""))
        return int(found[0]) if found else 0


def _version(server: _Server) -> Iterator[Finding]:
    info, oldest = server.info, ".".join(map(str, OLDEST_SERVER))
    version = info.get("redis_version", "0")
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_SERVER:
        yield _error("version", f"the server is {name}; {NAME} needs Redis {oldest} or newer, or Valkey")
    else:
        yield _ok("version", f"the server is {name}")
    if info.get("cluster_enabled") == "1" and not server.in_cluster:
        yield _error(
            "version", "the server is a node of a cluster: write redis+cluster://host:port,host:port in redis_url"
        )


def _eviction(server: _Server) -> Iterator[Finding]:
    policy = server.info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        yield _ok("eviction", "the server evicts no keys: writes fail when its memory is full")
        return
    yield _error(
        "eviction", f"the server evicts keys ({policy}), so runs are lost: CONFIG SET maxmemory-policy noeviction"
    )


def _persistence(server: _Server) -> Iterator[Finding]:
    info = server.info
    if info.get("aof_enabled") == "1":
        policy = server.settings.get("appendfsync", "")
        severity, loss = _FSYNC.get(policy, _FSYNC[""])
        yield Finding(
            "persistence", severity, "server", f"the append-only file is on{', ' * bool(policy)}{policy}: {loss}"
        )
    else:
        yield _warning(
            "persistence",
            "the append-only file is off, so a restart loses everything since the last snapshot: "
            "CONFIG SET appendonly yes",
        )
    for field, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(field, "ok") != "ok":
            yield _error(
                "persistence", f"the last write of the {what} failed: check the disk and the log of the server"
            )
    if info.get("loading") == "1":
        yield _error("persistence", "the server is still loading its data: wait")


def _replicas(server: _Server) -> Iterator[Finding]:
    if server.info.get("role") == "slave":
        yield _error("replicas", "the server is a replica, which refuses writes: name the primary in the URL")
        return
    count, least = server.number("connected_slaves"), server.settings.get("min-replicas-to-write", "")
    if not count and server.in_cluster:
        yield _warning("replicas", "the server has no replica: if it is lost, its partitions stop")
        return
    if not count:
        yield _ok("replicas", "the server has no replica: if its disk is lost, everything is lost")
        return
    if least in ("", "0"):
        yield _warning(
            "replicas",
            f"the server has {count} replica(s) and also accepts writes without them, which a failover loses: "
            "CONFIG SET min-replicas-to-write 1",
        )
    else:
        yield _ok("replicas", f"the server has {count} replica(s) and accepts writes only with {least} of them")
    for name, text in server.info.items():
        if re.fullmatch(r"slave\d+", name):
            fields = {part.partition("=")[0]: part.partition("=")[2] for part in text.split(",")}
            if fields.get("state") != "online" or int(fields.get("lag", "0")) > _LAG_S:
                yield _warning("replicas", f"a replica is {fields.get('state')} and {fields.get('lag')} s behind")


def _memory(server: _Server) -> Iterator[Finding]:
    used, most, of = server.number("used_memory"), server.number("maxmemory"), "maxmemory"
    if not most:
        most, of = server.number("total_system_memory"), "the memory of the machine (maxmemory is not set)"
    if not most:
        yield _ok("memory", f"the server uses {used >> 20} MiB; its limit is unknown")
        return
    share = used / most
    severity = Severity.ERROR if share >= _FULL else Severity.WARNING if share >= _FILLING else Severity.OK
    advice = (
        "" if severity is Severity.OK else ": writes will fail soon; raise the limit, or shorten the retention of runs"
    )
    yield Finding("memory", severity, "server", f"the server uses {used >> 20} MiB, {share:.0%} of {of}{advice}")


def _coverage(server: _Server) -> Iterator[Finding]:
    match server.settings.get("cluster-require-full-coverage"):
        case "yes":
            text = "the server stops if another primary is lost: CONFIG SET cluster-require-full-coverage no"
            yield _warning("coverage", text)
        case "no":
            yield _ok("coverage", "the server continues if another primary is lost")


# -- asking the server ---------------------------------------------------------


def _clock(node: Node, partitions: Sequence[Keys]) -> Finding:
    """Compare the clock of the server with that of this machine and with stored times."""
    calls: list[Command[Any]] = [server_time_ms(REAL_CLOCK)]
    for keys in partitions:
        calls += (
            command(lambda reply: int(float(reply[1])) if reply else 0, "ZREVRANGE", keys("LIVE"), 0, 0, "WITHSCORES"),
            command(replies.entry_ms, "XREVRANGE", keys("EVENTS"), "+", "-", "COUNT", 1),
            command(replies.entry_ms, "XREVRANGE", keys("FINISHED"), "+", "-", "COUNT", 1),
        )
    before = REAL_CLOCK.now_ms()
    now, *stored = node.execute_all(calls)
    after = REAL_CLOCK.now_ms()
    if (back_ms := max(stored, default=0) - now) > _BACK_MS:
        text = f"the clock of the server is {back_ms / 1000:.0f} s behind stored times, so leases and timers are late"
        return _error(
            "clock", f"{text}: correct the clock; if it was ahead and is right now, run `{NAME} doctor --repair`"
        )
    apart_ms = max(before - now, now - after, 0)
    if apart_ms > _CLOCK_MS:
        return _warning(
            "clock",
            f"the clocks of the server and of this machine differ by {apart_ms / 1000:.0f} s; the server's counts",
        )
    return _ok("clock", "the clock of the server agrees with that of this machine and has not gone back")


def _scripts(node: Node) -> Finding:
    """Load every script."""
    for name in script_names():
        found = script(name)
        try:
            _ask(node, command(bytes, "SCRIPT", "LOAD", found.text))
        except StepflowError as error:
            return _error("scripts", f"the server refuses script {name}: {error}")
    return _ok("scripts", f"the server accepts all {len(script_names())} scripts")


def _rights(node: Node, keys: Keys, refused: Sequence[str]) -> Finding:
    """Try the commands and keys that workers use in a partition."""
    nobody = keys("RUN", _NOBODY)
    names = [key_of_nobody(keys, key) for key in KEYS if key.type != "channel" and is_in_partition(keys, key)]
    tried = [name for name in names if name not in (nobody, keys("RQ_SUSPENDED"))]
    try:
        refused = [
            *_ask(node, run_script("check_permissions", replies.texts, (nobody,), keys("RUN_ENDED", _NOBODY), *tried)),
            *refused,
        ]
    except ConfigurationError as error:
        return _error("rights", str(error))
    if not refused:
        return _ok("rights", "this user may use all commands and keys that workers use")
    if role := _role_of(keys, set(refused)):
        return _ok("rights", f"this user has the rights of role {role.name}: it {role.what}")
    more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
    return _error("rights", f"this user lacks rights of workers: {', '.join(refused[:5])}{more}; extend its ACL")


def _role_of(keys: Keys, refused: set[str]) -> Role | None:
    """The role with the rights of a user who was refused these tries."""
    nobody = (keys("RUN", _NOBODY), keys("RUN_ENDED", _NOBODY))
    commands = {words.partition(" ")[0].lower() for words in refused if words.endswith(nobody)}
    for role in ROLES:
        if commands == _TRIED - set(role.commands) and not refused & set(_needed(role, keys)):
            return role
    return None


def _needed(role: Role, keys: Keys) -> Iterator[str]:
    """The tries of keys that a role needs."""
    for key in KEYS:
        access = role.access(key) if key.type != "channel" else ""
        name = key_of_nobody(keys, key)
        if access:
            yield f"EXISTS {name}"
        if "W" in access and "persist" in role.commands and is_in_partition(keys, key):
            yield f"PERSIST {name}"


def key_of_nobody(keys: Keys, key: Key) -> str:
    """An unused key of this kind, or the only one."""
    return keys(key.name, _NOBODY if key.ids else "")


def is_in_partition(keys: Keys, key: Key) -> bool:
    """Whether each partition has its own keys of this kind. All partitions share the other kinds."""
    return keys(key.name).startswith(keys.partition)


def _ask(node: Node, call: Command[T]) -> T:
    return node.execute_all([call])[0]


def _setting(node: Node, name: str) -> str | None:
    """A setting; ``None``: the user may not read it, or the server hides it."""
    try:
        reply = _ask(node, command(replies.texts, "CONFIG", "GET", name))
    except StepflowError:
        return None
    return reply[1] if len(reply) == 2 else None


def _ok(code: str, text: str) -> Finding:
    return Finding(code, Severity.OK, "server", text)


def _warning(code: str, text: str) -> Finding:
    return Finding(code, Severity.WARNING, "server", text)


def _error(code: str, text: str) -> Finding:
    return Finding(code, Severity.ERROR, "server", text)
