"""Every Redis key and channel of stepflow, one line each. No key text stands anywhere else.

The Lua scripts get these names as constants (``RUN``, ``MEMOS`` …), put before each script by `scripts.py`;
``docs/redis-keys.md`` is generated from `KEYS`.
"""

from __future__ import annotations

import binascii
import itertools
import os
import re
from dataclasses import dataclass
from functools import cache

from stepflow_engine.ids import PARTITION_PREFIX_LENGTH, partition_prefix_for
from stepflow_engine.product import KEY_PREFIX, NAME

__all__ = [
    "ANY_PARTITION",
    "GROUP",
    "KEYS",
    "MOVING",
    "Key",
    "Keys",
    "lua_constants",
    "partition_tags",
    "routing_key_of",
    "slot_of",
    "without_tag",
]

RQ = os.environ.get("RQ_KEY_PREFIX", "rq")
"""RQ's own prefix, read from the variable that RQ reads it from."""


GROUP = NAME
"""The consumer group of all workers, on both streams."""


@dataclass(frozen=True, slots=True)
class Key:
    """One kind of key.

    Attributes:
        name: its constant in the scripts.
        text: the key, or the part before the id.
        ids: what follows ``text``, for the documentation.
        type: the Redis type, or ``channel``.
        writer: what writes it.
        expiry: when it goes away.
        what: what it holds.
    """

    name: str
    text: str
    ids: str
    type: str
    writer: str
    expiry: str
    what: str


_END = "with its run"
_RETENTION = "retention after the run's end; a child's: after its parent knows"

