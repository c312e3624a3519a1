"""WorkerState: what all jobs of a worker share."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from stepflow_broker.protocol.clock import Clock
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.transitions.jobs.continuations import continue_run
from stepflow_broker.transitions.jobs.job_claims import Lease, leave_job, release_jobs
from stepflow_broker.transitions.jobs.leases import by_partition
from stepflow_broker.transitions.steps.step_jobs import fail_attempt
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.encryption_scopes import open_memo
from stepflow_engine.errors import BackendUnavailableError, DecryptionError
from stepflow_engine.handler_control import HandlerControl
from stepflow_engine.ids import split_job_id
from stepflow_engine.memo import Memo, read_memo
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.steps import RunRequest
from stepflow_engine.thread_pool import ThreadPool
from stepflow_workers.handler_process.processes import HandlerProcesses
from stepflow_workers.state.log_throttle import LogThrottle
from stepflow_workers.state.pauses import Pauses
from stepflow_workers.state.run_cache import CachedRun, RunCache
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.state.slots import Slots
from stepflow_workers.state.wakeups import Wakeups

__all__ = ["WorkerState"]

_log = logging.getLogger(WORKER_LOGGER)
_MAX_MISSES = 10_000
_PAUSE_S = 1.0
_THREADS_PER_SLOT = 2
"""A plain ``def`` function and the plain ``def`` handler of its step share a slot, and have a thread each."""


@dataclass(slots=True, eq=False)
class WorkerState:
    """What the jobs of one worker share.

    Attributes:
        broker: the connection to the server.
        partition: the first partition; its cipher has the keys of all apps of this worker.
        clock: the clock of the partitions.
        replace_handler: the request that is executed in place of that of the code, in a test; ``None``: none is.
        worker: the worker's name.
        settings: the settings of the worker.
        code: the digest of the functions of which it has the code.
        fingerprint: identifies the version of its code.
        patching: the functions whose code has asked for a patch that a pass in memory did not know.
        version: the version of its code; ``""``: unknown.
        executing: job of a continuation → the step that it executes: key, id, and since when, in milliseconds since the
            epoch. A plain tuple, because each step makes one. The thread of the lease renewer reads it.
        handlers: job → the handler that executes in it.
        wakeups: wakes the worker's dispatchers.
        slots: limit how many jobs it executes at once.
        cache: the runs in its memory.
        pauses: what is paused.
        threads: the threads of plain ``def`` handlers and functions.
        processes: the processes of isolated handlers.
        stopping: it takes no more jobs, and ends its jobs as soon as their steps allow.
        suspended: the partitions where RQ is suspended: runs go back to their queues after the current step.
        finished_jobs, failed_jobs: the counts for RQ.
        missed_log: limits the log lines about steps that the code of this worker does not call.
        unsafe_log: limits the log lines about settings of the server.
        keys_log: limits the log lines about encryption keys that the worker does not have.
    """

    broker: AsyncBroker
    partition: Partition
    worker: str
    settings: WorkerSettings
    code: str
    wakeups: Wakeups
    fingerprint: str = ""
    replace_handler: Callable[[Attempt, RunRequest], RunRequest] | None = None
    clock: Clock = field(init=False)
    slots: Slots = field(init=False)
    cache: RunCache = field(init=False)
    pauses: Pauses = field(init=False)
    threads: ThreadPool = field(init=False)
    processes: HandlerProcesses = field(init=False)
    stopping: bool = False
    suspended: set[str] = field(default_factory=set)
    finished_jobs: int = 0
    failed_jobs: int = 0
    version: str = ""
    executing: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    handlers: dict[str, HandlerControl] = field(default_factory=dict)
    missed_log: LogThrottle = field(default_factory=LogThrottle)
    unsafe_log: LogThrottle = field(default_factory=LogThrottle)
    keys_log: LogThrottle = field(default_factory=LogThrottle)
    patching: set[str] = field(default_factory=set)
    _misses: dict[str, int] = field(default_factory=dict)
    _code_log: LogThrottle = field(default_factory=LogThrottle)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.clock = self.partition.clock
        self.slots = Slots(self.settings.concurrency, self.wakeups.slot_freed)
        self.cache = RunCache(self.settings.cached_runs)
        self.pauses = Pauses(self.broker, self.partition)
        self.threads = ThreadPool(max_idle=self.settings.concurrency * _THREADS_PER_SLOT)
        self.processes = HandlerProcesses(self.settings.isolated_processes)

    def accepted(self, run: CachedRun, code: ScriptStatus) -> bool:
        """Whether a transition was accepted. If not, another worker has the run, or it has ended: drop it."""
        if code in (ScriptStatus.DONE, ScriptStatus.ALREADY):
            return True
        if code is ScriptStatus.STALE_FENCE:
            _log.warning("lease_lost", extra={"run_id": run.run_id, "function": run.function.name})
        self.cache.drop(run)
        return False

    def version_beside(self, lease: Lease) -> str | None:
        """The version of the code of this worker, if the run of a lease was started by another; else ``None``."""
        return None if self.version == lease.version else self.version

    def report_missing_code(self, name: str, *, count: int) -> None:
        """Log that this worker has left jobs of a function to others, once a minute for each function."""
        if self._code_log.allows(name):
            _log.warning("code_missing", extra={"function": name, "count": count})

    async def left_to_other_version(self, lease: Lease) -> bool:
        """Leave a job that the code of this worker lacks to workers with another version, if there are any.

        False: no live worker has one. True: the job is no longer this worker's.
        """
        call = leave_job(
            self.partition, run_id=lease.run_id, key=lease.key, fence=lease.fence, version=self.fingerprint
        )
        return await self.broker.execute(call) is not ScriptStatus.ALREADY

    def has_missed(self, job: str) -> bool:
        """Whether the code of this worker did not call the step of a job before."""
        return job in self._misses

    def count_miss(self, job: str) -> int:
        """Count a job that this worker leaves to others; returns how often it has met this job."""
        if len(self._misses) >= _MAX_MISSES and job not in self._misses:
            self._misses.clear()
        self._misses[job] = self._misses.get(job, 0) + 1
        return self._misses[job]

    async def plan_retry(
        self,
        lease: Lease,
        key: str,
        step_id: str,
        *,
        attempts: int,
        error: bytes,
        delay_ms: int,
        longest_delay_ms: int = 0,
        attempt: bytes = b"",
    ) -> ScriptStatus:
        """Record the failed attempts of a step, and plan the next attempt as a job of its own, after a delay.

        Args:
            lease: of the step's own job, or of the continuation that executed the step.
            longest_delay_ms: see `fail_attempt`.
            attempt: the failed attempt; see `attempt_detail`. ``b""``: the step was left to another worker.
        """
        call = fail_attempt(
            self.partition,
            run_id=lease.run_id,
            job_key=lease.key,
            fence=lease.fence,
            key=key,
            step_id=step_id,
            attempts=attempts,
            error=error,
            delay_ms=delay_ms,
            longest_delay_ms=longest_delay_ms,
            attempt=attempt,
        )
        code = await self.broker.execute(call)
        self.wakeups.timer_set(lease.run_id, delay_ms)
        return code

    def watch_parked(self, run: CachedRun) -> None:
        """Queue a parked run if its code in memory continues before one of its steps ends."""
        activity = run.execution.activity
        activity.on_touch = partial(self._continue_parked, run)
        if activity.touched:  # while it was parked
            activity.touch()

    def _continue_parked(self, run: CachedRun) -> None:
        if not run.execution.closed:
            task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._queue_parked(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _queue_parked(self, run: CachedRun) -> None:
        """Queue a parked run. Only this worker knows that its code has continued, so it retries as long as it works."""
        while not (run.execution.closed or self.stopping):
            try:
                status = await self.broker.execute(continue_run(self.partition, run.run_id))
            except BackendUnavailableError as error:
                _log.warning("job_interrupted", extra={"job": run.run_id, "error": str(error)})
                await asyncio.sleep(_PAUSE_S)
                continue
            if status is ScriptStatus.NO_RUN:  # it has ended in another worker
                self.cache.drop(run)
            else:
                self.wakeups.job_queued(run.run_id)
            return

    def read_memo(self, run_id: str, key: str, text: bytes) -> Memo:
        """Read and decrypt a stored memo.

        Raises:
            CorruptDataError: it is not a memo.
            DecryptionError: it cannot be decrypted.
        """
        memo = read_memo(text, key)
        try:
            return open_memo(self.partition.cipher, run_id, key, memo)
        except DecryptionError as error:
            error.args = (f"step {memo.id[:100]!r}: {error}",)
            raise

    async def release(self, leases: list[Lease]) -> None:
        """Return jobs to their queues, for any worker to claim at once. Jobs with lost leases are left alone."""
        for partition, part in by_partition(self.partition, [(lease.job, lease.fence) for lease in leases]):
            await self.broker.execute(release_jobs(partition, part))

    def interrupt(self, run_id: str, *, job: str = "", reason: str) -> None:
        """Interrupt the handlers of a run whose results nobody needs any more.

        The next heartbeat of a handler raises. An async handler is also cancelled, after a while in which it may end by
        itself.

        Args:
            job: only the handler of this job; ``""``: all of the run.
        """
        for name, control in list(self.handlers.items()):
            if (name == job or not job) and split_job_id(name)[0] == run_id and not control.cancelled:
                control.cancel(reason)
                loop = asyncio.get_running_loop()
                contextvars.Context().run(loop.call_later, self.settings.cancel_grace_s, _cancel, control)

    def store_heartbeats(self) -> None:
        """Store the last detail of each running handler. Call it before the leases of its jobs end."""
        for control in list(self.handlers.values()):
            if control.log is not None:
                control.log.flush()

    def evict(self, run_id: str) -> None:
        """Drop a run that has ended elsewhere, or whose lease is lost."""
        run = self.cache.get(run_id)
        if run is not None:
            self.cache.drop(run)


def _cancel(control: HandlerControl) -> None:
    if control.task is not None:
        control.task.cancel()
