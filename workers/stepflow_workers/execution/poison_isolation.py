"""IsolatingRunner: executes a poison suspect alone, so that its next crash counts against nothing else.

A worker that dies takes all its jobs with it, and the cause is unknown. So each of these jobs gets a death. A job that
is one death short of being poison is a suspect. It runs in a worker where no other job has started lately, and none
starts before the suspect makes progress. Innocent suspects make progress there; only the cause dies again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from stepflow_broker.transitions.jobs.continuations import retry_run
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.state.poison import POISON_DEATHS
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["IsolatingRunner"]

_log = logging.getLogger(WORKER_LOGGER)
_SUSPECT_DEATHS = POISON_DEATHS - 1
_SETTLED_S = 1.0
"""A job that has run for this long does not count as a cause of death."""
_ALONE_S = 10.0
"""How long a suspect runs alone at most. After that, other jobs start again."""
_MAKE_ROOM_AFTER_S = 5.0
"""How long a busy worker defers suspects before it makes room for one."""
_DEFER_MS = (500, 1_500)
_POLL_S = 0.05


class IsolatingRunner:
    """Runs jobs, and suspects alone. While a suspect is alone, the worker has no free slots and claims no jobs.

    Args:
        run_job: runs one job.
    """

    def __init__(self, state: WorkerState, run_job: Callable[[Lease], Awaitable[None]]) -> None:
        self._state = state
        self._run_job = run_job
        self._started: dict[tuple[str, int], float] = {}
        self._closed_for: Lease | None = None
        self._deferring_since: float | None = None

    def run(self, lease: Lease) -> Awaitable[None]:
        """Run one job, or return it if it or another job must be alone."""
        if self._closed_for is not None:
            return self._state.release([lease])
        if len(lease.deaths) < _SUSPECT_DEATHS:
            return self._run(lease)
        if self._is_settled():
            return self._run_alone(lease)
        return self._defer(lease) if self._may_defer() else self._make_room(lease)

    async def _run(self, lease: Lease) -> None:
        self._started[lease.job, lease.fence] = _now_s()
        try:
            await self._run_job(lease)
        finally:
            del self._started[lease.job, lease.fence]

    # -- suspects ----------------------------------------------------------------

    async def _run_alone(self, lease: Lease) -> None:
        _log.warning("poison_suspect_isolated", extra={"job": lease.job, "deaths": len(lease.deaths)})
        self._deferring_since = None
        self._close(lease)
        watch = asyncio.get_running_loop().create_task(self._open_on_progress(lease))
        try:
            await self._run(lease)
        finally:  # no await: user code may have raised anything
            watch.cancel()
            self._open(lease)

    async def _open_on_progress(self, lease: Lease) -> None:
        """Open when the suspect makes progress: a new memo, or a wait for one, clears its deaths."""
        until_s = _now_s() + _ALONE_S
        while _now_s() < until_s:
            await asyncio.sleep(_POLL_S)
            run = self._state.cache.get(lease.run_id)
            if run is not None and run.lease is lease and not run.deaths:
                break
        self._open(lease)

    async def _defer(self, lease: Lease) -> None:
        """Return a suspect with a short delay: the next worker that claims it may have nothing else to do."""
        state, delay_ms = self._state, random.randint(*_DEFER_MS)
        reason = f"{len(lease.deaths)} workers died with the job; it waits for a worker that executes nothing else"
        if lease.key:
            error = dumps(Failure("SuspectDeferred", reason).to_json())
            await state.plan_retry(
                lease, lease.key, lease.step_id, attempts=lease.step_attempt, error=error, delay_ms=delay_ms
            )
            return
        call = retry_run(
            state.partition,
            run_id=lease.run_id,
            fence=lease.fence,
            attempts=lease.attempt,
            error=b"",
            delay_ms=delay_ms,
            reason=reason,
        )
        await state.broker.execute(call)
        state.wakeups.timer_set(lease.run_id, delay_ms)

    async def _make_room(self, lease: Lease) -> None:
        """Return a suspect, and start no job until this worker can take it again and run it alone."""
        self._close(lease)
        try:
            await self._state.release([lease])
            while not self._is_settled() and not self._state.stopping:
                await asyncio.sleep(_POLL_S)
        finally:
            self._open(lease)

    def _may_defer(self) -> bool:
        """Whether this worker has deferred suspects only for a short time, without an idle moment in between."""
        if self._deferring_since is None:
            self._deferring_since = _now_s()
        return _now_s() - self._deferring_since < _MAKE_ROOM_AFTER_S

    def _is_settled(self) -> bool:
        now = _now_s()
        return all(now - started > _SETTLED_S for started in self._started.values())

    # -- open and closed ---------------------------------------------------------

    def _close(self, lease: Lease) -> None:
        self._closed_for = lease
        self._state.slots.close()

    def _open(self, lease: Lease) -> None:
        if self._closed_for is lease:
            self._closed_for = None
            self._state.slots.open()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
