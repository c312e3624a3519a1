"""What all jobs of one worker share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.transitions.jobs import Lease, by_partition, fail_attempt, release_jobs
from stepflow_engine.cipher import Cipher
from stepflow_engine.encryption_scopes import open_memo
from stepflow_engine.memo import Memo, read_memo
from stepflow_workers.state.pauses import Pauses
from stepflow_workers.state.run_cache import CachedRun, RunCache
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.state.signals import WorkerSignals
from stepflow_workers.state.slots import Slots

__all__ = ["WorkerState"]

_log = logging.getLogger("stepflow.worker")


@dataclass(slots=True, eq=False)
class WorkerState:
    """What the jobs of one worker share.

    Attributes:
        broker, keys: the connection to the server, and its keys.
        worker: the worker's name.
        settings: the worker's settings.
        cipher: decrypts payloads, with the keys of all apps of this worker.
        signals: tell the partition workers of queued jobs, timers and free slots.
        slots: how many jobs the worker executes at once.
        runs: the runs in memory.
        pauses: the functions, queues and keys that are paused.
        stopping: the worker claims no more jobs, and returns those it has as soon as their steps allow.
        suspended: the partitions where RQ is suspended. Runs return to their queues after the current step.
        finished_jobs, failed_jobs: counts for RQ.
    """

    broker: AsyncBroker
    keys: Keys
    worker: str
    settings: WorkerSettings
    cipher: Cipher
    signals: WorkerSignals = field(default_factory=WorkerSignals)
    slots: Slots = field(init=False)
    runs: RunCache = field(init=False)
    pauses: Pauses = field(init=False)
    stopping: bool = False
    suspended: set[str] = field(default_factory=set)
    finished_jobs: int = 0
    failed_jobs: int = 0

    def __post_init__(self) -> None:
        self.slots = Slots(self.settings.concurrency, self.signals)
        self.runs = RunCache(self.settings.cached_runs)
        self.pauses = Pauses(self.broker, self.keys, self.cipher)

    def accepted(self, run: CachedRun, code: ScriptStatus) -> bool:
        """Whether a transition was accepted. If not, another worker has the run, or it has ended: evict it."""
        if code in (ScriptStatus.DONE, ScriptStatus.ALREADY):
            return True
        if code is ScriptStatus.STALE_FENCE:
            _log.warning("lease_lost", extra={"run_id": run.run_id, "function": run.function.name})
        self.runs.drop(run)
        return False

    async def fail_attempt(
        self, lease: Lease, key: str, step_id: str, *, attempts: int, error: bytes, delay_ms: int
    ) -> ScriptStatus:
        """Record a step's failed attempts. The next attempt is a job of its own, after a delay.

        Args:
            lease: of the step's own job, or of the continuation that executed the step.
        """
        command = fail_attempt(
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
        code = await self.broker.execute(command)
        self.signals.timer_set(lease.run_id, delay_ms)
        return code

    def read_memo(self, run_id: str, key: str, text: bytes) -> Memo:
        """Read and decrypt a stored memo.

        Raises:
            DecryptionError: it cannot be decrypted.
        """
        return open_memo(self.cipher, run_id, key, read_memo(text))

    async def release(self, leases: list[Lease]) -> None:
        """Return jobs to their queues at once, for any worker. A job whose lease is lost is left alone."""
        for keys, part in by_partition(self.keys, [(lease.job, lease.fence) for lease in leases]):
            await self.broker.execute(release_jobs(keys, part))

    def evict(self, run_id: str) -> None:
        """Remove a run from memory: it has ended elsewhere, or its lease is lost."""
        run = self.runs.get(run_id)
        if run is not None:
            self.runs.drop(run)