# fmt: off
KEYS: tuple[Key, ...] = (
    Key("RUN", f"{KEY_PREFIX}:run:", "<run>", "hash", "every transition", _RETENTION, "truth of a run: app, function, queue, status, event, attempt, output or error, times, continuation and its lease"),
    Key("MEMOS", f"{KEY_PREFIX}:memos:", "<run>", "hash", "every transition that ends a step", _RETENTION, "step key → memo: how a step ended, for good"),
    Key("MEMO_ORDER", f"{KEY_PREFIX}:memo-order:", "<run>", "list", "every transition that ends a step", _RETENTION, "step keys in the order in which their memos were recorded; races replay by it"),
    Key("STEPS", f"{KEY_PREFIX}:steps:", "<run>", "hash", "plan_steps, fail_attempt", _END, "planned steps and failed attempts: id, state, lease, attempts, last error"),
    Key("LIVE", f"{KEY_PREFIX}:live", "", "zset", "start_runs, end of a run", "never", "runs that have not ended, by start time in ms"),
    Key("ENDED", f"{KEY_PREFIX}:ended", "", "zset", "end of a run, reaper", "never", "runs that have ended, by the time in ms at which they are forgotten"),
    Key("LEASES", f"{KEY_PREFIX}:leases", "", "zset", "claim_jobs, extend_leases", "never", "leased job → when its lease ends, in ms"),
    Key("LAST_CLAIM", f"{KEY_PREFIX}:last-claim:", "<worker>", "string", "claim_jobs", "a lease after the claim", "the worker's last claim: its number, then job, list and fence of each; for when the reply is lost"),
    Key("LAST_LEASE_SCAN", f"{KEY_PREFIX}:last-lease-scan", "", "string", "reclaim_leases", "never", "when leases were last looked at; after a gap, when before it, and until when only leases count that were over by then; in ms"),
    Key("TIMEOUT", f"{KEY_PREFIX}:timeout:", "<run>:<step key>", "string", "invoke_child, begin_wait", "when the wait ends", "timeout key of a waiting invoke, sleep or wait: the memo that it gets if the time is over first"),
    Key("TIMEOUTS", f"{KEY_PREFIX}:timeouts", "", "zset", "fail_attempt, retry_run, invoke_child, begin_wait", "never", "what is due when, in ms: job:<job> (a delayed job), wait:<run>:<step key> (the end of a wait), start:<run> and finish:<run> (by when a run must have started, and ended), resume:<subject> (what a pause has put aside goes on)"),
    Key("WAITS", f"{KEY_PREFIX}:waits:", "<paths>\\n<digest>\\n<event>", "set", "begin_wait", "when the last of its waits ends", "waits (<run>:<step key>; <run>:!<n> of a run that the event cancels) for an event whose values at these paths have this SHA-1; paths '': any such event, '?': one that a worker looks at"),
    Key("WAIT_COUNTS", f"{KEY_PREFIX}:wait-counts:", "<event>", "hash", "begin_wait", "when the last of its waits ends", "paths → how many waits for this event ask for values there"),
    Key("EVENT_HISTORY", f"{KEY_PREFIX}:event-history:", "<event>", "stream", "route_event", "an hour after the last", "the last 1,000 events of a name, for waits that look back"),
    Key("FORWARDED", f"{KEY_PREFIX}:forwarded:", "<partition>:<entry>", "string", "deliver_remote_event", "an hour", "an event of another partition that has met the waits of this one"),
    Key("FINISHED", f"{KEY_PREFIX}:finished", "", "stream", "end of a run that has a parent", "entries: once they are seen to", "finished events, by which a consumer group of all workers wakes the parents; messages to other partitions: start, cancel, away"),
    Key("CONCURRENCY_SLOTS", f"{KEY_PREFIX}:concurrency-slots:", "<scope>:<key>=<value>", "zset", "admission, claim_jobs, extend_leases", "never", "jobs that have a slot at a gate → when it lapses, in ms"),
    Key("WAIT_LIST", f"{KEY_PREFIX}:wait-list:", "<scope>:<key>=<value>", "zset", "admission", "never", "jobs that stand in line for a slot, by their turn; function <app/id>: those that its pause has put aside; queue <queue>: new runs that have a priority"),
    Key("WAIT_LIST_SEQ", f"{KEY_PREFIX}:wait-list-seq", "", "string", "admission", "never", "counts those who came to stand in line"),
    Key("IDEMPOTENCY", f"{KEY_PREFIX}:idempotency:", "<app>/<function>:<key>=<value>", "string", "every start of an idempotent function", "24 hours", "the run that was started for this value"),
    Key("SINGLETON", f"{KEY_PREFIX}:singleton:", "<app>/<function>:<key>=<value>", "string", "every start of a singleton", "with its run", "the run that is live"),
    Key("THROTTLE", f"{KEY_PREFIX}:throttle:", "<app>/<function>:<key>=<value>", "string", "every start under a throttle", "when it is idle", "when the next run would start, were they even: ms, and parts of 1 / limit ms"),
    Key("DEBOUNCE", f"{KEY_PREFIX}:debounce:", "<app>/<function>:<key>=<value>", "hash", "every start under a debounce", "when its run starts", "the run that waits, since when, and its event's time"),
    Key("BATCH", f"{KEY_PREFIX}:batch:", "<app/function>:<key>=<value>", "hash", "every start of a batched function", "when its batch starts", "the batch that collects runs, and the bytes of their events"),
    Key("BATCHED", f"{KEY_PREFIX}:batched:", "<run>", "list", "every start of a batched function", "when its batch has ended", "the runs that a batch consists of, in their order"),
    Key("RATE", f"{KEY_PREFIX}:rate:", "<app>/<function>:<key>", "zset", "every start under a rate limit", "its period", "starts within the period, by time in ms"),
    Key("PAUSED", f"{KEY_PREFIX}:paused", "", "hash", "pause, resume", "never", "what is paused (function <app/id>, queue <queue>, key <scope>:<key>=<value>) → since when, in ms, and the reason"),
    Key("EVENTS", f"{KEY_PREFIX}:events", "", "stream", "producers", "entries: once routed", "events that have come and are not routed yet; a consumer group of all workers routes them"),
    Key("CRON", f"{KEY_PREFIX}:cron", "", "hash", "fire_cron", "never", "function and schedule → the time in ms up to which its runs were started"),
    Key("REPLICATED", f"{KEY_PREFIX}:replicated", "", "string", "producers with durability=\"replicated\"", "a minute after the last", "nothing: it is written so that WAIT has something to wait for"),
    Key("PARTITIONS", f"{KEY_PREFIX}:partitions", "", "string", "agree_partitions", "never", "into how many partitions the keys are divided; the same for every process, for ever"),
    Key("FUNCTIONS", f"{KEY_PREFIX}:functions", "", "hash", "register_functions", "never", "app/function → its config: queue, triggers, retries"),
    Key("VERSION", f"{KEY_PREFIX}:functions:version", "", "string", "register_functions", "never", "grows with each change of the registry; routers check it"),
    Key("READY", f"{KEY_PREFIX}:ready", "", "channel", "every push onto an empty list", "—", "wakes idle workers: the name of the list; nothing: there are messages to other partitions"),
    Key("PAUSES", f"{KEY_PREFIX}:pauses", "", "channel", "pause, resume", "—", "tells workers to look at what is paused"),
    Key("NOTIFICATIONS", f"{KEY_PREFIX}:notifications:", "<worker>", "channel", "commit_planned_step, wake_parent, fire_timers, cancel_run", "—", "tells a worker of memos and cancels of the runs that it holds"),
    Key("RUN_ENDED", f"{KEY_PREFIX}:run-ended:", "<run>", "channel", "end of a run", "—", "wakes those who wait for the result of a run"),
    Key("RQ_QUEUE", f"{RQ}:queue:", "<queue> and <queue>:steps", "list", "every transition", "never", "RQ: ready jobs: first jobs of new runs; jobs of started runs, which go first"),
    Key("RQ_QUEUES", f"{RQ}:queues", "", "set", "every push", "never", "RQ: all queues"),
    Key("RQ_JOB", f"{RQ}:job:", "<run> or <run>-<step key>", "hash", "every transition", "with its job; failed runs: retention", "RQ: a job, as RQ's own tools read it; its data is JSON, never pickle"),
    Key("RQ_WIP", f"{RQ}:wip:", "<queue>", "zset", "claim_jobs", "never", f"RQ: jobs that are executing, as RQ shows them; the leases that count are in {KEY_PREFIX}:leases"),
    Key("RQ_SCHEDULED", f"{RQ}:scheduled:", "<queue>:steps", "zset", "fail_attempt, retry_run", "never", f"RQ: delayed jobs, as RQ shows them; the times that count are in {KEY_PREFIX}:timeouts"),
    Key("RQ_FAILED", f"{RQ}:failed:", "<queue>", "zset", "finish_run", "members: retention", "RQ: failed runs"),
    Key("RQ_SUSPENDED", f"{RQ}:suspended", "", "string", "rq suspend", "as RQ says", "RQ: while it exists, no job is claimed"),
    Key("RQ_WORKERS", f"{RQ}:workers", "", "set", "RQ's worker", "never", "RQ: all workers"),
    Key("RQ_WORKER", f"{RQ}:worker:", "<worker>", "hash", "RQ's worker", "when it sends no heartbeat", "RQ: a worker: host, process id, state, queues, counts, last heartbeat"),
)
# fmt: on

