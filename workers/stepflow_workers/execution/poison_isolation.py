"""The quarantine: a job with which workers have died is executed alone, so that its next death is its own.

A worker that dies takes all its jobs with it, and nobody can say which was the cause. So each of them gets a death. A
job that has but one left before it is taken for poison is a suspect. It is executed in a worker in which no other job
has begun lately, and none begins before it has got on. The innocent get on there, and only the cause dies again.
"""

from __future__ import annotations

import asyncio
import logging
import random

from stepflow import Function
from stepflow_broker.transitions.jobs import Lease, retry_run
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.run_loop import end_tasks
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.execution.job_runner import Runner
from stepflow_workers.state.poison import POISON_DEATHS
from stepflow_workers.state.registry import Registries
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["IsolatingRunner"]

_log = logging.getLogger("stepflow.worker")
_SUSPECT_DEATHS = POISON_DEATHS - 1
_SETTLED_S = 1.0
"""A job that has been executed for this long is not taken for one that kills."""
_ALONE_S = 10.0
"""How long a suspect is alone; one that lives longer no longer keeps others from the worker."""
_PATIENCE_S = 5.0
"""How long suspects are put off by a busy worker before it makes room for one."""
_PUT_OFF_MS = (500, 1_500)
_LOOK_S = 0.05


class IsolatingRunner(Runner):
    """A runner that executes suspects alone. A worker that is closed claims no jobs: it has no free slots."""

    def __init__(
        self,
        worker_state: WorkerState,
        completions: CompletionConsumer,
        *,
        functions: dict[str, Function],
        registries: Registries,
    ) -> None:
        super().__init__(worker_state, completions, functions=functions, registries=registries)
        self._begun: dict[tuple[str, int], float] = {}
        self._closed_for: Lease | None = None
        self._put_off_since: float | None = None

    async def do(self, lease: Lease) -> None:
        """Do one job, or give it back if it or another must be alone."""
        if self._closed_for is not None:
            await self._worker_state.release([lease])
        elif len(lease.deaths) < _SUSPECT_DEATHS:
            await self._do(lease)
        elif self._is_settled():
            await self._do_alone(lease)
        elif self._is_patient():
            await self._put_off(lease)
        else:
            await self._make_room(lease)

    async def _do(self, lease: Lease) -> None:
        self._begun[lease.job, lease.fence] = _now_s()
        try:
            await super().do(lease)
        finally:
            del self._begun[lease.job, lease.fence]

    # -- suspects ----------------------------------------------------------------

    async def _do_alone(self, lease: Lease) -> None:
        _log.warning("poison_suspect_isolated", extra={"job": lease.job, "deaths": len(lease.deaths)})
        self._put_off_since = None
        self._close(lease)
        watch = asyncio.get_running_loop().create_task(self._open_in_time(lease))
        try:
            await self._do(lease)
        finally:
            await end_tasks([watch])
            self._open(lease)

    async def _open_in_time(self, lease: Lease) -> None:
        """Open when the suspect has got on: with a memo, or waiting for one, its deaths are forgotten."""
        until_s = _now_s() + _ALONE_S
        while _now_s() < until_s:
            await asyncio.sleep(_LOOK_S)
            held = self._worker_state.held.get(lease.run_id)
            if held is not None and held.lease is lease and not held.deaths:
                break
        self._open(lease)

    async def _put_off(self, lease: Lease) -> None:
        """Give a suspect back for a moment: the next worker that takes it may have nothing else to do."""
        worker_state, delay_ms = self._worker_state, random.randint(*_PUT_OFF_MS)
        reason = f"{len(lease.deaths)} workers died with it, so it waits for one that executes nothing else"
        if lease.key:
            error = dumps(Failure("SuspectPutOff", reason).to_json())
            await worker_state.plan_retry(
                lease, lease.key, lease.step_id, attempts=lease.step_attempt, error=error, delay_ms=delay_ms
            )
            return
        call = retry_run(
            worker_state.keys,
            run_id=lease.run_id,
            fence=lease.fence,
            attempts=lease.attempt,
            error=b"",
            delay_ms=delay_ms,
            reason=reason,
        )
        await worker_state.broker.execute(call)
        worker_state.timer_set(lease.run_id, delay_ms)

    async def _make_room(self, lease: Lease) -> None:
        """Hand a suspect back, for it must not die with others, and begin nothing until it can be taken again."""
        self._close(lease)
        try:
            await self._worker_state.release([lease])
            while not self._is_settled() and not self._worker_state.stopping:
                await asyncio.sleep(_LOOK_S)
        finally:
            self._open(lease)

    def _is_patient(self) -> bool:
        """Whether it is not long that this worker has put suspects off without a moment in which it was free."""
        if self._put_off_since is None:
            self._put_off_since = _now_s()
        return _now_s() - self._put_off_since < _PATIENCE_S

    def _is_settled(self) -> bool:
        now = _now_s()
        return all(now - began > _SETTLED_S for began in self._begun.values())

    # -- the door ----------------------------------------------------------------

    def _close(self, lease: Lease) -> None:
        self._closed_for = lease
        self._worker_state.slots.used += self._worker_state.slots.total

    def _open(self, lease: Lease) -> None:
        if self._closed_for is lease:
            self._closed_for = None
            self._worker_state.slots.used -= self._worker_state.slots.total
            self._worker_state.slots.freed()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
