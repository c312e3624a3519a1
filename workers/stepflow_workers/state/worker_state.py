"""The workbench: what all jobs of a worker share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.transitions.jobs import Lease, by_partition, fail_attempt, release_jobs
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.encryption_scopes import open_memo
from stepflow_engine.memo import Memo, read_memo
from stepflow_workers.execution.steps.run import Performer
from stepflow_workers.state.pauses import Pauses
from stepflow_workers.state.run_cache import CachedRun, RunCache
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.state.slots import Slots

__all__ = ["WorkerState"]

_log = logging.getLogger("stepflow.worker")


@dataclass(slots=True, eq=False)
class WorkerState:
    """What the jobs of one worker share.

    Attributes:
        broker, keys: the way to the server.
        worker: the worker's name.
        settings: how it works.
        slots: how many jobs it executes at once.
        held: the runs in its memory.
        performer: performs steps.
        pauses: what is paused.
        stopping: it takes no more jobs, and ends those at hand as soon as their steps allow.
        suspended: the partitions where RQ is suspended: runs go back to their queues after the step at hand.
        finished_jobs, failed_jobs: how many were done, for RQ.
        cipher: opens payloads, with the keys of all apps of this worker.
        job_queued: called with a run for which this worker has queued a job, which it may as well take itself.
        timer_set: called with a run and the milliseconds until a timer that this worker has set for it is due.
    """

    broker: AsyncBroker
    keys: Keys
    worker: str
    settings: WorkerSettings
    slots: Slots
    held: RunCache = field(init=False)
    performer: Performer = field(init=False)
    pauses: Pauses = field(init=False)
    stopping: bool = False
    suspended: set[str] = field(default_factory=set)
    finished_jobs: int = 0
    failed_jobs: int = 0
    cipher: Cipher = NO_ENCRYPTION
    job_queued: Callable[[str], object] = str
    timer_set: Callable[[str, int], object] = lambda _run_id, _delay_ms: None

    def __post_init__(self) -> None:
        self.held = RunCache(self.settings.cached_runs)
        self.pauses = Pauses(self.broker, self.keys, self.cipher)
        self.performer = Performer(self.worker, backoff=self.settings.backoff)

    def accepted(self, held: CachedRun, code: ScriptStatus) -> bool:
        """Whether a transition was accepted; if not, the run is another's now, or has ended, and is let go of."""
        if code in (ScriptStatus.DONE, ScriptStatus.ALREADY):
            return True
        if code is ScriptStatus.STALE_FENCE:
            _log.warning("lease_lost", extra={"run_id": held.run_id, "function": held.function.name})
        self.held.drop(held)
        return False

    async def plan_retry(
        self, lease: Lease, key: str, step_id: str, *, attempts: int, error: bytes, delay_ms: int
    ) -> ScriptStatus:
        """Record a step's failed attempts, and have the next one done as a job of its own, after a delay.

        Args:
            lease: of the step's own job, or of the continuation that executed the step.
        """
        call = fail_attempt(
            self.keys,
            run_id=lease.run_id,
            job_key=lease.key,
            fence=lease.fence,
            key=key,
            step_id=step_id,
            attempts=attempts,
            error=error,
            delay_ms=delay_ms,
        )
        code = await self.broker.execute(call)
        self.timer_set(lease.run_id, delay_ms)
        return code

    def read_memo(self, run_id: str, key: str, text: bytes) -> Memo:
        """A stored memo, opened.

        Raises:
            DecryptionError: it cannot be opened.
        """
        return open_memo(self.cipher, run_id, key, read_memo(text))

    async def release(self, leases: list[Lease]) -> None:
        """Return jobs to their queues, for any worker to take at once; those that are lost already are left alone."""
        for keys, part in by_partition(self.keys, [(lease.job, lease.fence) for lease in leases]):
            await self.broker.execute(release_jobs(keys, part))

    def forget(self, run_id: str) -> None:
        """Let go of a run that has ended elsewhere, or whose lease is lost."""
        held = self.held.get(run_id)
        if held is not None:
            self.held.drop(held)
