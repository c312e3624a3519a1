"""Poison isolation: a job with which workers have died is executed alone, so that its next death is its own.

A worker that dies takes all its jobs with it, and nothing shows which job was the cause. So each of them counts one
death. A job that is one death away from being treated as poison is a suspect. A suspect is executed in a worker in
which no other job has begun recently, and no other job begins until the suspect has made progress. Innocent jobs make
progress there, and only the cause dies again.
"""

from __future__ import annotations

import asyncio
import logging

from stepflow_broker.transitions.jobs import Lease
from stepflow_engine.run_loop import end_tasks
from stepflow_workers.execution.context import JobContext
from stepflow_workers.execution.deferral import defer_job
from stepflow_workers.execution.job_runner import run_job
from stepflow_workers.state.poison import POISON_DEATHS

__all__ = ["IsolatingRunner"]

_log = logging.getLogger("stepflow.worker")
_SUSPECT_DEATHS = POISON_DEATHS - 1
_SETTLED_S = 1.0
"""A job that has been executed for this long is not treated as the cause."""
_ALONE_S = 10.0
"""How long a suspect is alone. After that, other jobs begin again."""
_DEFER_S = 5.0
"""How long a busy worker defers suspects before it makes room for one."""
_DEFER_MS = (500, 1_500)
_POLL_S = 0.05


class IsolatingRunner:
    """Runs jobs, and suspects alone. While it is closed for a suspect, its worker has no free slots."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._state = context.state
        self._begun: dict[tuple[str, int], float] = {}
        self._closed_for: Lease | None = None
        self._deferred_since: float | None = None

    async def run(self, lease: Lease) -> None:
        """Run one job, or return it if it or another must be alone."""
        if self._closed_for is not None:
            await self._state.release([lease])
        elif len(lease.deaths) < _SUSPECT_DEATHS:
            await self._run(lease)
        elif self._is_settled():
            await self._run_alone(lease)
        elif self._may_defer():
            await self._defer(lease)
        else:
            await self._make_room(lease)

    async def _run(self, lease: Lease) -> None:
        self._begun[lease.job, lease.fence] = _now_s()
        try:
            await run_job(self._context, lease)
        finally:
            del self._begun[lease.job, lease.fence]

    # -- suspects ----------------------------------------------------------------

    async def _run_alone(self, lease: Lease) -> None:
        _log.warning("poison_suspect_isolated", extra={"job": lease.job, "deaths": len(lease.deaths)})
        self._deferred_since = None
        self._close(lease)
        watch = asyncio.get_running_loop().create_task(self._open_in_time(lease))
        try:
            await self._run(lease)
        finally:
            await end_tasks([watch])
            self._open(lease)

    async def _open_in_time(self, lease: Lease) -> None:
        """Open when the suspect has made progress: a memo, or a wait for one, clears its deaths."""
        until_s = _now_s() + _ALONE_S
        while _now_s() < until_s:
            await asyncio.sleep(_POLL_S)
            run = self._state.runs.get(lease.run_id)
            if run is not None and run.lease is lease and not run.deaths:
                break
        self._open(lease)

    async def _defer(self, lease: Lease) -> None:
        """Return a suspect for a moment: the next worker that claims it may execute nothing else."""
        reason = f"{len(lease.deaths)} workers died with it, so it waits for one that executes nothing else"
        await defer_job(self._state, lease, "PoisonSuspect", reason, delay_ms=_DEFER_MS)

    async def _make_room(self, lease: Lease) -> None:
        """Return a suspect, because it must not die with others, and begin nothing until it can be claimed again."""
        self._close(lease)
        try:
            await self._state.release([lease])
            while not self._is_settled() and not self._state.stopping:
                await asyncio.sleep(_POLL_S)
        finally:
            self._open(lease)

    def _may_defer(self) -> bool:
        """Whether this worker has deferred suspects for less than the limit since it was last free."""
        if self._deferred_since is None:
            self._deferred_since = _now_s()
        return _now_s() - self._deferred_since < _DEFER_S

    def _is_settled(self) -> bool:
        now = _now_s()
        return all(now - began > _SETTLED_S for began in self._begun.values())

    # -- open and closed ----------------------------------------------------------------

    def _close(self, lease: Lease) -> None:
        self._closed_for = lease
        self._state.slots.close()

    def _open(self, lease: Lease) -> None:
        if self._closed_for is lease:
            self._closed_for = None
            self._state.slots.reopen()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
