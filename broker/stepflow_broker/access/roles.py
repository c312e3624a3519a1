"""The roles of users of a server, and the commands and keys that each role needs.

A role lists its transitions and the other commands that it sends. The rights for the transitions are derived from the
scripts, so they stay correct when a script changes. A script never stops half-way for lack of a right to a command: it
first checks all rights that it may need (`stepflow_broker.protocol.lua_rights`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from stepflow_broker.protocol.keys import KEYS, RQ, Key, without_tag
from stepflow_broker.protocol.lua_rights import called_commands
from stepflow_broker.protocol.scripts import script, script_names
from stepflow_engine.product import NAME

__all__ = ["OPERATOR", "PRODUCER", "READER", "ROLES", "WORKER", "Role", "roles_that_may"]

_CONNECTING = "ping select client|setname time"
_CALLING = "eval evalsha"
_LISTENING = "subscribe unsubscribe"
_LOOKING = """
exists get hexists hget hgetall hkeys hlen hmget hscan hvals llen lpos lrange pttl scan scard sismember smembers sscan
ttl type xinfo|groups xlen xpending xrange xrevrange zcard zcount zrange zrangebyscore zrank zrevrange
zrevrangebyscore zrevrank zscan zscore info script|load
"""
_EXAMINATIONS = tuple(name for name in script_names() if name.startswith("examine_"))
_OPERATING = ("pause", "resume", "set_limit", "reset_limit", "resend_event", "check_permissions", *_EXAMINATIONS)
_STEERING = (
    "pause",
    "resume",
    "set_limit",
    "reset_limit",
    "cancel_run",
    "fork_run",
    "add_bulk_runs",
    "start_bulk",
    "stop_bulk",
    "resend_event",
    "record_action",
    "cancel_event",
    "change_schedule",
    "fire_schedule",
    "send_signal",
    "answer_ask",
)


@dataclass(frozen=True, slots=True)
class Role:
    """The rights of one kind of user.

    Attributes:
        name: the name of the role. Its Redis user is ``stepflow-<name>``.
        what: its purpose.
        scripts: the transitions that it executes.
        sent: the commands that it sends outside scripts; ``a|b`` is a subcommand.
        reads, writes: kinds of keys (see `KEYS`) that it only reads, and only writes.
        keys: kinds of keys that it reads and writes, in addition to the keys of its scripts.
        subscribed: kinds of channels that it subscribes to.
        more: patterns of keys and channels that do not belong to stepflow.
        is_read_only: whether it never writes. Its scripts then read only.
        in_cluster: the commands that it sends only on a cluster.
    """

    name: str
    what: str
    scripts: tuple[str, ...]
    sent: tuple[str, ...]
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    subscribed: frozenset[str] = frozenset()
    more: tuple[str, ...] = ()
    is_read_only: bool = False
    in_cluster: tuple[str, ...] = ("cluster|slots",)

    @property
    def user(self) -> str:
        """The name of its Redis user."""
        return f"{NAME}-{self.name}"

    @property
    def commands(self) -> tuple[str, ...]:
        """All commands that it needs, including those that its scripts call."""
        called = () if self.is_read_only else (word for name in self.scripts for word in _called(name))
        return tuple(sorted({*self.sent, *called}))

    def access(self, key: Key) -> str:
        """Its access to a kind of key: ``R``, ``W``, ``RW``, or ``""`` for none."""
        if key.name in self.reads:
            return "R"
        if key.name in self.writes:
            return "W"
        return "RW" if key.name in self.keys or any(key.name in _named(name) for name in self.scripts) else ""

    def uses(self, channel: Key) -> bool:
        """Whether it subscribes to a kind of channel, or its scripts publish to it."""
        publishes = not self.is_read_only and any(channel.name in _named(name) for name in self.scripts)
        return publishes or channel.name in self.subscribed

    def may(self, action: str) -> bool:
        """Whether it has the right to an action: a transition or a command, as `Command.action` names it."""
        command, _, name = action.partition(" ")
        if not name:
            return action in (*self.scripts, *self.sent, *self.in_cluster)
        name = without_tag(name)
        return command in self.sent and any(self.access(key) for key in KEYS if name.startswith(key.text))


@cache
def _called(name: str) -> frozenset[str]:
    """The commands that a script calls."""
    return frozenset(word.lower() for word in called_commands(script(name).text))


@cache
def _named(name: str) -> frozenset[str]:
    """The kinds of keys and channels that a script uses, in its text or as its KEYS."""
    used = script(name)
    keys = {word.upper() for word in used.keys}
    return frozenset({*re.findall(r"\b[A-Z_]{3,}\b", used.text), *keys, *(f"RQ_{word}" for word in keys)})


def _all_keys() -> frozenset[str]:
    return frozenset(key.name for key in KEYS if key.type != "channel")


def _commands(*texts: str) -> tuple[str, ...]:
    return tuple(word for text in texts for word in text.split())


PRODUCER = Role(
    "producer",
    "starts runs, sends events and signals, changes schedules, waits for results, cancels runs that it knows",
    scripts=(
        "start_runs",
        "start_runs_later",
        "cancel_run",
        "delay_event",
        "cancel_event",
        "change_schedule",
        "fire_schedule",
        "send_signal",
        "agree_partitions",
    ),
    sent=_commands(_CONNECTING, _CALLING, _LISTENING, "get hget hgetall hmget hscan hvals xadd set wait zrange"),
    reads=frozenset({"PAUSED", "FUNCTIONS"}),
    writes=frozenset({"MEMOS", "EVENTS", "REPLICATED"}),
    subscribed=frozenset({"RUN_ENDED"}),
)

WORKER = Role(
    "worker",
    "executes runs: all transitions but those of an operator, and RQ's own keys",
    scripts=tuple(name for name in script_names() if name not in _OPERATING),
    sent=_commands(
        _CONNECTING,
        _CALLING,
        _LISTENING,
        "client|info info multi exec",
        "xadd xack xdel xautoclaim xpending xreadgroup xgroup|create xrange",
        "exists expire del get hdel hget hgetall hincrby hkeys hmget hrandfield hscan hset hvals llen lrange",
        "sadd scard smembers srem zrange zremrangebyscore zrevrangebyscore zscan set wait",
    ),
    keys=_all_keys(),
    subscribed=frozenset({"READY", "NOTIFICATIONS", "PAUSES", "RUN_ENDED"}),
    more=(f"~{RQ}:*", f"&{RQ}:*"),
    in_cluster=("cluster|slots", "command"),  # of redis-py's cluster client, which RQ uses
)

OPERATOR = Role(
    "operator",
    "pauses, resumes, cancels, runs again, examines and repairs; reads everything",
    scripts=(
        *_STEERING,
        *_EXAMINATIONS,
        "check_permissions",
        "agree_partitions",
        "forget_function",
        "unpin_run",
        "accept_mismatch",
        "load_run",
        "page_index",
        "reclaim_leases",
        "fire_timers",
        "wake_parent",
        "end_batch",
        "start_remote_child",
        "wake_remote_parent",
        "ack_message",
    ),
    sent=_commands(_CONNECTING, _CALLING, _LISTENING, _LOOKING, "set expire del"),  # set, del: rq suspend, rq resume
    reads=frozenset({"FUNCTIONS", "VERSION", "EVENTS", "RQ_WORKERS", "RQ_WORKER", "CRON"}),
    keys=_all_keys(),
    subscribed=frozenset({"RUN_ENDED"}),
    in_cluster=("cluster|slots", "cluster|info"),
)

READER = Role(
    "read-only",
    "looks: runs, steps, functions, queues, workers, explain, doctor without --repair",
    scripts=("load_run", "load_batch", "page_index", *_EXAMINATIONS),
    sent=_commands(_CONNECTING, _CALLING, _LOOKING),
    keys=_all_keys(),  # Redis ACLs count the KEYS of a script as writes; no command of this role writes
    is_read_only=True,
    in_cluster=("cluster|slots", "cluster|info"),
)

ROLES = (PRODUCER, WORKER, OPERATOR, READER)


def roles_that_may(action: str) -> list[str]:
    """The names of the roles that have the right to an action; see `Role.may`."""
    return [role.name for role in ROLES if role.may(action)]
