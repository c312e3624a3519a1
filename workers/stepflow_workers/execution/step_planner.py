"""The planner: sees to the steps that a run's code asks for and that are not executed by its holder.

Waits come first: what the other steps of the same gather cause, no wait misses.
"""

from __future__ import annotations

from typing import TypeVar, assert_never

from stepflow_broker.protocol.status import Code
from stepflow_broker.transitions.jobs import Lease, plan_steps
from stepflow_engine.steps import InvokeRequest, RunRequest, SendRequest, SleepRequest, StepCall, WaitRequest
from stepflow_workers.consumers.completions import Waker
from stepflow_workers.execution.run_loader import Loader
from stepflow_workers.execution.steps.invoke import Invoker
from stepflow_workers.execution.steps.send import Sender
from stepflow_workers.execution.steps.wait import Waiter
from stepflow_workers.state.run_cache import HeldRun
from stepflow_workers.state.worker_state import Workbench

__all__ = ["Planner"]

T = TypeVar("T")
_CHUNK = 100
"""How many steps are planned at once; while the server plans the next, those of the first are executed."""


class Planner:
    """Plans steps, for one worker."""

    def __init__(self, bench: Workbench, loader: Loader, invoker: Invoker, waker: Waker) -> None:
        self._bench = bench
        self._loader = loader
        self._invoker = invoker
        self._waker = waker
        self._waiter = Waiter(bench, waker)
        self._sender = Sender(bench)

    async def plan(self, held: HeldRun, lease: Lease, fresh: list[StepCall]) -> bool:
        """Give each step a wait, a job or a child of its own, or send its events; true if the run goes on here."""
        jobs: list[tuple[str, str]] = []
        invokes: list[tuple[StepCall, InvokeRequest]] = []
        waits: list[tuple[StepCall, SleepRequest | WaitRequest]] = []
        sends: list[tuple[StepCall, SendRequest]] = []
        for call in fresh:
            match call.request:
                case RunRequest():
                    jobs.append((call.key, call.id))
                case InvokeRequest() as request:
                    invokes.append((call, request))
                case SleepRequest() | WaitRequest() as request:
                    waits.append((call, request))
                case SendRequest() as request:
                    sends.append((call, request))
                case other:
                    assert_never(other)
        held.planned.update(call.key for call in fresh)
        for step, wait in waits:
            if not await self._accepted(held, await self._waiter.begin(held, lease, step, wait)):
                return False
        for step, send in sends:
            if not await self._accepted(held, await self._sender.send(held, lease, step, send)):
                return False
        return await self._plan_jobs(held, lease, jobs) and await self._plan_children(held, lease, invokes)

    async def _accepted(self, held: HeldRun, code: Code) -> bool:
        if code is Code.ALREADY:
            await self._loader.catch_up(held)
        return self._bench.accepted(held, code)

    async def _plan_jobs(self, held: HeldRun, lease: Lease, steps: list[tuple[str, str]]) -> bool:
        bench = self._bench
        for part in _parts(steps):
            bench.job_queued(held.run_id)  # the claim follows what is sent now, before its reply
            code = await bench.broker.run(plan_steps(bench.keys, run_id=held.run_id, fence=lease.fence, steps=part))
            if not bench.accepted(held, code):
                return False
        return True

    async def _plan_children(self, held: HeldRun, lease: Lease, invokes: list[tuple[StepCall, InvokeRequest]]) -> bool:
        for part in _parts(invokes):
            self._bench.job_queued(held.run_id)
            code, resolved, asked = await self._invoker.invoke(held, lease, part)
            for one in resolved:
                self._waker.hand_over(one)
            await self._waker.deliver(self._bench.keys.of(held.run_id), asked)
            if not await self._accepted(held, code):
                return False
        return True


def _parts(items: list[T]) -> list[list[T]]:
    return [items[first : first + _CHUNK] for first in range(0, len(items), _CHUNK)]
