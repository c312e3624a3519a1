"""Jobs: claim, execute and commit them, and the leases that guard them.

A worker claims a job and gets a lease with a fence. Each commit names the fence, and a script refuses it (STALE_FENCE)
when another worker has claimed the job since. A worker that crashes leaves its leases. `reclaim_leases` queues their
jobs again when the leases are over. `repair_jobs` queues jobs that another tool has removed from their queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.event_values import id_digest
from stepflow_broker.transitions.runs import RunRecord, pair_memos, parse_run
from stepflow_engine.error_group import FailedLike
from stepflow_engine.ids import split_job_id
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.value_class import value_class

_LEASE_FIELDS = 18
__all__ = [
    "ClaimedJobs",
    "Lease",
    "by_partition",
    "claim_jobs",
    "commit_planned_step",
    "commit_step",
    "continue_as_new",
    "continue_run",
    "end_undo",
    "extend_leases",
    "fail_attempt",
    "finish_run",
    "fire_timers",
    "leave_job",
    "load_run",
    "mend_times",
    "park_run",
    "plan_steps",
    "queue_lists",
    "reclaim_leases",
    "release_jobs",
    "repair_jobs",
    "retry_run",
    "yield_run",
]


def queue_lists(queues: Sequence[str]) -> list[str]:
    """The lists of queues in the order in which a worker claims from them: jobs of started runs first."""
    return [f"{queue}:steps" for queue in queues] + list(queues)


@value_class
class Lease:
    """A job that a worker has claimed, with what the claim has returned.

    Attributes:
        job: the job's id.
        run_id: the run that it belongs to.
        key: the step that it is for; ``""`` for the run's continuation.
        fence: the number that each commit must name; it only grows.
        app, function: whose code it runs.
        attempt: the attempt of the function (continuation).
        applied: how many memos the run had.
        deaths: the workers that died with this job since it last made progress, each with the time.
        event: the run's event as JSON text, for a run that starts; else ``None``.
        step_id, step_attempt: the id and the attempt of a planned step.
        planned: whether the run has planned steps (continuation).
        parent: the run that waits for this one, if one does (continuation).
        depth: how many parents the run has above it (continuation).
        version: the version of the code that started the run; ``""``: none.
        has_heartbeats: whether handlers of the run have sent heartbeats with details.
        undoing: the status with which the run ends when its steps are undone; ``""``: it does not undo them.
        round: how often the run has continued as new.
    """

    job: str
    run_id: str
    key: str
    fence: int
    app: str
    function: str
    attempt: int
    applied: int
    deaths: tuple[str, ...]
    event: bytes | None
    step_id: str
    step_attempt: int
    planned: bool
    parent: str
    depth: int
    version: str
    has_heartbeats: bool = False
    undoing: str = ""
    round: int = 0

    @classmethod
    def parse(cls, reply: list[Any]) -> Lease:
        """Read one entry of the reply of ``claim_jobs``."""
        (
            job,
            _list,
            fence,
            app,
            function,
            attempt,
            applied,
            deaths,
            event,
            step_id,
            step_attempt,
            planned,
            parent,
            depth,
            version,
            heartbeats,
            undoing,
            round_,
        ) = reply + [None] * (_LEASE_FIELDS - len(reply))
        name = job.decode()
        run_id, key = split_job_id(name)
        return cls(
            name,
            run_id,
            key,
            fence,
            replies.shown_text(app),
            replies.shown_text(function),
            attempt or 0,
            applied or 0,
            tuple(replies.shown_text(deaths).splitlines()),
            event or None,
            replies.shown_text(step_id),
            step_attempt or 0,
            (planned or 0) > 0,
            replies.shown_text(parent),
            depth or 0,
            replies.shown_text(version),
            heartbeats is not None,
            replies.shown_text(undoing),
            int(round_ or 0),
        )


@dataclass(frozen=True, slots=True)
class ClaimedJobs:
    """The result of a claim.

    Attributes:
        leases: the jobs that the worker has now.
        foreign: how many jobs of other programs are in front of each list that has any. They stay there.
        lacking: how many jobs of each function were left to workers that have its code.
    """

    leases: list[Lease]
    foreign: dict[str, int] = field(default_factory=dict)
    lacking: dict[str, int] = field(default_factory=dict)


def by_partition(
    partition: Partition, leases: Iterable[tuple[str, int]]
) -> list[tuple[Partition, list[tuple[str, int]]]]:
    """Leases (job, fence), grouped by partition."""
    found: dict[Partition, list[tuple[str, int]]] = {}
    for lease in leases:
        found.setdefault(partition.of(lease[0]), []).append(lease)
    return list(found.items())


def claim_jobs(
    partition: Partition,
    *,
    lists: Sequence[str],
    worker: str,
    limit: int,
    lease_ms: int,
    claim: int = 0,
    code: str = "",
    version: str = "",
) -> Command[ClaimedJobs | None]:
    """Lease at most ``limit`` ready jobs to a worker; ``None`` while RQ is suspended.

    Args:
        partition: the partition of the jobs.
        lists: the lists to claim from, in this order; see `queue_lists`.
        worker: the worker that claims.
        limit: the largest number of jobs.
        lease_ms: the length of the leases, in milliseconds.
        claim: a number that this worker uses once. A claim that is sent again with it returns the same jobs, so no job
            is lost with a reply. 0: no number.
        code: the digest of the functions of which the worker has the code; see `register_code`. ``""``: of all.
        version: the version of its code, which a run that starts now stores; ``""``: none.
    """
    return run_script(
        "claim_jobs",
        _claimed,
        (partition.keys("RQ_SUSPENDED"), partition.keys("PAUSED"), partition.keys("LAST_CLAIM", worker)),
        partition.clock.script_ms(),
        worker,
        limit,
        lease_ms,
        claim,
        code,
        version,
        *lists,
    )


def _claimed(reply: Any) -> ClaimedJobs | None:
    if reply == 0:
        return None
    leases, foreign, lacking = reply
    return ClaimedJobs([Lease.parse(entry) for entry in leases], _counts(foreign), _counts(lacking))


def _counts(reply: Iterable[list[Any]]) -> dict[str, int]:
    return {replies.shown_text(name): count for name, count in reply}


def load_run(
    partition: Partition, run_id: str, applied: int
) -> Command[tuple[RunRecord | None, list[tuple[str, bytes]]]]:
    """A run, and its memos without the first ``applied``."""

    def read(reply: Any) -> tuple[RunRecord | None, list[tuple[str, bytes]]]:
        flat, memos = reply
        return parse_run(run_id, replies.fields(flat)), pair_memos(memos)

    return run_script("load_run", read, partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"), applied, 1)


def commit_step(
    partition: Partition, *, run_id: str, fence: int, key: str, memo: bytes
) -> Command[tuple[ScriptStatus, int]]:
    """Store the memo of a step that the continuation has executed. Returns a status and the position of the memo.

    DONE, ALREADY, NO_RUN or STALE_FENCE. The worker keeps the lease of the continuation.
    """
    return run_script(
        "commit_step",
        replies.status_and_number,
        partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"),
        fence,
        key,
        memo,
    )


def commit_planned_step(
    partition: Partition, *, run_id: str, key: str, fence: int, memo: bytes, worker: str
) -> Command[tuple[ScriptStatus, int]]:
    """Store the memo of a planned step, and end its job. DONE, ALREADY, NO_RUN or STALE_FENCE, and the position."""
    return run_script(
        "commit_planned_step",
        replies.status_and_number,
        partition.run_keys(run_id, "RUN", "MEMOS", "MEMO_ORDER"),
        partition.clock.script_ms(),
        run_id,
        key,
        fence,
        memo,
        worker,
    )


def yield_run(partition: Partition, *, run_id: str, fence: int) -> Command[ScriptStatus]:
    """Queue the continuation again and end its lease. DONE, NO_RUN or STALE_FENCE."""
    return run_script(
        "yield_run", ScriptStatus, partition.run_keys(run_id, "RUN"), partition.clock.script_ms(), run_id, fence
    )


def plan_steps(
    partition: Partition, *, run_id: str, fence: int, steps: Sequence[tuple[str, str]], queue: str = ""
) -> Command[ScriptStatus]:
    """Queue a job for each of the steps (key, id). DONE, NO_RUN or STALE_FENCE.

    Args:
        queue: the queue of the jobs; ``""``: that of the run.
    """
    args = [part for step in ([("queue", queue), *steps] if queue else steps) for part in step]
    return run_script(
        "plan_steps",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "MEMOS", "STEPS"),
        partition.clock.script_ms(),
        run_id,
        fence,
        *args,
    )


def fail_attempt(
    partition: Partition,
    *,
    run_id: str,
    job_key: str,
    fence: int,
    key: str,
    step_id: str,
    attempts: int,
    error: bytes,
    delay_ms: int,
    longest_delay_ms: int = 0,
    attempt: bytes = b"",
) -> Command[ScriptStatus]:
    """Record that a step has failed ``attempts`` times, and delay its next attempt.

    DONE, ALREADY, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        job_key: the key of the step whose job was claimed; ``""``: the continuation has executed the step.
        fence: the fence of that job.
        key, step_id: the step.
        attempts: how many attempts have failed. A worker that leaves the step to others does not change the number.
        error: the failure of the last attempt, as JSON text.
        delay_ms: the delay before the next attempt, in milliseconds.
        attempt: the failed attempt, for the history of the run; see `attempt_detail`. ``b""``: there was none.
        longest_delay_ms: the delay doubles with each such call in a row, up to this, in milliseconds; 0: it does not.
    """
    return run_script(
        "fail_attempt",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "STEPS"),
        partition.clock.script_ms(),
        run_id,
        job_key,
        fence,
        key,
        step_id,
        attempts,
        error,
        delay_ms,
        longest_delay_ms,
        attempt,
    )


def retry_run(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    attempts: int,
    error: bytes,
    delay_ms: int,
    reason: str = "",
    longest_delay_ms: int = 0,
    attempt: bytes = b"",
) -> Command[ScriptStatus]:
    """Delay the continuation, which then runs the function again. DONE, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        fence: the fence of its continuation.
        attempts: how many attempts of the function's own code have failed.
        error: the failure of the last of them, as JSON text; ``b""``: unchanged.
        delay_ms: the delay, in milliseconds.
        reason: why the worker cannot execute the run; ``""``: it can.
        attempt: the failed attempt, for the history of the run; see `attempt_detail`. ``b""``: there was none.
        longest_delay_ms: the delay doubles with each such call in a row, up to this, in milliseconds; 0: it does not.
    """
    return run_script(
        "retry_run",
        ScriptStatus,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        fence,
        attempts,
        error,
        delay_ms,
        reason,
        longest_delay_ms,
        attempt,
    )


def park_run(partition: Partition, *, run_id: str, fence: int, applied: int) -> Command[ScriptStatus]:
    """Store that a run waits, and end its lease. DONE, MORE (a memo has arrived: lease kept), NO_RUN or STALE_FENCE."""
    return run_script(
        "park_run",
        ScriptStatus,
        partition.run_keys(run_id, "RUN", "MEMO_ORDER"),
        partition.clock.script_ms(),
        run_id,
        fence,
        applied,
    )


def continue_as_new(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    round: int,
    event: bytes,
    digest: str,
    own_event: str,
    keep_version: bool = False,
) -> Command[ScriptStatus]:
    """End a round of a run and queue the run for the next one. DONE, ALREADY, NO_RUN or STALE_FENCE.

    Args:
        round: the round that ends.
        event: the event of the next round, as JSON text.
        digest: identifies the event of this round; see `stepflow_engine.rounds.PastRound`.
        own_event: the id of the event that has started the run, which ends no wait of the next round; ``""``: it is
            known already.
        keep_version: a pinned run stays with the version that it has.
    """
    kinds = ("RUN", "MEMOS", "MEMO_ORDER", "STEPS", "ATTEMPTS", "DELIVERED", "SIGNAL_IDS")
    return run_script(
        "continue_as_new",
        ScriptStatus,
        partition.run_keys(run_id, *kinds),
        partition.clock.script_ms(),
        run_id,
        fence,
        round,
        event,
        digest,
        id_digest(own_event),
        int(keep_version),
    )


def continue_run(partition: Partition, run_id: str) -> Command[ScriptStatus]:
    """Queue the continuation of a parked run whose code has continued. DONE, ALREADY (it has one) or NO_RUN."""
    return run_script(
        "continue_run", ScriptStatus, partition.run_keys(run_id, "RUN"), partition.clock.script_ms(), run_id
    )


def finish_run(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    status: RunStatus,
    payload: bytes,
    retention_ms: int,
    failed_event: tuple[bytes, str] = (b"", ""),
    version: str | None = None,
    failed_like: FailedLike | None = None,
) -> Command[ScriptStatus]:
    """End a run with its output or its error. DONE, MORE (it undoes its steps first), ALREADY, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        fence: the fence of its continuation.
        status: completed or failed.
        payload: the output or the failure, as JSON text.
        retention_ms: how long the ended run is kept, in milliseconds.
        failed_event: text and id of the event ``stepflow/function.failed``; empty: the run has not failed.
        version: the version of the code that ends it; ``None``: that of the run.
        failed_like: the group of the failure; ``None``: it belongs to none.
    """
    like = failed_like or FailedLike("", "", "", "")
    field = "output" if status is RunStatus.COMPLETED else "error"
    return run_script(
        "finish_run",
        ScriptStatus,
        (partition.run_key("RUN", run_id), partition.of(run_id).keys("EVENTS")),
        partition.clock.script_ms(),
        run_id,
        fence,
        status.value,
        field,
        payload,
        retention_ms,
        *failed_event,
        version or "",
        like.group,
        like.step,
        like.name,
        like.message,
    )


def end_undo(
    partition: Partition,
    *,
    run_id: str,
    fence: int,
    retention_ms: int,
    version: str | None = None,
    undo_failed_event: tuple[bytes, str] = (b"", ""),
) -> Command[ScriptStatus]:
    """End a run whose undo handlers were executed, as it has stored. DONE, ALREADY, NO_RUN or STALE_FENCE.

    Args:
        partition: any partition of the server.
        run_id: the run.
        fence: the fence of its continuation.
        retention_ms: how long the ended run is kept, in milliseconds.
        version: the version of the code that ends it; ``None``: that of the run.
        undo_failed_event: text and id of the event ``stepflow/function.undo_failed``; empty: none has failed.
    """
    return run_script(
        "end_undo",
        ScriptStatus,
        (
            partition.run_key("RUN", run_id),
            partition.of(run_id).keys("EVENTS"),
            partition.of(run_id).keys("UNDO_FAILURES"),
        ),
        partition.clock.script_ms(),
        run_id,
        fence,
        retention_ms,
        version or "",
        *undo_failed_event,
    )


def release_jobs(partition: Partition, leases: Sequence[tuple[str, int]]) -> Command[int]:
    """Return jobs (id, fence) of a partition to their lists. Returns the number of released jobs."""
    return run_script(
        "release_jobs",
        int,
        (partition.keys("LEASES"),),
        partition.clock.script_ms(),
        *[part for lease in leases for part in lease],
    )


def leave_job(partition: Partition, *, run_id: str, key: str, fence: int, version: str) -> Command[ScriptStatus]:
    """Leave a job to workers with another version of its code.

    DONE, ALREADY (no live worker has another version: the lease is kept), NO_RUN or STALE_FENCE.

    Args:
        key: the key of the step of the job; ``""``: the continuation.
        version: the version of the code that cannot execute it, as registered; see `code_names`.
    """
    keyed = (*partition.run_keys(run_id, "RUN", "STEPS"), partition.of(run_id).keys("CODE_WAITS"))
    return run_script("leave_job", ScriptStatus, keyed, partition.clock.script_ms(), run_id, key, fence, version)


def extend_leases(
    partition: Partition,
    leases: Sequence[tuple[str, int]],
    *,
    lease_ms: int,
    executing: Mapping[str, str] = MappingProxyType({}),
) -> Command[list[str]]:
    """Extend leases (job, fence) of a partition by ``lease_ms``. Returns the jobs whose leases are lost.

    Args:
        partition: the partition of the jobs.
        leases: job and fence of each lease.
        lease_ms: the length of a lease, in milliseconds.
        executing: job of a continuation → the step that it executes; see `executing_report`.
    """
    args = [part for job, fence in leases for part in (job, fence, executing.get(job, ""))]
    return run_script(
        "extend_leases",
        replies.texts,
        (partition.keys("LEASES"),),
        partition.clock.script_ms(),
        lease_ms,
        *args,
    )


def reclaim_leases(partition: Partition, *, limit: int = 100, lease_ms: int = 10_000) -> Command[list[str]]:
    """Queue the jobs of a partition whose leases are over, and return them.

    Args:
        partition: the partition of the jobs.
        limit: the largest number of jobs.
        lease_ms: the length of the workers' leases. After an outage, live workers get half of it to extend theirs.
    """
    keyed = (partition.keys("LEASES"), partition.keys("LAST_LEASE_SCAN"))
    return run_script("reclaim_leases", replies.texts, keyed, partition.clock.script_ms(), limit, lease_ms)


def fire_timers(partition: Partition, *, limit: int = 500) -> Command[tuple[int, int]]:
    """Fire the due timers of a partition. Returns their number, and the milliseconds until the next (-1: none)."""
    return run_script(
        "fire_timers",
        replies.integer_pair,
        (partition.keys("TIMEOUTS"),),
        partition.clock.script_ms(),
        limit,
    )


def mend_times(partition: Partition, *, cursor: int, count: int = 500) -> Command[tuple[int, int]]:
    """Treat the times of live runs, and of some timers, that were noted while the clock was ahead as noted now.

    Returns the next cursor (0: the page was the last), and how many runs and timers had such a time.
    """
    keyed = (partition.keys("TIMEOUTS"), partition.keys("LIVE"))
    return run_script("mend_times", replies.integer_pair, keyed, partition.clock.script_ms(), cursor, count)


def repair_jobs(partition: Partition, *, cursor: int, count: int = 500) -> Command[tuple[int, list[str]]]:
    """Check some live runs of a partition, and queue their missing jobs. Returns the next cursor and the jobs."""
    return run_script(
        "repair_jobs",
        replies.cursor_and_texts,
        (partition.keys("LIVE"),),
        partition.clock.script_ms(),
        cursor,
        count,
    )
