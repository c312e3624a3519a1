"""Every Redis key and channel of stepflow, one line each. No key text stands anywhere else.

The Lua scripts get these names as constants (``RUN``, ``MEMOS`` …), put before each script by `scripts.py`;
``docs/reference/redis-keys.md`` is generated from `KEYS`.
"""

from __future__ import annotations

import binascii
import itertools
import os
import re
from dataclasses import dataclass
from functools import cache

from stepflow_engine.ids import PARTITION_PREFIX_LENGTH, partition_prefix_for

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


GROUP = "stepflow"
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
    Key("RUN", "stepflow:run:", "<run>", "hash", "every transition", _RETENTION, "the state of a run: app, function, queue, status, event, attempt, output or error, times, continuation and its lease"),
    Key("MEMOS", "stepflow:memos:", "<run>", "hash", "every transition that ends a step", _RETENTION, "step key → memo: the final result or failure of a step"),
    Key("MEMO_ORDER", "stepflow:memo-order:", "<run>", "list", "every transition that ends a step", _RETENTION, "step keys in the order in which their memos were stored; a replay delivers them in this order"),
    Key("STEPS", "stepflow:steps:", "<run>", "hash", "plan_steps, fail_attempt", _END, "planned steps and failed attempts: id, state, lease, attempts, last error"),
    Key("LIVE", "stepflow:live", "", "zset", "start_runs, end of a run", "never", "runs that have not ended, by start time in ms"),
    Key("ENDED", "stepflow:ended", "", "zset", "end of a run", "never", "ended runs, by the time in ms at which they expire"),
    Key("LEASES", "stepflow:leases", "", "zset", "claim_jobs, extend_leases", "never", "leased job → when its lease ends, in ms"),
    Key("LAST_CLAIM", "stepflow:last-claim:", "<worker>", "string", "claim_jobs", "a lease after the claim", "the last claim of the worker: its number, then job, list and fence of each. A claim that is sent again after a lost reply gets the same jobs"),
    Key("LAST_LEASE_SCAN", "stepflow:last-lease-scan", "", "string", "reclaim_leases", "never", "last lease scan; after a gap: the scan before it, and the end of the grace window in which only leases that expired before the gap are reclaimed; in ms"),
    Key("TIMEOUT", "stepflow:timeout:", "<run>:<step key>", "string", "invoke_child, begin_wait", "when the wait ends", "timeout key of a waiting invoke, sleep or event wait: the memo that the step gets if the time is over first"),
    Key("TIMEOUTS", "stepflow:timeouts", "", "zset", "fail_attempt, retry_run, invoke_child, begin_wait", "never", "timers, by the time in ms at which they are due: job:<job> (a delayed job), wait:<run>:<step key> (the end of a wait), start:<run> and finish:<run> (the deadlines of a run), resume:<subject> (the deferred jobs of a pause continue)"),
    Key("WAITS", "stepflow:waits:", "<paths>\\n<digest>\\n<event>", "set", "begin_wait", "when the last of its waits ends", "waits (<run>:<step key>; <run>:!<n> of a run that the event cancels) for an event whose values at these paths have this SHA-1; paths '': any event of this name, '?': a worker evaluates the expression"),
    Key("WAIT_COUNTS", "stepflow:wait-counts:", "<event>", "hash", "begin_wait", "when the last of its waits ends", "paths → number of waits for this event that compare values there"),
    Key("EVENT_HISTORY", "stepflow:event-history:", "<event>", "stream", "route_event", "an hour after the last", "the last 1,000 events of a name, for waits with a lookback"),
    Key("FORWARDED", "stepflow:forwarded:", "<partition>:<entry>", "string", "deliver_remote_event", "an hour", "an event of another partition that was matched with the waits of this one"),
    Key("FINISHED", "stepflow:finished", "", "stream", "end of a run that has a parent", "entries: once processed", "finished events, by which a consumer group of all workers wakes the parents; messages to other partitions: start, cancel, away"),
    Key("CONCURRENCY_SLOTS", "stepflow:concurrency-slots:", "<scope>:<key>=<value>", "zset", "every push, claim_jobs, extend_leases", "never", "jobs that have a slot of a concurrency limit → when the slot expires, in ms"),
    Key("WAIT_LIST", "stepflow:wait-list:", "<scope>:<key>=<value>", "zset", "every push", "never", "jobs that wait for a slot, in order; function <app/id>: the jobs of a paused function; queue <queue>: new runs that have a priority"),
    Key("WAIT_LIST_SEQ", "stepflow:wait-list-seq", "", "string", "every push", "never", "counts the entries of all wait lists, for their order"),
    Key("IDEMPOTENCY", "stepflow:idempotency:", "<app>/<function>:<key>=<value>", "string", "every start of an idempotent function", "24 hours", "the run that was started for this value"),
    Key("SINGLETON", "stepflow:singleton:", "<app>/<function>:<key>=<value>", "string", "every start of a singleton", "with its run", "the run that is live"),
    Key("THROTTLE", "stepflow:throttle:", "<app>/<function>:<key>=<value>", "string", "every start under a throttle", "when it is idle", "when the next run would start at an even pace: ms, and parts of 1 / limit ms"),
    Key("DEBOUNCE", "stepflow:debounce:", "<app>/<function>:<key>=<value>", "hash", "every start under a debounce", "when its run starts", "the run that waits, since when, and the time of its event"),
    Key("BATCH", "stepflow:batch:", "<app/function>:<key>=<value>", "hash", "every start of a batched function", "when its batch starts", "the batch that collects runs, and the bytes of their events"),
    Key("BATCHED", "stepflow:batched:", "<run>", "list", "every start of a batched function", "when its batch has ended", "the runs of a batch, in order"),
    Key("RATE", "stepflow:rate:", "<app>/<function>:<key>", "zset", "every start under a rate limit", "its period", "starts within the period, by time in ms"),
    Key("PAUSED", "stepflow:paused", "", "hash", "pause, resume", "never", "what is paused (function <app/id>, queue <queue>, key <scope>:<key>=<value>) → since when, in ms, and the reason"),
    Key("EVENTS", "stepflow:events", "", "stream", "producers", "entries: once routed", "events that are not routed yet; a consumer group of all workers routes them"),
    Key("CRON", "stepflow:cron", "", "hash", "fire_cron", "never", "function and schedule → the time in ms up to which its runs were started"),
    Key("REPLICATED", "stepflow:replicated", "", "string", "producers with durability=\"replicated\"", "a minute after the last", "nothing: it is written so that WAIT has a write to wait for"),
    Key("PARTITIONS", "stepflow:partitions", "", "string", "agree_partitions", "never", "the number of partitions; the same for every process, and final"),
    Key("FUNCTIONS", "stepflow:functions", "", "hash", "register_functions", "never", "app/function → its config: queue, triggers, retries"),
    Key("VERSION", "stepflow:functions:version", "", "string", "register_functions", "never", "grows with each change of the registry; scripts refuse a worker that read an older version"),
    Key("READY", "stepflow:ready", "", "channel", "every push onto an empty list", "—", "wakes idle workers: the name of the list; an empty message: there are messages to other partitions"),
    Key("PAUSES", "stepflow:pauses", "", "channel", "pause, resume", "—", "tells workers to read the pauses again"),
    Key("NOTIFICATIONS", "stepflow:notifications:", "<worker>", "channel", "commit_planned_step, wake_parent, fire_timers, cancel_run", "—", "sends a worker the memos and cancellations of runs that it has in memory"),
    Key("RUN_ENDED", "stepflow:run-ended:", "<run>", "channel", "end of a run", "—", "wakes clients that wait for the result of a run"),
    Key("RQ_QUEUE", f"{RQ}:queue:", "<queue> and <queue>:steps", "list", "every transition", "never", "RQ: ready jobs: first jobs of new runs; jobs of started runs, which workers claim first"),
    Key("RQ_QUEUES", f"{RQ}:queues", "", "set", "every push", "never", "RQ: all queues"),
    Key("RQ_JOB", f"{RQ}:job:", "<run> or <run>-<step key>", "hash", "every transition", "with its job; failed runs: retention", "RQ: a job, as RQ's own tools read it; its data is JSON, never pickle"),
    Key("RQ_WIP", f"{RQ}:wip:", "<queue>", "zset", "claim_jobs", "never", "RQ: jobs that are executing, as RQ shows them; the leases that count are in stepflow:leases"),
    Key("RQ_SCHEDULED", f"{RQ}:scheduled:", "<queue>:steps", "zset", "fail_attempt, retry_run", "never", "RQ: delayed jobs, as RQ shows them; the times that count are in stepflow:timeouts"),
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
MOVING = "stepflow:moving"
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
