"""The dispatcher: takes ready jobs for as many slots as are free.

New jobs are heard of over pub/sub; the look from time to time is what finds them when a message was lost, and what
finds that RQ was suspended or resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.transitions.jobs import Lease, claim_jobs
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError, CorruptDataError, DecryptionError
from stepflow_workers.consumers.event_router import Router
from stepflow_workers.execution.poison_isolation import IsolatingRunner
from stepflow_workers.liveness.lease_renewer import LeaseRenewer
from stepflow_workers.scheduling.maintenance import MaintenanceLoop
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["Dispatcher"]

_log = logging.getLogger("stepflow.worker")
_PAUSE_S = 1.0
_SETTLED_S = 0.05
_LOOK_S = 1.0
"""How often to look while there are jobs at hand, or RQ is suspended."""
_IDLE_LOOK_S = 5.0
_MOST_CLAIMED = 100
_RESERVED_S = 0.2


class Dispatcher:
    """Claims jobs of a partition and has them done. Also the listener of the worker's inbox there.

    Args:
        keys: the partition's.
        lists: the lists to take jobs from, in order.
        set_state: tells RQ what the worker does: ``busy``, ``idle`` or ``suspended``.

    Attributes:
        claimed: how many jobs it has claimed.
    """

    def __init__(
        self,
        state: WorkerState,
        keys: Keys,
        *,
        lists: list[str],
        runner: IsolatingRunner,
        lease_renewer: LeaseRenewer,
        router: Router,
        maintenance: MaintenanceLoop,
        set_state: Callable[[str], None],
    ) -> None:
        self._state = state
        self._keys = keys
        self._is_alone = len(keys.all) == 1
        self._lists = lists
        self._runner = runner
        self._lease_renewer = lease_renewer
        self._router = router
        self._maintenance = maintenance
        self._set_state = set_state
        self.claimed = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._look_at = 0.0
        self._has_jobs = True
        self._claims = itertools.count(random.getrandbits(48) + 1)

    # -- the work loop -----------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`, or, in burst mode, until nothing is ready."""
        look = True
        while not self._state.stopping:
            self._woken.clear()
            try:
                await self._keep_time()
                if (look or self._look_is_due()) and self._state.slots.free and self.wants_slots:
                    look = await self._claim()
                    if look:
                        continue
                if self._state.settings.burst and await self._nothing_left():
                    return
                look = await self._sleep()
            except BackendUnavailableError as error:
                _log.warning("server_unavailable", extra={"error": str(error)})
                await asyncio.sleep(_PAUSE_S)
            except ConfigurationError:
                raise
            except Exception:  # noqa: BLE001  a fault of ours costs a second, not the worker its life
                _log.exception("dispatcher_internal_error")
                await asyncio.sleep(_PAUSE_S)

    async def _keep_time(self) -> None:
        """Do what is due. What fails is due again later, and keeps no jobs waiting."""
        try:
            await self._maintenance.keep()
        except BackendUnavailableError as error:
            _log.error("maintenance_failed", extra={"error": str(error)})

    def stop(self) -> None:
        """Take no more jobs."""
        self._state.stopping = True
        for run in self._state.runs:
            run.execution.activity.call()
        self._woken.set()

    @property
    def job_count(self) -> int:
        """How many jobs are at hand."""
        return len(self._jobs)

    @property
    def wants_slots(self) -> bool:
        """Whether there may be jobs. Where there is one partition, no message is waited for before it is looked at."""
        return self._is_alone or self._has_jobs or self._look_is_due()

    def wake(self, *, has_jobs: bool = False) -> None:
        """Look for jobs now."""
        self._has_jobs |= has_jobs
        self._woken.set()

    async def settle(self, grace_s: float) -> None:
        """Wait for the jobs at hand, for at most ``grace_s`` seconds."""
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=grace_s)

    def drop_jobs(self) -> list[Lease]:
        """Let go of the jobs that are left; their leases."""
        left = [
            lease for lease in list(self._lease_renewer.leases.values()) if self._keys.of(lease.run_id) is self._keys
        ]
        for job in self._jobs:
            job.cancel()
        return left

    def _look_is_due(self) -> bool:
        return asyncio.get_running_loop().time() >= self._look_at

    async def _claim(self) -> bool:
        """Claim jobs for the free slots; true if there may be more."""
        state = self._state
        busy = self._jobs or state.suspended
        self._look_at = asyncio.get_running_loop().time() + (_LOOK_S if busy else _IDLE_LOOK_S)
        limit = min(state.slots.free, _MOST_CLAIMED)
        self._has_jobs = False  # before it is asked: what comes meanwhile says so
        try:
            leases = await self._claimed(limit)
        except BackendUnavailableError:
            self._has_jobs = True
            raise
        self._suspend(is_suspended=leases is None)
        found = leases or []
        self.claimed += len(found)
        self._has_jobs |= len(found) == limit
        free = len(found) if self._is_alone else state.slots.free
        for lease in found[:free]:
            self._take(lease)
        await state.release(found[free:])
        if not self._is_alone and state.slots.free:
            state.signals.slot_freed()
        return len(found) == limit

    async def _claimed(self, limit: int) -> list[Lease] | None:
        """Claim jobs. The slots are kept for them, but not for as long as a server that is away may take to answer."""
        state = self._state
        claim = state.broker.submit(
            claim_jobs(
                self._keys,
                lists=self._lists,
                worker=state.worker,
                limit=limit,
                lease_ms=state.settings.lease_ms,
                claim=next(self._claims),
            )
        )
        if not self._is_alone:
            with state.slots.reserved(limit):
                await asyncio.wait([claim], timeout=_RESERVED_S)
        return await claim

    def _suspend(self, *, is_suspended: bool) -> None:
        suspended, partition = self._state.suspended, self._keys.partition
        if is_suspended == (partition in suspended):
            return
        (suspended.add if is_suspended else suspended.discard)(partition)
        self._set_state("suspended" if is_suspended else "idle")
        _log.info("suspended" if is_suspended else "resumed")

    def _take(self, lease: Lease) -> None:
        self._state.slots.take()
        self._lease_renewer.leases[lease.job] = lease
        self._set_state("busy")
        job = asyncio.get_running_loop().create_task(self._do(lease))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _do(self, lease: Lease) -> None:
        try:
            await self._runner.run(lease)
        except BackendUnavailableError as error:  # the lease runs out, and the job is reclaimed
            _log.warning("job_interrupted", extra={"job": lease.job, "error": str(error)})
            self._state.evict(lease.run_id)
        except Exception:  # noqa: BLE001  a fault of ours costs one job its lease, not the worker its life
            _log.exception("job_internal_error", extra={"job": lease.job})
            self._state.evict(lease.run_id)
        finally:
            self._state.slots.release()
            if self._lease_renewer.leases.get(lease.job) is lease:
                del self._lease_renewer.leases[lease.job]

    async def _nothing_left(self) -> bool:
        return not self._jobs and not await self._router.drain() and not await self._claim() and not self._jobs

    async def _sleep(self) -> bool:
        """Sleep until there is something to do, or it is time to look; true if woken."""
        if await self._woken_within(_SETTLED_S):
            return True
        if not self._lease_renewer.leases and not self._state.suspended:
            self._set_state("idle")
        until_look = self._look_at - asyncio.get_running_loop().time()
        return await self._woken_within(max(0.0, min(self._maintenance.seconds_left(), until_look)))

    async def _woken_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
                return True
        return False

    def timer_set(self, delay_ms: int) -> None:
        """Do not sleep longer than until a timer that this worker has set is due."""
        self._maintenance.timer_set(delay_ms)
        self._woken.set()

    # -- the inbox ---------------------------------------------------------------

    def on_ready(self) -> None:
        """See `NotificationHandler`."""
        self.wake(has_jobs=True)

    def on_messages(self) -> None:
        """See `NotificationHandler`."""
        self._maintenance.look_at_finished()
        self._woken.set()

    def on_pauses(self) -> None:
        """See `NotificationHandler`."""
        self._maintenance.look_at_pauses()
        self._woken.set()

    def on_memo(self, run_id: str, position: int, key: str, memo: bytes) -> None:
        """See `NotificationHandler`."""
        run = self._state.runs.get(run_id)
        if run is None:
            return
        try:
            run.apply_memo(position, key, self._state.read_memo(run_id, key, memo), len(memo))
        except (DecryptionError, CorruptDataError):  # who loads the run will say so
            self._state.evict(run_id)

    def on_cancel(self, run_id: str) -> None:
        """See `NotificationHandler`."""
        self._state.evict(run_id)

    def on_lost(self, jobs: list[str]) -> None:
        """The leases of these jobs are another's: let go of them."""
        for job in jobs:
            lease = self._lease_renewer.leases.pop(job, None)
            if lease is not None and not lease.key:
                self._state.evict(lease.run_id)
