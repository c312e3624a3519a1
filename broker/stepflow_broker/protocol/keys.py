"""Every Redis key and channel of stepflow, one line each. No other module spells a key.

The Lua scripts use the names as constants (``RUN``, ``MEMOS`` …), which `scripts.py` puts before each script.
``docs/reference/redis-keys.md`` is generated from `KEYS`. A test compares the writers and deleters with the scripts.
"""

from __future__ import annotations

import binascii
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from stepflow_engine.ids import PARTITION_PREFIX_LENGTH, partition_prefix_for
from stepflow_engine.product import KEY_PREFIX, NAME
from stepflow_engine.run_events import CANCELLED

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
        writers: the scripts, and the functions of ``lua/lib`` and of Python, that add to it; ``RQ``: RQ itself. Scripts
            of the doctor are left out: they repair keys.
        deleters: those that delete it or take members out; empty: only its expiry deletes it, or nothing.
        lifetime: how long the key, or each of its members, stays.
        what: what it holds.
    """

    name: str
    text: str
    ids: str
    type: str
    writers: str
    deleters: str
    lifetime: str
    what: str


_RETENTION = "until the run ends, then its retention; of a child, from when its parent knows that it has ended"

# fmt: off
KEYS: tuple[Key, ...] = (
    Key("RUN", f"{KEY_PREFIX}:run:", "<run>", "hash", "accept_mismatch begin_map begin_run begin_undo claim_jobs close_run continue_as_new create_run defer end_batch end_undo extend_leases finish_run fork_run keep_signal leave_job mend_run move_created note_closing note_error note_mismatch note_patches note_undo park_run plan_steps promote queue_run record_heartbeat retry_run set_values signal_index skip_run start_or_skip store_run tag_run take_signal", "expire_run", _RETENTION, "the truth of a run: see \"Fields of a run\" below"),
    Key("MEMOS", f"{KEY_PREFIX}:memos:", "<run>", "hash", "commit_step fork_run record_memo", "continue_as_new expire_run", _RETENTION, "step key → memo, the stored result or failure of the step"),
    Key("MEMO_ORDER", f"{KEY_PREFIX}:memo-order:", "<run>", "list", "commit_step fork_run record_memo", "continue_as_new expire_run", _RETENTION, "step keys in the order in which their memos were stored; a replay applies them in this order"),
    Key("ATTEMPTS", f"{KEY_PREFIX}:attempts:", "<run>", "hash", "forget_attempt keep_attempt record_heartbeat", "continue_as_new expire_run forget_attempt", _RETENTION, "`beat:<step key>` → the detail of the last heartbeat of a step that has not ended, as JSON; it may be encrypted. `<number>:<step key>` → an attempt that gave no result, as JSON: of a step, or of the run's own code (no step key). The last 10 of each, at most 1,000 and 4 MiB of a run. `count`, `bytes`: the last number, and the size of all"),
    Key("STEPS", f"{KEY_PREFIX}:steps:", "<run>", "hash", "accept_mismatch await_child begin_map begin_wait claim_jobs defer fail_attempt invoke_remote_child leave_job mend_step MAPS.hand_out MAPS.plan_item plan_steps promote requeue_step start_child store_wait", "continue_as_new drop_work", "until the run ends; the fields of a step until it ends", "steps that have not ended: see \"Fields of steps\" below"),
    Key("ITEMS", f"{KEY_PREFIX}:items:", "<run>:<step key>", "hash", "MAPS.store_end", "drop_planned_step drop_steps", "until the map has collected them, or its run ends", "the results of the items of a map that has not ended: index → a memo. That of a success has the result only"),
    Key("LIVE", f"{KEY_PREFIX}:live", "", "zset", "mend_run store_run", "close_run", "members: until the run ends", "live runs, by creation time in ms"),
    Key("INDEX", f"{KEY_PREFIX}:index:", "<subject>", "zset", "index_end index_start index_tags move_end move_start", "forget_runs tag_run", "members: until the run is forgotten", "runs with something in common. By creation time in ms: function <app>/<function>, tag <name>=<value>. By end time in ms: ended <app>/<function>, failed <app>/<function>, error <group>"),
    Key("EXPIRY", f"{KEY_PREFIX}:expiry", "", "zset", "forget_runs index_end move_end", "forget_runs", "members: the retention of the run", "ended runs, by the time in ms at which they are forgotten: `<run> ` and, as in the field `indexed` of the run, the name of the function and the further indexes that list the run"),
    Key("RUN_FUNCTIONS", f"{KEY_PREFIX}:run-functions", "", "set", "index_start", "forget_runs", "members: until the last run of the function is forgotten", "the functions (app/function) that have runs, also if they are not registered any more"),
    Key("TAG_NAMES", f"{KEY_PREFIX}:tag-names", "", "set", "index_tags", "", "for ever", "the names of tags that runs have or had; at most 1,000"),
    Key("ERROR_GROUP", f"{KEY_PREFIX}:error-group:", "<group>", "hash", "finish_run", "finish_run", "30 days after the last failure; at most 1,000 groups", "failures that are alike: `count`, `first` and `last` in ms, the last `run`, `function`, `step`, `name` and `message`. The message is empty if the app encrypts"),
    Key("ERROR_GROUPS", f"{KEY_PREFIX}:error-groups", "", "zset", "finish_run", "finish_run", "members: as the group", "the groups of failures, by the time in ms of the last failure"),
    Key("UNDO_FAILURES", f"{KEY_PREFIX}:undo-failures", "", "zset", "end_undo", "end_undo", "members: the retention of the run; at most 1,000", "ended runs of which undo handlers have failed, by the time in ms until which the run is kept"),
    Key("REQUEUED", f"{KEY_PREFIX}:requeued", "", "hash", "claim_jobs", "settle_requeue", "fields: until a worker has retried the run", "failed run that RQ's tools have requeued → the time in ms at which its job was claimed"),
    Key("LEASES", f"{KEY_PREFIX}:leases", "", "zset", "extend_leases grant_lease", "drop_lease reclaim_leases", "members: until the lease ends", "leased jobs, by the time in ms at which the lease expires"),
    Key("LAST_CLAIM", f"{KEY_PREFIX}:last-claim:", "<worker>", "string", "claim_jobs", "", "one lease", "the last claim of the worker: its number, then job, list and fence of each job; a claim that is sent again gets the same jobs"),
    Key("LAST_LEASE_SCAN", f"{KEY_PREFIX}:last-lease-scan", "", "string", "reclaim_leases", "", "for ever", "`<last scan> <scan before the last gap> <end of the grace window>`, in ms; see reclaim_leases"),
    Key("SIGNALS", f"{KEY_PREFIX}:signals:", "<run>", "hash", "keep_signal signal_index take_signal", "expire_signals take_signal", "until the run ends, then its retention", "the signals of a run that no wait has received: `<number>` → a signal as JSON, `queue <name>` → the numbers of the signals of this name, oldest first. At most 1,000 and 4 MiB. `count`, `bytes`: the last number, and the size of all. `waits`: the number of the last wait for a signal"),
    Key("SIGNAL_IDS", f"{KEY_PREFIX}:signal-ids:", "<run>", "set", "send_signal", "continue_as_new expire_signals", "until the run ends, then its retention", "SHA-1 of the ids of all signals that the run was sent; a signal that is sent again has no effect"),
    Key("ASKS", f"{KEY_PREFIX}:asks", "", "zset", "begin_ask", "remove_wait", "members: until the step has its answer, or waits no longer", "steps that wait for an answer, <run>:<step key>, by the time in ms since which they wait"),
    Key("TIMEOUT", f"{KEY_PREFIX}:timeout:", "<run>:<step key>", "string", "await_child begin_wait mend_step store_wait", "drop_wait", "until the wait ends", "the timeout key of a step that waits for a child, a time, an event, a signal or an answer: the memo that the step gets if the time is over first"),
    Key("TIMEOUTS", f"{KEY_PREFIX}:timeouts", "", "zset", "APPLY.start_within await_child begin_wait claim_jobs delay_event delay_job mend_timer move_timer reset_limit resume resume_subject set_limit store_wait", "cancel_event claim_jobs drop_cancellation drop_continuation drop_step drop_wait fire_timers repair_jobs reset_limit set_limit start_batch", "members: until they fire", "timers, by the time in ms at which they are due: job:<job> queues a delayed job, wait:<run>:<step key> ends a wait, start:<run> and finish:<run> cancel a run that has not started or ended in time, resume:<subject> continues what a pause has deferred, event:<id> sends a delayed event"),
    Key("WAITS", f"{KEY_PREFIX}:waits:", "<paths>\\n<digest>\\n<event>", "set", "add_wait", "remove_wait", "members: until the wait ends", "waits for an event of this name whose values at these paths have this SHA-1: <run>:<step key> of a step, <run>:!<n> of a run that the event cancels. Paths '': any event of the name. Paths '?': a worker evaluates the condition of the wait"),
    Key("WAIT_COUNTS", f"{KEY_PREFIX}:wait-counts:", "<event>", "hash", "add_wait remove_wait", "remove_wait", "fields: until the last of their waits ends", "paths → the number of waits for events of this name that compare values at these paths"),
    Key("EVENT_HISTORY", f"{KEY_PREFIX}:event-history:", "<event>", "stream", "mend_history remember_event", "mend_history trim_history", "an hour after the last event", "about the last 1,000 events of this name, for waits that begin after their event has come; up to 10,000 (about 16 MB) once a wait has compared values"),
    Key("EVENT_INDEX", f"{KEY_PREFIX}:event-index:", "<paths>\\n<event>", "zset", "mend_history remember_event", "mend_history trim_history", "an hour after the last event; members: as their entries in the history", "events of this name by their values at these paths: <SHA-1 of the values>:<entry of the history>, all with score 0"),
    Key("COMPARED_PATHS", f"{KEY_PREFIX}:compared-paths:", "<event>", "hash", "note_paths", "forget_paths", "a day after the last wait; fields: a day after the last wait that compared values at them", "paths at which waits for events of this name compare values → the times in ms of the first and, up to an hour late, of the last such wait"),
    Key("DELAYED_EVENTS", f"{KEY_PREFIX}:delayed-events", "", "zset", "delay_event", "take_delayed_event", "members: until they are sent or cancelled", "ids of events that are sent at a later time, by that time in ms"),
    Key("DELAYED_EVENT_TEXTS", f"{KEY_PREFIX}:delayed-event-texts", "", "hash", "delay_event", "take_delayed_event", "fields: until they are sent or cancelled", "id of a delayed event → `1` if its sender chose the id, else `0`, a space, and the event"),
    Key("SUSPECT_EVENTS", f"{KEY_PREFIX}:suspect-events", "", "hash", "try_event", "try_event", "fields: until the event is routed; the key: a day after the last try", "entry of the stream of events → how many workers have begun to route it after another has died with it or left it, and have not ended"),
    Key("EVENTS_ASIDE", f"{KEY_PREFIX}:events-aside", "", "stream", "set_aside_event", "resend_event", "entries: until they are sent again, or newer ones exceed about 1,000", "events that could not be routed completely, with the reason"),
    Key("DELIVERED", f"{KEY_PREFIX}:delivered:", "<run>", "hash", "continue_as_new note_delivery", "continue_as_new forget_delivery", "24 hours after the last event that ended a wait of the run", "SHA-1 of an event id → the position of the memo of the first wait of the run that the event ended; the event ends no wait that began after that memo"),
    Key("FORWARDED", f"{KEY_PREFIX}:forwarded:", "<partition>:<entry>", "string", "deliver_remote_event", "", "an hour", "a mark that an event of another partition was delivered to the waits of this one"),
    Key("FINISHED", f"{KEY_PREFIX}:finished", "", "stream", "close_run invoke_remote_child send_cancel start_child", "ack_entry", "entries: until they are handled", "finished events and messages to other partitions, read by a consumer group of all workers: run, remote_run, batch, start, cancel"),
    Key("CONCURRENCY_SLOTS", f"{KEY_PREFIX}:concurrency-slots:", "<scope>:<key>=<value>", "zset", "acquire_slots extend_slots", "defer fill_slots release_slots", "members: until the job or the run releases its slot, or the slot expires", "jobs with a slot of a concurrency limit, by the time in ms at which the slot expires. A limit of live runs, `runs <scope>:…`, has runs, without a time"),
    Key("WAIT_LIST", f"{KEY_PREFIX}:wait-list:", "<scope>:<key>=<value>", "zset", "defer enqueue_or_wait move_up", "claim_jobs fill_slots leave_wait_lists register_code resume_subject unpin_run", "members: until the job is promoted, or its run ends", "jobs that wait for a slot of a concurrency limit, by their position. The wait list function <app/id> has the jobs that a pause of the function defers, queue <queue> the new runs that have a priority, code <list>\\n<app/id> the jobs of the list that wait for a worker with the code of the function"),
    Key("WAIT_LIST_SEQ", f"{KEY_PREFIX}:wait-list-seq", "", "string", "wait_position", "", "for ever", "a counter of entries in wait lists: it orders entries of the same millisecond"),
    Key("IDEMPOTENCY", f"{KEY_PREFIX}:idempotency:", "<app>/<function>:<key>=<value>", "string", "APPLY.idempotency", "MEND.idempotency", "24 hours", "the run that was started for this value"),
    Key("SINGLETON", f"{KEY_PREFIX}:singleton:", "<app>/<function>:<key>=<value>", "string", "APPLY.singleton", "end_run", "until the run ends", "the live run for this value"),
    Key("THROTTLE", f"{KEY_PREFIX}:throttle:", "<app>/<function>:<key>=<value>", "string", "APPLY.throttle MEND.throttle", "", "until the throttle is idle", "the theoretical time of the next start: ms, and a rest in parts of 1 / limit ms"),
    Key("THROTTLED_AT", f"{KEY_PREFIX}:throttled-at:", "<app>/<function>:<key>=<value>", "string", "APPLY.throttle", "MEND.throttle", "as the throttle", "the time in ms of the last start, from which the theoretical time of the next counts"),
    Key("DEBOUNCE", f"{KEY_PREFIX}:debounce:", "<app>/<function>:<key>=<value>", "hash", "APPLY.debounce MEND.debounce", "", "until its run starts", "the delayed run for this value, the time of the first event, and the time of the run's own event"),
    Key("BATCH", f"{KEY_PREFIX}:batch:", "<app/function>:<key>=<value>", "hash", "find_batch", "start_batch", "until the batch starts", "the batch that collects runs, and the bytes of their events"),
    Key("BATCHED", f"{KEY_PREFIX}:batched:", "<run>", "list", "join_batch", "end_batch leave_batch", "until the batch has ended", "the members of a batch, in the order in which they joined"),
    Key("RATE", f"{KEY_PREFIX}:rate:", "<app>/<function>:<key>", "zset", "APPLY.rate", "APPLY.debounce APPLY.rate", "one period after the last start", "the starts within the period, by time in ms"),
    Key("PAUSED", f"{KEY_PREFIX}:paused", "", "hash", "pause", "forget_function resume", "fields: until they are resumed", "what is paused (function <app/id>, queue <queue>, key <scope>:<key>=<value>) → the time of the pause in ms, and the reason"),
    Key("EVENTS", f"{KEY_PREFIX}:events", "", "stream", "add_event delay_event end_undo finish_run report_cancelled resend_event send_delayed_event send_events", "drop_event route_event set_aside_event", "entries: until they are routed", "events that are not routed yet, read by a consumer group of all workers"),
    Key("LIMITS", f"{KEY_PREFIX}:limits", "", "hash", "set_limit", "fire_timers reset_limit", "fields: until their time, or until they are reset", "the limits of flow control that were changed by hand (concurrency, rate or throttle, then <scope>, <scope>:<key>= or runs <scope>) → the limit, until when in ms (0: until it is reset), the time of the change in ms, and the reason"),
    Key("AUDIT", f"{KEY_PREFIX}:audit", "", "stream", "audit", "", "entries: until newer ones exceed about 100,000", "what people and programs have done by hand: who, action, subject, reason, details"),
    Key("BULK", f"{KEY_PREFIX}:bulk:", "<bulk>", "hash", "end_bulk settle_bulk_runs start_bulk stop_bulk take_bulk_runs", "", "until the bulk ends, then 7 days", "a job of the workers that forks many runs: its `state`, `function`, `request`, rate (`per_second`), `who` and `reason`; `matched`, `done`, `skipped`, `refused`; `why:<outcome> <text>` → how often, and one of the runs; the worker that holds it (`holder`, `held_until`), how many runs it has `taken`, and when the rate and the pace allow the next (`next_at`, `paced_at`). Only in the first partition"),
    Key("BULK_RUNS", f"{KEY_PREFIX}:bulk-runs:", "<bulk>", "list", "add_bulk_runs", "end_bulk settle_bulk_runs", "until the bulk ends; an hour if it never starts", "the runs that a bulk has still to fork, the next one last"),
    Key("BULKS", f"{KEY_PREFIX}:bulks", "", "zset", "end_bulk start_bulk", "start_bulk", "members: until the bulk is forgotten and another one starts", "the bulks, by the time in ms at which they are forgotten; infinite: they have not ended"),
    Key("CRON", f"{KEY_PREFIX}:cron", "", "hash", "fire_cron", "forget_function", "until the function is forgotten", "function and schedule → the last time in ms for which runs were started"),
    Key("SCHEDULES", f"{KEY_PREFIX}:schedules", "", "hash", "change_schedule", "change_schedule", "fields: until they are deleted", "app/schedule → a schedule that was created at run time: its revision, a space, and JSON. Its data may be encrypted"),
    Key("SCHEDULE_STATES", f"{KEY_PREFIX}:schedule-states", "", "hash", "change_schedule fire_schedule", "change_schedule", "fields: as the schedules", "app/schedule → the time in ms up to which runs were started; then, if there is one, the time that the last run is for, and the run"),
    Key("SCHEDULES_VERSION", f"{KEY_PREFIX}:schedules:version", "", "string", "change_schedule", "", "for ever", "the version of the schedules, which grows with each change; workers check it"),
    Key("REPLICATED", f"{KEY_PREFIX}:replicated", "", "string", "run_replicated", "", "a minute after the last start", "empty: a producer with durability=\"replicated\" writes it, so that WAIT has a write to wait for"),
    Key("PARTITIONS", f"{KEY_PREFIX}:partitions", "", "string", "agree_partitions", "", "for ever", "the number of partitions, the same for all processes"),
    Key("FUNCTIONS", f"{KEY_PREFIX}:functions", "", "hash", "register_functions", "forget_function", "until it is forgotten", "app/function → its config: queue, triggers, retries and so on"),
    Key("FUNCTION_QUEUES", f"{KEY_PREFIX}:function-queues", "", "set", "register_functions", "forget_function", "until the function is forgotten", "<app/function>\\n<queue>: each queue that a function has, or had before its configuration was changed"),
    Key("CODE", f"{KEY_PREFIX}:code:", "<digest of the names>", "set", "register_code", "", "90 seconds after the last worker with these functions has ended", "the functions (app/function) of which a live worker has the code, and the version of it"),
    Key("CODES", f"{KEY_PREFIX}:codes", "", "zset", "register_code", "register_code", "members: as the set that they name", f"the digests of the sets in {KEY_PREFIX}:code:, by the time in ms at which they expire"),
    Key("CACHED_RESULT", f"{KEY_PREFIX}:cached-result:", "<digest of function, step and key>", "string", "cache_result", "cache_result", "as the step says", "the result of a step for other runs, and the run that it comes from, as JSON; the result may be encrypted"),
    Key("CACHED_RESULTS", f"{KEY_PREFIX}:cached-results", "", "zset", "cache_result", "cache_result", "until the last member has expired", f"the digests of the keys {KEY_PREFIX}:cached-result:, by the time in ms at which they expire, at most 10,000"),
    Key("CODE_WAITS", f"{KEY_PREFIX}:code-waits", "", "set", "claim_jobs leave_job", "claim_jobs register_code", "members: until a worker with the code has taken the jobs", "<list>\\n<app/function>: the wait list code <list>\\n<app/function> has jobs, which a worker without the code of the function has met. With \\n=<version>: jobs of runs that are pinned to this version"),
    Key("VERSION", f"{KEY_PREFIX}:functions:version", "", "string", "forget_function register_functions", "", "for ever", "the version of the registry, which grows with each change; routers check it"),
    Key("READY", f"{KEY_PREFIX}:ready", "", "channel", "claim_jobs enqueue_or_wait leave_job notify_outbox push_job resume_subject", "", "—", "wakes idle workers: the name of a list with jobs; empty: there are messages to other partitions"),
    Key("PAUSES", f"{KEY_PREFIX}:pauses", "", "channel", "pause resume", "", "—", "tells workers to read the pauses again"),
    Key("NOTIFICATIONS", f"{KEY_PREFIX}:notifications:", "<worker>", "channel", "cancel_tree notify_holder", "", "—", "tells a worker that a run which it executes has a new memo (`memo <run> <position> <step key>`) or was cancelled (`cancel <run>`). The worker reads the rest"),
    Key("RUN_ENDED", f"{KEY_PREFIX}:run-ended:", "<run>", "channel", "close_run", "", "—", "tells callers that wait for the result of a run that it has ended"),
    Key("RQ_QUEUE", f"{RQ}:queue:", "<queue> and <queue>:steps", "list", "claim_jobs push_job", "claim_jobs drop_continuation drop_step", "members: until the job is claimed", "RQ: ready jobs. The first list has the first jobs of new runs. The second has the jobs of started runs, which workers claim first"),
    Key("RQ_QUEUES", f"{RQ}:queues", "", "set", "push_job", "", "for ever", "RQ: all queues"),
    Key("RQ_JOB", f"{RQ}:job:", "<run> or <run>-<step key>", "hash", "close_run defer describe_job grant_lease park_run settle_requeue", "begin_run close_run commit_item commit_planned_step drop_step MAP_ITEMS.leave settle_requeue", "until the job ends; of a failed run its retention", "RQ: a job, as RQ's own tools read it. Its data is JSON, never pickle"),
    Key("RQ_WIP", f"{RQ}:wip:", "<queue>", "zset", "extend_leases grant_lease", "drop_lease", "members: until the lease ends", f"RQ: jobs that are executing, as RQ's tools show them. Workers use the leases in {KEY_PREFIX}:leases"),
    Key("RQ_SCHEDULED", f"{RQ}:scheduled:", "<queue>:steps", "zset", "delay_job move_delayed", "drop_continuation drop_step fire_timers requeue_step start_batch", "members: until the job is queued", f"RQ: delayed jobs, as RQ's tools show them. Workers use the timers in {KEY_PREFIX}:timeouts"),
    Key("RQ_FAILED", f"{RQ}:failed:", "<queue>", "zset", "close_run settle_requeue", "finish_run RQ", "members: the retention of the run", "RQ: failed runs"),
    Key("RQ_SUSPENDED", f"{RQ}:suspended", "", "string", "RQ", "RQ", "until rq resume", "RQ: while it exists, no job is claimed"),
    Key("RQ_WORKERS", f"{RQ}:workers", "", "set", "RQ", "RQ", "members: until the worker ends", "RQ: all workers"),
    Key("RQ_WORKER", f"{RQ}:worker:", "<worker>", "hash", "RQ", "RQ", "until the worker sends no heartbeat", "RQ: a worker: host, process id, state, queues, counts, last heartbeat"),
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

    def several(self, subject: str, names: Iterable[str]) -> tuple[str, ...]:
        """The keys of these kinds for one subject."""
        known = self._names
        return tuple([known[name] + subject for name in names])

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
    """Lua definitions of the key constants that ``script`` names.

    A server without partitions joins no texts for them, because this is done at each call of a script.
    """
    named = set(re.findall(r"\b[A-Z_]{3,}\b", script))
    keys = [key for key in KEYS if key.name in named]
    group = f"local GROUP = '{GROUP}'\n" if "GROUP" in named else ""
    if "CANCELLED_EVENT" in named:
        group += f"local CANCELLED_EVENT = '{CANCELLED}'\n"
    if not keys:
        return group
    names, texts = ", ".join(key.name for key in keys), ", ".join(f"'{key.text}'" for key in keys)
    in_partition = ", ".join(f"P .. {key.name}" for key in keys)
    return (
        f"local P = string.match(KEYS[1], '^{{sf:%d+}}:')\n"
        f"local {names} = {texts}\n"
        f"if P then {names} = {in_partition} end\n{group}"
    )
