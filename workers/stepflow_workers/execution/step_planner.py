"""The planner: sees to the steps that a run's code asks for and that are not executed by its holder.

Waits come first: what the other steps of the same gather cause, no wait misses.
"""

from __future__ import annotations

from typing import TypeVar, assert_never

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease, plan_steps
from stepflow_engine.steps import InvokeRequest, RunRequest, SendRequest, SleepRequest, StepCall, WaitRequest
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.execution.run_loader import Loader
from stepflow_workers.execution.steps.invoke import Invoker
from stepflow_workers.execution.steps.send import Sender
from stepflow_workers.execution.steps.wait import Waiter
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["Planner"]

T = TypeVar("T")
_CHUNK = 100
"""How many steps are planned at once; while the server plans the next, those of the first are executed."""


class Planner:
    """Plans steps, for one worker."""

    def __init__(
        self, worker_state: WorkerState, loader: Loader, invoker: Invoker, completions: CompletionConsumer
    ) -> None:
        self._worker_state = worker_state
        self._loader = loader
        self._invoker = invoker
        self._completions = completions
        self._waiter = Waiter(worker_state, completions)
        self._sender = Sender(worker_state)

    async def plan(self, held: CachedRun, lease: Lease, fresh: list[StepCall]) -> bool:
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

    async def _accepted(self, held: CachedRun, code: ScriptStatus) -> bool:
        if code is ScriptStatus.ALREADY:
            await self._loader.catch_up(held)
        return self._worker_state.accepted(held, code)

    async def _plan_jobs(self, held: CachedRun, lease: Lease, steps: list[tuple[str, str]]) -> bool:
        worker_state = self._worker_state
        for part in _parts(steps):
            worker_state.job_queued(held.run_id)  # the claim follows what is sent now, before its reply
            code = await worker_state.broker.execute(
                plan_steps(worker_state.keys, run_id=held.run_id, fence=lease.fence, steps=part)
            )
            if not worker_state.accepted(held, code):
                return False
        return True

    async def _plan_children(
        self, held: CachedRun, lease: Lease, invokes: list[tuple[StepCall, InvokeRequest]]
    ) -> bool:
        for part in _parts(invokes):
            self._worker_state.job_queued(held.run_id)
            code, resolved, asked = await self._invoker.invoke(held, lease, part)
            for one in resolved:
                self._completions.hand_over(one)
            await self._completions.deliver(self._worker_state.keys.of(held.run_id), asked)
            if not await self._accepted(held, code):
                return False
        return True


def _parts(items: list[T]) -> list[list[T]]:
    return [items[first : first + _CHUNK] for first in range(0, len(items), _CHUNK)]
