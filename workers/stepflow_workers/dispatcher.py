"""The dispatcher: takes ready jobs for as many slots as are free, and keeps time.

Nothing is polled more than once a second while there is nothing to do: new jobs are heard of over pub/sub, and the
once-a-second look is what finds them when a message was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from stepflow_broker.async_broker import AsyncBroker
from stepflow_broker.jobs import Lease, claim_jobs, fire_timers, reclaim_leases, repair_jobs
from stepflow_broker.keys import Keys
from stepflow_broker.runs import forget_ended
from stepflow_engine.errors import ServerError
from stepflow_engine.memo import read_memo
from stepflow_workers.keeper import Keeper
from stepflow_workers.performer import now_ms
from stepflow_workers.router import Router
from stepflow_workers.runner import Runner
from stepflow_workers.settings import WorkerSettings
from stepflow_workers.slots import Slots
from stepflow_workers.waker import Waker

__all__ = ["Dispatcher"]

_log = logging.getLogger("stepflow.worker")
_TICK_S = 1.0
_WAKER_S = 2.0
_RECLAIM_S = 4.0
_FORGET_S = 300.0
_REPAIR_S = 10.0
_SETTLED_S = 0.05
_MOST_CLAIMED = 100
_TIMERS = 500


class Dispatcher:
    """Claims jobs and has them done. Also the listener of the worker's inbox.

    Args:
        lists: the lists to take jobs from, in order.
        set_state: tells RQ what the worker does: ``busy``, ``idle`` or ``suspended``.
    """

    def __init__(
        self,
        *,
        broker: AsyncBroker,
        keys: Keys,
        worker: str,
        lists: list[str],
        settings: WorkerSettings,
        runner: Runner,
        slots: Slots,
        keeper: Keeper,
        router: Router,
        waker: Waker,
        set_state: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._keys = keys
        self._worker = worker
        self._lists = lists
        self._settings = settings
        self._runner = runner
        self._slots = slots
        self._keeper = keeper
        self._router = router
        self._waker = waker
        self._set_state = set_state
        self._jobs: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._stopping = False
        self._tick_at = 0.0
        self._timers_at = 0.0
        self._waker_at = 0.0
        self._reclaim_at = 0.0
        self._forget_at = 0.0
        self._repair_at = 0.0
        self._repair_cursor = 0

    # -- the work loop -----------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`, or, in burst mode, until nothing is ready."""
        while not self._stopping:
            self._woken.clear()
            try:
                await self._keep_time()
                if self._slots.free and await self._claim():
                    continue
                if self._settings.burst and await self._nothing_left():
                    return
                await self._sleep()
            except ServerError as error:
                _log.warning("server_unavailable", extra={"error": str(error)})
                await asyncio.sleep(_TICK_S)

    def stop(self) -> None:
        """Take no more jobs."""
        self._stopping = True
        self._runner.stopping = True
        for held in self._runner.held:
            held.execution.activity.touch()
        self._woken.set()

    @property
    def job_count(self) -> int:
        """How many jobs are at hand."""
        return len(self._jobs)

    def wake(self) -> None:
        """Look for jobs now."""
        self._woken.set()

    async def finish(self, grace_s: float) -> None:
        """Wait for the jobs at hand; after ``grace_s`` seconds, hand back those that are left."""
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=grace_s)
        left = list(self._keeper.leases.values())
        for job in self._jobs:
            job.cancel()
        self._runner.held.close()
        if left:
            _log.warning("jobs_handed_back", extra={"count": len(left)})
            await self._runner.hand_back(left)

    async def _claim(self) -> bool:
        """Claim jobs for the free slots; true if there may be more."""
        limit = min(self._slots.free, _MOST_CLAIMED)
        leases = await self._broker.run(
            claim_jobs(
                self._keys, lists=self._lists, worker=self._worker, limit=limit, lease_ms=self._settings.lease_ms
            )
        )
        if self._runner.suspended != (leases is None):
            self._runner.suspended = leases is None
            self._set_state("suspended" if leases is None else "idle")
            _log.info("suspended" if leases is None else "resumed")
        for lease in leases or ():
            self._take(lease)
        return bool(leases) and len(leases or ()) == limit

    def _take(self, lease: Lease) -> None:
        self._slots.take()
        self._keeper.leases[lease.job] = lease
        self._set_state("busy")
        job = asyncio.get_running_loop().create_task(self._do(lease))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _do(self, lease: Lease) -> None:
        try:
            await self._runner.do(lease)
        except ServerError as error:  # the lease runs out, and the job is reclaimed
            _log.warning("job_interrupted", extra={"job": lease.job, "error": str(error)})
            self._runner.forget(lease.run_id)
        except Exception:  # noqa: BLE001  a fault of ours costs one job its lease, not the worker its life
            _log.exception("job_broken", extra={"job": lease.job})
            self._runner.forget(lease.run_id)
        finally:
            self._slots.free_one()
            if self._keeper.leases.get(lease.job) is lease:
                del self._keeper.leases[lease.job]

    async def _nothing_left(self) -> bool:
        return not self._jobs and not await self._router.drain() and not await self._claim() and not self._jobs

    async def _sleep(self) -> None:
        """Sleep until there is something to do, or it is time to look."""
        if await self._woken_within(_SETTLED_S):
            return
        if not self._jobs and not self._runner.suspended:
            self._set_state("idle")
        now = asyncio.get_running_loop().time()
        await self._woken_within(max(0.0, min(self._tick_at, self._timers_at) - now))

    async def _woken_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
                return True
        return False

    # -- time --------------------------------------------------------------------

    async def _keep_time(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= min(self._timers_at, self._tick_at):
            await self._fire_timers(now)
        if now >= self._waker_at:
            self._waker_at = now + _WAKER_S
            await self._waker.look()
        if now >= self._reclaim_at:
            self._reclaim_at = now + _RECLAIM_S
            await self._waker.take_over()
            reclaimed = await self._broker.run(reclaim_leases(self._keys))
            if reclaimed:
                _log.warning("jobs_reclaimed", extra={"count": len(reclaimed), "jobs": reclaimed[:10]})
        if now >= self._repair_at:
            self._repair_at = now + _REPAIR_S
            self._repair_cursor, repaired = await self._broker.run(repair_jobs(self._keys, cursor=self._repair_cursor))
            if repaired:
                _log.warning("jobs_repaired", extra={"count": len(repaired), "jobs": repaired[:10]})
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_S
            await self._broker.run(forget_ended(self._keys, now_ms()))

    async def _fire_timers(self, now: float) -> None:
        self._tick_at = now + _TICK_S
        fired, next_ms = await self._broker.run(fire_timers(self._keys, limit=_TIMERS))
        while fired == _TIMERS:
            fired, next_ms = await self._broker.run(fire_timers(self._keys, limit=_TIMERS))
        self._timers_at = now + (next_ms / 1000 if next_ms >= 0 else _TICK_S)

    def timer_set(self, delay_ms: int) -> None:
        """Look when a timer that this worker has set is due, and not at the next tick."""
        self._timers_at = min(self._timers_at, asyncio.get_running_loop().time() + delay_ms / 1000)
        self._woken.set()

    # -- the inbox ---------------------------------------------------------------

    def on_ready(self) -> None:
        """See `InboxListener`."""
        self._woken.set()

    def on_memo(self, run_id: str, position: int, key: str, memo: bytes) -> None:
        """See `InboxListener`."""
        held = self._runner.held.get(run_id)
        if held is not None:
            held.learn(position, key, read_memo(memo), len(memo))

    def on_cancel(self, run_id: str) -> None:
        """See `InboxListener`."""
        self._runner.forget(run_id)

    def on_lost(self, jobs: list[str]) -> None:
        """The leases of these jobs are another's: let go of them."""
        for job in jobs:
            lease = self._keeper.leases.pop(job, None)
            if lease is not None and not lease.key:
                self._runner.forget(lease.run_id)
