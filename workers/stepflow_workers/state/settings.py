"""The settings of a worker process."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepflow_engine.retry import Backoff

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker works.

    Attributes:
        redis_url: the server; not in the repr, for it may have a password.
        queues: the queues to serve, most important first; empty: those of the apps' functions.
        name: the worker's name in RQ; empty: made of host and process id.
        concurrency: how many jobs are executed at once.
        burst: stop when nothing is ready.
        sticky: how many steps in a row a run may execute before it goes back to its queue; 0: it goes back after each.
        cached_runs: how many suspended runs are kept in memory; a run that is not kept is replayed.
        lease_ms: how long a job stays with a worker that gives no sign of life, in milliseconds.
        grace_s: how long a warm shutdown waits for handlers, in seconds; then their jobs are handed back.
        backoff: the waits between attempts.
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
