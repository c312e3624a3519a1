"""Dispatcher: claims ready jobs for the free slots of the worker.

Pub/sub notifies it of new jobs. A periodic poll finds them when a notification was lost, and finds that RQ was
suspended or resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.errors import ServerRefusesError
from stepflow_broker.transitions.jobs.job_claims import ClaimedJobs, Lease, claim_jobs
from stepflow_engine.errors import BackendUnavailableError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.consumers.event_router import Router
from stepflow_workers.execution.poison_isolation import IsolatingRunner
from stepflow_workers.liveness.held_leases import HeldLeases
from stepflow_workers.partition.run_updates import RunUpdates
from stepflow_workers.scheduling.maintenance import MaintenanceLoop
from stepflow_workers.state.log_throttle import LogThrottle
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["Dispatcher"]

_log = logging.getLogger(WORKER_LOGGER)
_PAUSE_S = 1.0
_SETTLED_S = 0.05
_POLL_S = 1.0
"""How often to poll while jobs run, or RQ is suspended."""
_IDLE_POLL_S = 5.0
_MAX_CLAIMED = 100
_RESERVED_S = 0.2


class Dispatcher:
    """Claims jobs of a partition and runs them. It also handles the notifications of the partition.

    Args:
        partition: the partition.
        lists: the lists to claim jobs from, in order.
        runner: runs the claimed jobs.
        leases: the leases of the worker, which the lease renewer extends.
        set_state: shows in RQ what the worker does: ``busy``, ``idle`` or ``suspended``.

    Attributes:
        claimed: the number of jobs it has claimed.
    """

    def __init__(
        self,
        state: WorkerState,
        partition: Partition,
        *,
        lists: list[str],
        runner: IsolatingRunner,
        leases: HeldLeases,
        router: Router,
        maintenance: MaintenanceLoop,
        set_state: Callable[[str], None],
    ) -> None:
        self._state = state
        self._partition = partition
        self._is_alone = len(partition.all) == 1
        self._lists = lists
        self._runner = runner
        self._leases = leases
        self._router = router
        self._maintenance = maintenance
        self._set_state = set_state
        self._updates = RunUpdates(state)
        self._foreign_log = LogThrottle()
        self.claimed = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._poll_at = 0.0
        self._has_jobs = True
        self._claims = itertools.count(random.getrandbits(48) + 1)

    # -- the work loop -----------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`, or, in burst mode, until nothing is ready."""
        poll = True
        while not self._state.stopping:
            self._woken.clear()
            try:
                await self._maintain()
                if (poll or self._poll_is_due()) and self._state.slots.free and self.wants_slots:
                    poll = await self._claim()
                    if poll:
                        continue
                if self._state.settings.burst and await self._nothing_left():
                    return
                poll = await self._sleep()
            except BackendUnavailableError as error:
                _log.warning("server_unavailable", extra={"error": str(error)})
                await asyncio.sleep(_PAUSE_S)
            except Exception:  # noqa: BLE001  an internal error delays work by a second, but does not end the worker
                _log.exception("dispatcher_internal_error")
                await asyncio.sleep(_PAUSE_S)

    async def _maintain(self) -> None:
        """Run the periodic tasks that are due. A task that fails runs again later, and delays no jobs."""
        try:
            await self._maintenance.run_due()
        except BackendUnavailableError as error:
            _log.error("maintenance_failed", extra={"error": str(error)})

    def stop(self) -> None:
        """Claim no more jobs."""
        self._state.stopping = True
        for run in self._state.cache:
            run.execution.activity.notify()
        self._woken.set()

    @property
    def job_count(self) -> int:
        """The number of running jobs."""
        return len(self._jobs)

    @property
    def wants_slots(self) -> bool:
        """Whether there may be jobs. With a single partition it polls without waiting for a notification."""
        return self._is_alone or self._has_jobs or self._poll_is_due()

    def wake(self, *, has_jobs: bool = False) -> None:
        """Poll for jobs now."""
        self._has_jobs |= has_jobs
        self._woken.set()

    async def settle(self, grace_s: float) -> None:
        """Wait for the running jobs, at most ``grace_s`` seconds."""
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=grace_s)

    def drop_jobs(self) -> list[Lease]:
        """Cancel the jobs that are left; returns their leases."""
        left = [lease for lease in list(self._leases.values()) if self._partition.of(lease.run_id) is self._partition]
        for job in self._jobs:
            job.cancel()
        return left

    def _poll_is_due(self) -> bool:
        return asyncio.get_running_loop().time() >= self._poll_at

    async def _claim(self) -> bool:
        """Claim jobs for the free slots; true if there may be more of them."""
        state = self._state
        busy = self._jobs or state.suspended
        self._poll_at = asyncio.get_running_loop().time() + (_POLL_S if busy else _IDLE_POLL_S)
        limit = min(state.slots.free, _MAX_CLAIMED)
        self._has_jobs = False  # before the claim: jobs that are queued meanwhile set it
        try:
            jobs = await self._claimed(limit)
        except BackendUnavailableError:
            self._has_jobs = True
            raise
        self._suspend(is_suspended=jobs is None)
        claimed = jobs.leases if jobs else []
        if jobs and jobs.foreign:
            self._report_foreign(jobs.foreign)
        for name, count in jobs.lacking.items() if jobs else ():
            state.report_missing_code(name, count=count)
        self.claimed += len(claimed)
        self._has_jobs |= len(claimed) == limit
        free = len(claimed) if self._is_alone else state.slots.free
        for lease in claimed[:free]:
            self._take(lease)
        await state.release(claimed[free:])
        if not self._is_alone and state.slots.free:
            state.slots.freed()
        return len(claimed) == limit

    def _report_foreign(self, foreign: dict[str, int]) -> None:
        """Log the queues that have jobs of other programs."""
        for queue, count in foreign.items():
            if self._foreign_log.allows(queue):
                _log.warning("foreign_jobs", extra={"queue": queue, "count": count})

    async def _claimed(self, limit: int) -> ClaimedJobs | None:
        """Claim jobs. Their slots are reserved, but not for as long as an unreachable server may take to reply."""
        state = self._state
        claim = state.broker.submit(
            claim_jobs(
                self._partition,
                lists=self._lists,
                worker=state.worker,
                limit=limit,
                lease_ms=state.settings.lease_ms,
                claim=next(self._claims),
                code=state.code,
                version=state.version,
            )
        )
        if not self._is_alone:
            with state.slots.reserved(limit):
                await asyncio.wait([claim], timeout=_RESERVED_S)
        return await claim

    def _suspend(self, *, is_suspended: bool) -> None:
        suspended, tag = self._state.suspended, self._partition.tag
        if is_suspended == (tag in suspended):
            return
        (suspended.add if is_suspended else suspended.discard)(tag)
        self._set_state("suspended" if is_suspended else "idle")
        _log.info("suspended" if is_suspended else "resumed")

    def _take(self, lease: Lease) -> None:
        job = asyncio.get_running_loop().create_task(
            self._run(lease)
        )  # before the lease, which is renewed from then on
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        self._state.slots.take()
        self._leases[lease.job] = lease
        self._set_state("busy")

    async def _run(self, lease: Lease) -> None:
        try:
            await self._runner.run(lease)
        except BackendUnavailableError as error:  # the lease expires, and a worker reclaims the job
            _log.warning("job_interrupted", extra={"job": lease.job, "error": str(error)})
            self._state.evict(lease.run_id)
            if isinstance(error, ServerRefusesError):  # the lease is still extended, so nobody counts a death
                await self._give_back(lease)
        except asyncio.CancelledError:
            raise
        except BaseException:  # noqa: BLE001  the job could not be failed either: the lease expires
            _log.exception("job_internal_error", extra={"job": lease.job})
            self._state.evict(lease.run_id)
        finally:
            self._state.slots.free_one()
            if self._leases.get(lease.job) is lease:
                del self._leases[lease.job]

    async def _give_back(self, lease: Lease) -> None:
        """Give a job back that the server has refused to let this worker finish.

        The server may refuse that, too. Until it does not, the worker keeps the lease: if the lease expired, it would
        count as the death of a worker.
        """
        while True:
            try:
                await self._state.release([lease])
                return
            except ServerRefusesError:
                await asyncio.sleep(_PAUSE_S)
            except BackendUnavailableError:
                return

    async def _nothing_left(self) -> bool:
        return not self._jobs and not await self._router.drain() and not await self._claim() and not self._jobs

    async def _sleep(self) -> bool:
        """Sleep until there is work, or the next poll is due; true if woken."""
        if await self._woken_within(_SETTLED_S):
            return True
        if not self._leases and not self._state.suspended:
            self._set_state("idle")
        until_poll = self._poll_at - asyncio.get_running_loop().time()
        return await self._woken_within(max(0.0, min(self._maintenance.seconds_left(), until_poll)))

    async def _woken_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
                return True
        return False

    def timer_set(self, delay_ms: int) -> None:
        """Sleep no longer than until a timer that this worker has set is due."""
        self._maintenance.timer_set(delay_ms)
        self._woken.set()

    def clock_set(self) -> None:
        """Do what is due now: a test has set the clock."""
        self._maintenance.clock_set()
        self._poll_at = 0.0
        self._woken.set()

    @property
    def has_followed(self) -> bool:
        """Whether all periodic tasks have run since `clock_set`."""
        return self._maintenance.has_followed

    # -- notifications -----------------------------------------------------------

    def on_ready(self) -> None:
        """See `NotificationHandler`."""
        self.wake(has_jobs=True)

    def on_outbox(self) -> None:
        """See `NotificationHandler`."""
        self._maintenance.process_completions_soon()
        self._woken.set()

    def on_pauses(self) -> None:
        """See `NotificationHandler`."""
        self._maintenance.refresh_pauses_soon()
        self._woken.set()

    def on_memo(self, run_id: str, position: int, key: str) -> None:
        """See `NotificationHandler`."""
        self._updates.read_memos(run_id, position, key)

    def on_cancel(self, run_id: str) -> None:
        """See `NotificationHandler`."""
        self._updates.check_cancelled(run_id)