_TEXT = {key.name: key.text for key in KEYS}
_SHARED = {"PARTITIONS", "RQ_WORKERS", "RQ_WORKER"}
"""Those of which there is one for all partitions."""
_SLOTS = 16384
_TAG = re.compile(r"^\{sf:\d+\}:")
ANY_PARTITION = "{sf:*}:"
"""What the keys of all partitions start with, as a pattern."""
MOVING = f"{KEY_PREFIX}:moving"
"""Of each partition: the key that is never written; see `stepflow_broker.protocol.command.run_script`."""


class Keys:
    """Builds the keys of one partition.

    Args:
        partition: what every key starts with; ``""`` if there is one partition only.

    Attributes:
        all: those of all partitions, in order; this one is among them.
    """

    def __init__(self, partition: str = "") -> None:
        self.partition = partition
        self.all: tuple[Keys, ...] = (self,)
        self._names = {name: ("" if name in _SHARED else partition) + text for name, text in _TEXT.items()}

    @classmethod
    def over(cls, count: int) -> Keys:
        """The keys of the first of some partitions; `of` and `at` find the others."""
        if count == 1:
            return cls()
        found = tuple(cls(tag) for tag in partition_tags(count))
        for keys in found:
            keys.all = found
        return found[0]

    def __call__(self, name: str, subject: str = "") -> str:
        """The key of this kind for this subject, as in ``keys("RUN", run_id)``."""
        return self._names[name] + subject

    def of(self, run_id: str) -> Keys:
        """Those of the partition of a run, which its id says; also of its jobs."""
        if len(self.all) == 1:
            return self
        try:
            return self.all[int(run_id[:PARTITION_PREFIX_LENGTH], 16) % len(self.all)]
        except ValueError:  # no id of ours
            return self.at(run_id)

    def at(self, name: str) -> Keys:
        """Those of the partition where a name is at home: an event's id, a function."""
        return self if len(self.all) == 1 else self.of(partition_prefix_for(name))


@cache
def partition_tags(count: int) -> tuple[str, ...]:
    """What the keys of so many partitions start with: hash tags whose slots lie evenly over all slots."""
    found: dict[int, str] = {}
    for number in itertools.count():
        tag = f"{{sf:{number}}}:"
        found.setdefault(slot_of(tag) * count // _SLOTS, tag)
        if len(found) == count:
            return tuple(found[n] for n in range(count))
    raise AssertionError("unreachable")


def routing_key_of(key: str) -> str:
    """What decides the slot of a key: its partition's tag, or the key itself."""
    return key[: key.index(":", 4) + 1] if key.startswith("{sf:") else key


def without_tag(key: str) -> str:
    """The key as it is called in all partitions."""
    return _TAG.sub("", key)


def slot_of(place: str) -> int:
    """The slot of a key, or of all keys with a tag. Source: the Redis Cluster specification."""
    tag = re.search(r"\{([^}]*)\}", place)
    return binascii.crc_hqx(((tag and tag[1]) or place).encode(), 0) % _SLOTS


def lua_constants(script: str) -> str:
    """Lua definitions of the key constants that ``script`` names."""
    words = set(re.findall(r"\b[A-Z_]{3,}\b", script))
    lines = [f"local {key.name} = P .. '{key.text}'\n" for key in KEYS if key.name in words]
    if "GROUP" in words:
        lines.append(f"local GROUP = '{GROUP}'\n")
    return "local P = string.match(KEYS[1], '^{sf:%d+}:') or ''\n" + "".join(lines)
