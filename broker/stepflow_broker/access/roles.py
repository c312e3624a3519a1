"""The roles of those who use a server: what each may do, and which commands and keys that needs.

A role is the transitions that it makes, and the commands that it sends beside them. What the transitions need follows
from the scripts, so that it stays true when they change. A script is never half done for want of a right: a role has
all rights of its scripts, and what it may not do is refused at the first key or command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from stepflow_broker.protocol.keys import KEYS, RQ, Key, without_tag
from stepflow_broker.protocol.scripts import script, script_names
from stepflow_engine.product import NAME

__all__ = ["OPERATOR", "PRODUCER", "READER", "ROLES", "WORKER", "Role", "roles_that_may"]

_CONNECTING = "ping select client|setname time"
_CALLING = "eval evalsha"
_LISTENING = "subscribe unsubscribe"
_LOOKING = """
exists get hexists hget hgetall hkeys hlen hmget hscan hvals llen lpos lrange pttl scan scard sismember smembers sscan
ttl type xinfo|groups xlen xpending xrange xrevrange zcard zcount zrange zrangebyscore zrank zrevrange zscan zscore info
script|load
"""
_EXAMINATIONS = tuple(name for name in script_names() if name.startswith("examine_"))
_STEERING = ("pause", "resume", "cancel_run")
_CALL = re.compile(r"redis\.p?call\(([^,)]*)")
_WORD = re.compile(r"'([A-Z]+)'")


@dataclass(frozen=True, slots=True)
class Role:
    """What one kind of user may do.

    Attributes:
        name: as people say it; the server's user is ``stepflow-<name>``.
        what: what it is for.
        scripts: the transitions that it makes.
        sent: the commands that it sends itself; ``a|b`` is a subcommand.
        reads, writes: kinds of keys (see `KEYS`) that it only reads, and only writes.
        keys: kinds of keys that it needs for both, beside those that its scripts name.
        hears: kinds of channels that it subscribes to.
        more: patterns of keys and channels that are not stepflow's own.
        looks: whether it never writes, whatever its scripts might do for others.
        in_cluster: the commands that it sends on a cluster beside these.
    """

    name: str
    what: str
    scripts: tuple[str, ...]
    sent: tuple[str, ...]
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    hears: frozenset[str] = frozenset()
    more: tuple[str, ...] = ()
    looks: bool = False
    in_cluster: tuple[str, ...] = ("cluster|slots",)

    @property
    def user(self) -> str:
        """The name of its user on a server."""
        return f"{NAME}-{self.name}"

    @property
    def commands(self) -> tuple[str, ...]:
        """All commands that it needs, also those that its scripts call."""
        called = () if self.looks else (word for name in self.scripts for word in _called(name))
        return tuple(sorted({*self.sent, *called}))

    def access(self, key: Key) -> str:
        """How it uses a kind of key: ``R``, ``W``, ``RW``, or ``""``: not at all."""
        if key.name in self.reads:
            return "R"
        if key.name in self.writes:
            return "W"
        return "RW" if key.name in self.keys or any(key.name in _named(name) for name in self.scripts) else ""

    def uses(self, channel: Key) -> bool:
        """Whether it listens to a kind of channel, or its scripts publish there."""
        tells = not self.looks and any(channel.name in _named(name) for name in self.scripts)
        return tells or channel.name in self.hears

    def may(self, action: str) -> bool:
        """Whether it makes this transition, or sends this command, as `Command.action` names them."""
        command, _, name = action.partition(" ")
        if not name:
            return action in (*self.scripts, *self.sent, *self.in_cluster)
        name = without_tag(name)
        return command in self.sent and any(self.access(key) for key in KEYS if name.startswith(key.text))


@cache
def _called(name: str) -> frozenset[str]:
    """The commands that a script calls."""
    calls = _CALL.findall(script(name).text)
    return frozenset(word.lower() for call in calls for word in _WORD.findall(call))


@cache
def _named(name: str) -> frozenset[str]:
    """The kinds of keys and channels that a script names, in its text or as its KEYS."""
    found = script(name)
    given = {word.upper() for word in found.keys}
    return frozenset({*re.findall(r"\b[A-Z_]{3,}\b", found.text), *given, *(f"RQ_{word}" for word in given)})


def _all_keys() -> frozenset[str]:
    return frozenset(key.name for key in KEYS if key.type != "channel")


def _words(*texts: str) -> tuple[str, ...]:
    return tuple(word for text in texts for word in text.split())


PRODUCER = Role(
    "producer",
    "starts runs, sends events, waits for results, cancels runs that it knows",
    scripts=("start_runs", "cancel_run", "agree_partitions"),
    sent=_words(_CONNECTING, _CALLING, _LISTENING, "get hget hgetall hvals xadd set wait"),
    reads=frozenset({"PAUSED", "FUNCTIONS"}),
    writes=frozenset({"MEMOS", "EVENTS", "REPLICATED"}),
    hears=frozenset({"RUN_ENDED"}),
)

WORKER = Role(
    "worker",
    "executes runs: all transitions but those of an operator, and RQ's own keys",
    scripts=tuple(
        name for name in script_names() if name not in ("pause", "resume", "check_permissions", *_EXAMINATIONS)
    ),
    sent=_words(
        _CONNECTING,
        _CALLING,
        _LISTENING,
        "client|info info multi exec",
        "xadd xack xdel xautoclaim xreadgroup xgroup|create xrange",
        "exists expire del get hdel hget hgetall hincrby hkeys hmget hset hvals llen lrange",
        "sadd scard smembers srem zrange zremrangebyscore set wait",
    ),
    keys=_all_keys(),
    hears=frozenset({"READY", "NOTIFICATIONS", "PAUSES", "RUN_ENDED"}),
    more=(f"~{RQ}:*", f"&{RQ}:*"),
    in_cluster=("cluster|slots", "command"),  # of redis-py's client of all nodes, which is RQ's
)

OPERATOR = Role(
    "operator",
    "pauses, resumes, cancels, examines and repairs; reads everything",
    scripts=(
        *_STEERING,
        *_EXAMINATIONS,
        "check_permissions",
        "agree_partitions",
        "load_run",
        "reclaim_leases",
        "fire_timers",
        "wake_parent",
        "end_batch",
        "start_remote_child",
        "wake_remote_parent",
        "ack_message",
    ),
    sent=_words(_CONNECTING, _CALLING, _LISTENING, _LOOKING, "set expire del"),  # set, del: rq suspend, rq resume
    reads=frozenset({"FUNCTIONS", "VERSION", "EVENTS", "RQ_WORKERS", "RQ_WORKER", "CRON"}),
    keys=_all_keys(),
    hears=frozenset({"RUN_ENDED"}),
    in_cluster=("cluster|slots", "cluster|info"),
)

READER = Role(
    "read-only",
    "looks: runs, steps, functions, queues, workers, explain, doctor without --repair",
    scripts=("load_run", "load_batch", *_EXAMINATIONS),
    sent=_words(_CONNECTING, _CALLING, _LOOKING),
    keys=_all_keys(),  # to the server, who calls a script writes its KEYS; no command of this role's writes
    looks=True,
    in_cluster=("cluster|slots", "cluster|info"),
)

ROLES = (PRODUCER, WORKER, OPERATOR, READER)


def roles_that_may(action: str) -> list[str]:
    """The names of the roles that make this transition, or send this command, as `Command.action` names them."""
    return [role.name for role in ROLES if role.may(action)]
