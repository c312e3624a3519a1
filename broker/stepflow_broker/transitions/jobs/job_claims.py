"""Claim jobs, and give them back.

A worker claims a job and gets a lease with a fence. Each commit names the fence, and a script refuses it (STALE_FENCE)
when another worker has claimed the job since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_engine.ids import split_job_id
from stepflow_engine.value_class import value_class

__all__ = ["ClaimedJobs", "Lease", "claim_jobs", "leave_job", "queue_lists", "release_jobs"]

_LEASE_FIELDS = 18


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
