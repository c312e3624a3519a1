"""The settings of a worker process."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepflow_engine.retry_policy import Backoff

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of one worker.

    Attributes:
        redis_url: the server; not in the repr, because it may have a password.
        queues: the queues to serve, most important first; empty: those of the apps' functions.
        name: the name of the worker in RQ; empty: derived from the host and process id. In a database other
            than 0, ``.db<number>`` is appended.
        concurrency: how many jobs it executes at once.
        burst: stop when nothing is ready.
        sticky: how many steps a run may execute in a row before it goes back to its queue; 0: it goes back after each.
        cached_runs: how many suspended runs stay in memory; a run that is not in memory is replayed.
        lease_ms: how long a job stays with a worker that does not renew its lease, in milliseconds.
        grace_s: how long a warm shutdown waits for handlers, in seconds; then it releases their jobs.
        backoff: the delays between attempts.
        cancel_grace_s: how long an async or isolated handler may go on after its run was cancelled, in seconds.
        max_jobs: after how many jobs a new process takes the place of this one; 0: never.
        max_memory_bytes: above how much resident memory a new process takes its place, in bytes; 0: never.
        isolated_processes: how many isolated handlers it executes at once; 0: as many as there are CPUs.
        holds_runs: whether a run that waits keeps its lease for a while. Else it is parked at once.
        has_lease_sidecar: whether a process extends the leases while no thread of the worker can run.
    """

    redis_url: str = field(repr=False)
    queues: tuple[str, ...] = ()
    name: str = ""
    concurrency: int = 100
    burst: bool = False
    sticky: int = 100
    cached_runs: int = 1000
    lease_ms: int = 10_000
    grace_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    cancel_grace_s: float = 5.0
    max_jobs: int = 0
    max_memory_bytes: int = 0
    isolated_processes: int = 0
    holds_runs: bool = True
    has_lease_sidecar: bool = True

    @property
    def recycles(self) -> bool:
        """Whether a new process takes the place of this one at some time."""
        return bool(self.max_jobs or self.max_memory_bytes)
