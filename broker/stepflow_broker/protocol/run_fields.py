"""The fields of the hashes ``RUN`` and ``STEPS``: one line each.

``docs/reference/redis-keys.md`` is generated from these tables. A test compares them with every field that a Lua
script or a Python module reads, writes or deletes.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RUN_FIELDS", "STEP_FIELDS", "HashField"]


@dataclass(frozen=True, slots=True)
class HashField:
    """One field.

    Attributes:
        name: the name. ``<n>`` stands for a number, ``<key>`` for the key of a step.
        type: the type and the unit of the value.
        writers: the scripts, or the functions of ``lua/lib``, that write the field. Scripts of the doctor are left out:
            they repair fields.
        deleters: the scripts, functions of ``lua/lib`` and Python functions that delete the field; empty: it stays for
            as long as the hash.
        meaning: what the value means.
    """

    name: str
    type: str
    writers: tuple[str, ...]
    deleters: tuple[str, ...]
    meaning: str


def _field(name: str, type: str, writers: str, deleters: str, meaning: str) -> HashField:
    return HashField(name, type, tuple(sorted(writers.split())), tuple(sorted(deleters.split())), meaning)


_TIME = "time in ms"
_DURATION = "duration in ms"
_CREATE = "start_or_skip store_run"
_MOVE = "begin_run claim_jobs queue_run retry_run store_run"
_LEASE_ENDS = "begin_undo close_run leave_job park_run requeue_run retry_run"

# fmt: off
RUN_FIELDS: tuple[HashField, ...] = (
    # what the run is
    _field("app", "text", _CREATE, "", "The app of the function."),
    _field("function", "text", _CREATE, "", "The id of the function within its app."),
    _field("queue", "text", _CREATE, "", "The queue of the jobs of the run."),
    _field("event", "JSON", f"{_CREATE} continue_as_new", "", "The event that started the run. Its data may be encrypted."),
    _field("created_at", _TIME, f"{_CREATE} mend_run", "", "The creation of the run."),
    _field("retention_ms", _DURATION, "APPLY.field start_later", "", "How long the ended run is kept. Only runs with flow control, cancellation rules or options, and those that were started for a later time, store it; for others the caller of a script passes it."),
    _field("options", "JSON", "APPLY.field", "", "The options of the start of this run, which it has in place of the settings of its function. Other runs have no such field."),
    _field("dedupe_ms", _DURATION, "fire_cron fire_schedule fork_run route_event start_runs start_runs_later", "", "How long after its creation the run is kept at least, so that its id prevents a second start. 0: no minimum."),
    # its state
    _field("status", "text", f"{_MOVE} close_run leave_job park_run start_or_skip", "", "The status that users see. While the run is live, it follows from `continuation`."),
    _field("continuation", "text", f"{_MOVE} create_run defer promote", "begin_undo close_run park_run", "The state of the run's own job. A parked or ended run has no such field."),
    _field("started_at", _TIME, "claim_jobs mend_run", "", "The first claim of the run."),
    _field("ended_at", _TIME, "close_run", "", "The end of the run."),
    _field("ended_by", "text", "close_run", "", "The worker that had the lease of the continuation when the run ended."),
    _field("version", "text", "claim_jobs continue_as_new", "", "The version of the code of the worker that started the run; of a pinned run that has continued as new, that to which its round is pinned. Without the field it has none."),
    _field("output", "JSON", "close_run", "", "The result of a completed run. It may be encrypted."),
    _field("error", "JSON", "begin_undo close_run", "", "The failure of a run that has failed, was cancelled or was skipped, or that undoes its steps before it ends so. It may be encrypted."),
    _field("indexed", "text", "note_error tag_run with_tags", "", "The further indexes that list the run: of its tags, and of the group of its error. `<length> <subject>` repeated."),
    _field("reason", "text", "skip_run start_or_skip", "", "Why the run was skipped."),
    _field("ended_version", "text", "end_undo finish_run", "", "The version of the code that ended the run, if it differs from `version`."),
    _field("step_queues", "1", "begin_map plan_steps", "", "The run has had steps with a queue of their own. Other runs have no such field."),
    _field("attached_to", "text", "begin_run start_or_skip", "", "The live run that the caller of a skipped run has got in its place, by a singleton."),
    # its job
    _field("lease", "integer", "claim_jobs", _LEASE_ENDS, "The fence of the current lease of the continuation."),
    _field("fence", "integer", "claim_jobs", "", "The last fence of any job of the run. It only grows."),
    _field("list", "text", "claim_jobs", _LEASE_ENDS, "The list from which the leased continuation was claimed."),
    _field("owner", "text", "claim_jobs", _LEASE_ENDS, "The worker that has the lease of the continuation."),
    _field("leased_at", _TIME, "claim_jobs", _LEASE_ENDS, "When the lease of the continuation was granted."),
    _field("executing", "text", "extend_leases", _LEASE_ENDS, "The step that the continuation has executed for longer than a second: `<fence> <since, in ms> <step key> <step id>`. It counts while the lease has this fence and the step has no memo and no job."),
    _field("deaths", "lines of text", "reclaim_leases", "begin_undo commit_step close_run MAPS.store_end forget_deaths record_memo continue_as_new", "The workers that died with the continuation since its last progress, each with the time. With too many the run is poison."),
    _field("attempt", "integer", f"{_CREATE} retry_run continue_as_new", "", "How many attempts of the function's own code have failed."),
    _field("attempt_started_at", _TIME, "claim_jobs", "retry_run continue_as_new", "The first claim of a later attempt of the function's own code. The first attempt starts at `started_at`."),
    _field("first_failed_at", _TIME, "retry_run", "continue_as_new", "When the first attempt of the function's own code failed. The budget of a retry policy counts from it."),
    _field("last_error", "JSON", "retry_run", "continue_as_new", "The failure of the last attempt of the function's own code. It may be encrypted."),
    _field("due", _TIME, "begin_run create_run mend_run retry_run accept_mismatch", "", "When the delayed continuation is queued. It is out of date in other states."),
    _field("delayed_at", _TIME, "begin_run mend_run retry_run accept_mismatch", "", "When the delay of a started run began, or that of a run whose own time is over. `due` counts from it. Without the field, `due` counts from `created_at`."),
    _field("delayed_by", "text", "begin_run find_batch start_later start_or_skip", "", "The flow control rule that delays or delayed the start; `delayed`: the client does."),
    _field("start_rules", "packed texts", "start_later", "begin_run", "The rules of the start of a run that a client has started for a later time. They are checked and applied when it is due."),
    _field("due_is_fixed", "1", "start_later", "begin_run", "The client has named the time itself, so it does not count from `created_at`."),
    _field("blocked", "text", "retry_run", "begin_undo close_run leave_job retry_run continue_as_new accept_mismatch", "Why the last worker that claimed the run could not execute it."),
    _field("deferred", "integer", "retry_run", "begin_undo close_run retry_run continue_as_new accept_mismatch", "How often in a row a worker could not execute the run, because it could not read it or did not have its code. The delay doubles each time."),
    _field("left_by", "words", "leave_job", "begin_undo close_run continue_as_new", "The versions of the code whose workers have left the continuation to another version, because their code has a step of another kind."),
    _field("pinned", "1", "APPLY.field", "unpin_run", "Only workers of the release that `version` names execute the run. Without the field, all do."),
    # flow control
    _field("heartbeats", "1", "record_heartbeat", "", "A handler of the run has sent a heartbeat with a detail, so the attempts of the run may have one."),
    _field("concurrency", "text", "APPLY.field", "", "The concurrency limits of the run's jobs. `<limit> <length of the name> <name>` repeated."),
    _field("priority_ms", "duration in ms, may be negative", "APPLY.field", "", "The time by which the run comes earlier in a wait list."),
    _field("singleton", "text", "APPLY.singleton", "APPLY.singleton", "The name of the singleton key that the run holds."),
    _field("rate", "text", "APPLY.rate", "", "The name of the rate limit key that counts the run."),
    _field("batch", "text", "begin_run create_member find_batch", "", "The run id of the batch. A batch is a run itself: both its members and the batch have the field."),
    _field("members", "run ids", "end_batch", "", "Of a batch: the members that have ended with it, in the order in which they joined, with a space between them."),
    # cancellation
    _field("cancel_events", "integer", "APPLY.field", "begin_undo", "How many events can cancel the run. Runs without cancellation rules have no such field."),
    _field("cancel:<n>", "text", "APPLY.cancel_on", "", "The index of the wait for cancelling event n."),
    _field("condition:<n>", "JSON", "APPLY.cancel_on", "", "The condition of cancelling event n, which a worker evaluates. Empty: none."),
    _field("until:<n>", _TIME, "APPLY.cancel_on move_created", "", "Until when cancelling event n counts. Without the field it counts for the whole life of the run."),
    _field("start_within", "text", "APPLY.start_within", "", "The time within which the run must start, as readable text. The timer has the time itself."),
    _field("finish_within", "text", "APPLY.finish_within", "", "The time within which the run must end, as readable text."),
    _field("finish_ms", _DURATION, "APPLY.finish_within", "begin_undo", "The time within which the run must end, counted from its start."),
    # undo
    _field("undo", "1", "fork_run note_undo", "continue_as_new", "The code of the run has requested a step with an undo handler. Other runs have no such field."),
    _field("undoing", "text", "begin_undo", "end_undo", "The status that the run will have when its steps are undone: `failed` or `cancelled`. Its jobs execute undo handlers."),
    _field("failed_event", "JSON", "finish_run", "end_undo", "The event that reports the failed run, until its steps are undone."),
    _field("failed_event_id", "text", "finish_run", "end_undo", "The id of `failed_event`."),
    # patches
    _field("patches", "JSON", "fork_run note_patches", "continue_as_new", "What the run has decided at each patch of its code: `patched`, and `after`, the position of the latest memo that the code had received. Runs without patches have no such field."),
    # its code
    _field("mismatch", "JSON", "note_mismatch", "", "How the code of the run differs from its history: the steps of the history that it does not request, those that it requests, and its version. Other runs have no such field."),
    _field("mismatch_code", "text", "note_mismatch", "", "The fingerprint of this code."),
    _field("mismatch_accepted", "1", "accept_mismatch", "note_mismatch", "Somebody has let the run go on with this code."),
    # its source
    _field("forked_from", "text", "fork_run", "", "The run whose memos it got when it was created."),
    _field("forked_at", "text", "fork_run", "", "The id of the step before which that run was cut. Empty: not by a step."),
    _field("forked_by", "text", "fork_run", "", "Who has made the fork, and why."),
    _field("events_since", _TIME, "fork_run continue_as_new", "", "From when on waits take early events: of a retry, the creation of the first run. Without the field: the creation of this run."),
    _field("unchecked_memos", "integer", "fork_run", "continue_as_new", "How many of its first memos are not compared with the code: those that it got from its source, if it has another event, other results or not all steps. Other runs have no such field."),
    _field("keys_of", "text", "fork_run", "", "The run whose idempotency keys the steps of this run use. Without the field they use their own."),
    _field("forks", "run ids", "fork_run", "", "The last 20 forks of this run, newest first, with a space between them."),
    # what others send it, and what it says of itself
    _field("signals", "integer", "keep_signal signal_index take_signal", "", "How many signals are kept that no wait has received. A run that was sent no signal, and has waited for none, has no such field."),
    _field("values", "JSON", "set_values", "", "What the code of the run has set, as an object. It may be encrypted."),
    # its parent
    _field("parent", "text", "invoke_child start_child", "", "The run that waits for this one, in the same partition."),
    _field("remote_parent", "text", "start_remote_child", "", "The run that waits for this one, in another partition."),
    _field("parent_step", "text", "invoke_child start_child start_remote_child", "", "The key of the step that waits for this run."),
    _field("depth", "integer", "invoke_child start_child start_remote_child", "", "How many ancestors the run has."),
    _field("closing", "text", "note_closing", "begin_undo continue_as_new", "How the code of a live run has ended, `completed` or `failed`, while the run waits for its children before it ends so."),
    # its rounds
    _field("round", "integer", "continue_as_new fork_run", "", "How often the code has continued as new. Without the field: never."),
    _field("round_at", _TIME, "continue_as_new", "", "The start of the round. Without the field it is that of the run."),
    _field("rounds", "lines of words", "continue_as_new", "", "The last 20 rounds that have ended, the latest first: number, start, end (times in ms), how many steps ended, digest of the event."),
    _field("start_message", "text", "start_remote_child", "", "The message on the stream of finished events that started this run, in the partition of its parent."),
    _field("finished", "text", "close_run", "", "The entry for the end of this run on the stream of finished events. It is deleted when the parent, or all members of the batch, know of it."),
    _field("keep_ms", _DURATION, "close_run", "", "The retention that begins when `finished` is deleted from the stream."),
)
"""The fields of the hash ``RUN``."""

_STEP_ENDS = "drop_planned_step"
_WAIT_ENDS = "drop_wait"
_BEGIN_WAIT = "await_child begin_wait store_wait"
_STEP_LEASE_ENDS = "drop_planned_step fail_attempt leave_job requeue_step"

_MAP_ENDS = "drop_planned_step"

STEP_FIELDS: tuple[HashField, ...] = (
    _field("<key>", "text", f"{_BEGIN_WAIT} begin_map fail_attempt MAPS.plan_item plan_steps", f"{_STEP_ENDS} {_WAIT_ENDS}", "The id of the step, as the code gave it."),
    _field("<key>:state", "text", f"{_BEGIN_WAIT} begin_map claim_jobs defer fail_attempt MAPS.hand_out MAPS.plan_item plan_steps promote requeue_step", f"{_STEP_ENDS} {_WAIT_ENDS}", "The state of the step."),
    _field("<key>:queue", "text", "begin_map MAPS.plan_item plan_steps", _STEP_ENDS, "The queue of the step's job, in place of that of the run. Most steps have no such field."),
    _field("<key>:lease", "integer", "claim_jobs", _STEP_LEASE_ENDS, "The fence of the current lease of the step's job."),
    _field("<key>:owner", "text", "claim_jobs", _STEP_LEASE_ENDS, "The worker that has the lease."),
    _field("<key>:leased_at", _TIME, "claim_jobs", _STEP_LEASE_ENDS, "When the lease was granted."),
    _field("<key>:attempt", "integer", "begin_map fail_attempt leave_job", _STEP_ENDS, "How many attempts have failed."),
    _field("<key>:first_failed_at", _TIME, "fail_attempt", _STEP_ENDS, "When the first attempt failed. The budget of a retry policy counts from it."),
    _field("<key>:error", "JSON", "fail_attempt", _STEP_ENDS, "The failure of the last attempt. It may be encrypted."),
    _field("<key>:deaths", "lines of text", "reclaim_leases", _STEP_ENDS, "The workers that died with the step's job, each with the time."),
    _field("<key>:due", _TIME, f"{_BEGIN_WAIT} fail_attempt mend_step accept_mismatch", f"{_STEP_ENDS} {_WAIT_ENDS}", "When the next attempt is queued, or the wait ends."),
    _field("<key>:deferred", "integer", "fail_attempt", f"{_STEP_ENDS} fail_attempt accept_mismatch", "How often in a row a worker could not execute the step's job, as `deferred` of a run."),
    _field("<key>:left_by", "words", "leave_job", f"{_STEP_ENDS}", "The versions of the code whose workers have left the step's job to another version, because their code does not call the step."),
    _field("<key>:began", _TIME, f"{_BEGIN_WAIT} fail_attempt mend_step accept_mismatch", f"{_STEP_ENDS} {_WAIT_ENDS}", "When the wait, or the delay before the next attempt, began. `due` counts from it. A wait until a time that the code has named has no such field."),
    _field("<key>:detail", "JSON without its first brace", f"{_BEGIN_WAIT} begin_map", f"{_STEP_ENDS} {_WAIT_ENDS}", "The end of the memo of a waiting step, or of a map, which does not depend on the outcome."),
    _field("<key>:child", "text", "await_child", _WAIT_ENDS, "The run that the step waits for."),
    _field("<key>:close", "text", "start_child", _WAIT_ENDS, "Of a wait for a child of which the code has a handle: what becomes of the child when the run ends: `cancel`, `leave` or `wait`."),
    _field("<key>:message", "text", "invoke_remote_child start_child", _WAIT_ENDS, "The message on the stream of finished events that starts the child, if the child lives in another partition."),
    _field("<key>:index", "text", "begin_wait store_wait", _WAIT_ENDS, "The index of a wait for an event. `ask` of a wait for an answer, `signal\\n<number>\\n<name>` of a wait for a signal."),
    _field("<key>:condition", "JSON", "begin_wait", _WAIT_ENDS, "The condition of a wait for an event, which a worker evaluates. Empty: none."),
    _field("<key>:lookback", _TIME, "begin_wait", f"{_WAIT_ENDS} early_events_matched", "From when on early events may end a wait for an event, until a worker has matched them."),
    _field("<key>:count", "integer", "begin_map", _MAP_ENDS, "How many items a map has. Only a map has this field and those below. The key of an item is that of its map, with 16 more digits."),
    _field("<key>:digest", "text", "begin_map", _MAP_ENDS, "The first 8 hex digits of the digest of the items of a map. They are part of the keys of the items."),
    _field("<key>:at_once", "integer", "begin_map", _MAP_ENDS, "How many items of a map may be open at once."),
    _field("<key>:tolerated", "integer", "begin_map", _MAP_ENDS, "How many items of a map may fail."),
    _field("<key>:room", "size in bytes", "begin_map", _MAP_ENDS, "How large the results of all items of a map may be."),
    _field("<key>:next", "integer", "begin_map MAPS.hand_out", _MAP_ENDS, "The index of the next item that a map hands out."),
    _field("<key>:open", "integer", "begin_map MAPS.hand_out", _MAP_ENDS, "How many items a map has handed out that have not ended."),
    _field("<key>:failed", "integer", "begin_map MAPS.hand_out", _MAP_ENDS, "How many items of a map have failed."),
    _field("<key>:bytes", "size in bytes", "begin_map MAPS.hand_out", _MAP_ENDS, "How large the results of the items of a map are so far."),
    _field("<key>:since", "position", "begin_wait", _WAIT_ENDS, "The position of the latest memo that the code had when it requested a wait for an event. 0: none."),
)
"""The fields of the hash ``STEPS``."""
# fmt: on
