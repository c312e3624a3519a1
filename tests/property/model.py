"""A model of the transitions in plain Python: what the scripts must answer, and what must be there afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.ids import job_id, step_key
from stepflow_engine.state_machine import RunStatus

__all__ = ["Job", "Model", "Run"]


@dataclass(slots=True)
class Job:
    """The continuation of a run, or a planned step.

    Attributes:
        state: ``queued``, ``leased``, ``delayed`` or ``none``.
        fence: of the lease, while there is one.
        until_ms: when the lease ends, or the delay.
        attempts: failed attempts of a step.
        queue: the queue of the job.
    """

    state: str
    fence: int = 0
    until_ms: int = 0
    attempts: int = 0
    queue: str = "shop"

    def become(self, state: str, *, fence: int = 0, until_ms: int = 0) -> None:
        """Change the state."""
        self.state, self.fence, self.until_ms = state, fence, until_ms


@dataclass(slots=True)
class Run:
    """A run, as the model has it."""

    status: RunStatus = RunStatus.QUEUED
    continuation: Job = field(default_factory=lambda: Job("queued"))
    steps: dict[str, Job] = field(default_factory=dict)
    memos: dict[str, bytes] = field(default_factory=dict)
    fences: int = 0
    claimed: bool = False
    round: int = 0

    def job(self, key: str) -> Job | None:
        """The job of a step, or the continuation."""
        return self.steps.get(key) if key else self.continuation

    def wake(self) -> None:
        """A memo has come."""
        if self.continuation.state == "none":
            self.continuation.become("queued")

    def end(self, status: RunStatus) -> None:
        """The run is over; only its memos stay."""
        self.status = status
        self.steps.clear()
        self.continuation.become("none")


class Model:
    """All runs."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}

    # -- what is there ---------------------------------------------------------------

    def jobs(self, state: str) -> dict[str, Job]:
        """All jobs in a state, by their ids."""
        return {
            job_id(name, key): job
            for name, run in self.runs.items()
            if not run.status.ended
            for key, job in [("", run.continuation), *run.steps.items()]
            if job.state == state
        }

    def ready(self) -> tuple[set[str], set[str]]:
        """Queued jobs of runs that have started, and of new ones."""
        queued = set(self.jobs("queued"))
        new = {name for name, run in self.runs.items() if name in queued and not run.claimed}
        return queued - new, new

    def holds(self, lease: Lease) -> Job | None:
        """The job of a lease, if the lease is valid."""
        run = self.runs[lease.run_id]
        job = run.job(lease.key)
        return job if job is not None and job.state == "leased" and job.fence == lease.fence else None

    def refusal(self, lease: Lease) -> ScriptStatus:
        """What a call with a lease that is not valid is told."""
        return ScriptStatus.NO_RUN if self.runs[lease.run_id].status.ended else ScriptStatus.STALE_FENCE

    # -- transitions -----------------------------------------------------------------

    def claimed(self, lease: Lease, until_ms: int) -> None:
        """A worker was given a job."""
        run = self.runs[lease.run_id]
        job = run.job(lease.key)
        assert job is not None
        assert job.state == "queued", f"{lease.job} was claimed and is {job.state}"
        assert (lease.applied, lease.step_attempt, lease.round) == (len(run.memos), job.attempts, run.round)
        assert lease.fence > run.fences
        run.fences = lease.fence
        assert (lease.event is not None) == (not lease.key and not run.claimed)
        run.claimed = run.claimed or not lease.key
        job.become("leased", fence=lease.fence, until_ms=until_ms)

    def commit(self, lease: Lease, key: str, memo: bytes, *, keep: bool) -> tuple[ScriptStatus, int]:
        """A step has ended."""
        run = self.runs[lease.run_id]
        job = self.holds(lease)
        if job is None:
            if run.memos.get(key) == memo:
                return ScriptStatus.ALREADY, list(run.memos).index(key) + 1
            return self.refusal(lease), 0
        code = ScriptStatus.ALREADY if key in run.memos else ScriptStatus.DONE
        run.memos.setdefault(key, memo)
        if lease.key:
            del run.steps[key]
            run.wake()
        elif not keep and code is ScriptStatus.DONE:
            job.become("queued")
        return code, list(run.memos).index(key) + 1

    def plan(self, lease: Lease, step_ids: list[str], queue: str) -> ScriptStatus:
        """Steps get jobs on a queue."""
        if self.holds(lease) is None:
            return self.refusal(lease)
        run = self.runs[lease.run_id]
        for key in map(step_key, step_ids):
            if key not in run.memos:
                run.steps.setdefault(key, Job("queued", queue=queue))
        return ScriptStatus.DONE

    def fail(self, lease: Lease, key: str, attempts: int, due_ms: int) -> ScriptStatus:
        """An attempt has failed."""
        run = self.runs[lease.run_id]
        planned = run.steps.get(key)
        if self.holds(lease) is None or (not lease.key and planned is not None):
            known = planned is not None and planned.attempts >= attempts
            return ScriptStatus.ALREADY if known else self.refusal(lease)
        job = run.steps.setdefault(key, Job("none"))
        job.attempts = attempts
        job.become("delayed", until_ms=due_ms)
        return ScriptStatus.DONE

    def retry(self, lease: Lease, due_ms: int) -> ScriptStatus:
        """The code has failed and is run again later."""
        job = self.holds(lease)
        if job is None:
            return self.refusal(lease)
        job.become("delayed", until_ms=due_ms)
        return ScriptStatus.DONE

    def park(self, lease: Lease, applied: int) -> ScriptStatus:
        """The code waits for steps."""
        job = self.holds(lease)
        if job is None:
            return self.refusal(lease)
        if len(self.runs[lease.run_id].memos) > applied:
            return ScriptStatus.MORE
        if len(self.runs[lease.run_id].memos) < applied or not self.runs[lease.run_id].steps:
            return ScriptStatus.ALREADY
        job.become("none")
        return ScriptStatus.DONE

    def finish(self, lease: Lease, status: RunStatus) -> ScriptStatus:
        """The code has come to its end."""
        run = self.runs[lease.run_id]
        if self.holds(lease) is None:
            return ScriptStatus.ALREADY if run.status is status else self.refusal(lease)
        run.end(status)
        return ScriptStatus.DONE

    def continue_as_new(self, lease: Lease) -> ScriptStatus:
        """The code goes on with new data, and without what it has done."""
        run = self.runs[lease.run_id]
        if self.holds(lease) is None:
            return ScriptStatus.ALREADY if run.round > lease.round and not run.status.ended else self.refusal(lease)
        run.round += 1
        run.memos.clear()
        run.steps.clear()
        run.continuation.become("queued")
        return ScriptStatus.DONE

    def cancel(self, name: str) -> ScriptStatus:
        """The run is not wanted any more."""
        run = self.runs.get(name)
        if run is None:
            return ScriptStatus.NO_RUN
        if run.status.ended:
            return ScriptStatus.ALREADY
        run.end(RunStatus.CANCELLED)
        return ScriptStatus.DONE

    def release(self, lease: Lease) -> int:
        """A job is handed back."""
        job = self.holds(lease)
        if job is None:
            return 0
        job.become("queued")
        return 1

    def extend(self, lease: Lease, until_ms: int) -> list[str]:
        """A lease is kept; the answer names it if it is lost."""
        job = self.holds(lease)
        if job is None:
            return [lease.job]
        job.until_ms = until_ms
        return []

    def due(self, state: str, now_ms: int) -> set[str]:
        """Queue the jobs whose lease, or delay, is over."""
        over = {name: job for name, job in self.jobs(state).items() if job.until_ms <= now_ms}
        for job in over.values():
            job.become("queued")
        return set(over)
