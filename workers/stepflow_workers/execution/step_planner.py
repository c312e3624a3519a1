"""Planning: the steps that a run's code asks for and that its continuation does not execute itself.

Waits come first, so that no wait misses an event that another step of the same gather causes.
"""

from __future__ import annotations

from typing import TypeVar, assert_never

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease, plan_steps
from stepflow_engine.steps import InvokeRequest, RunRequest, SendRequest, SleepRequest, StepCall, WaitRequest
from stepflow_workers.execution.context import JobContext
from stepflow_workers.execution.run_loader import catch_up
from stepflow_workers.execution.steps.invoke import invoke_children
from stepflow_workers.execution.steps.send import send_step_events
from stepflow_workers.execution.steps.wait import start_wait
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["plan_requests"]

T = TypeVar("T")
_CHUNK = 100
"""How many steps one script plans. While the server plans the next, workers execute the first."""


async def plan_requests(context: JobContext, run: CachedRun, lease: Lease, fresh: list[StepCall]) -> bool:
    """Give each step a wait, a job or a child of its own, or send its events; true if the run goes on here."""
    state = context.state
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
    run.planned.update(call.key for call in fresh)
    for step, wait in waits:
        if not await _accepted(state, run, await start_wait(context, run, lease, step, wait)):
            return False
    for step, send in sends:
        if not await _accepted(state, run, await send_step_events(state, run, lease, step, send)):
            return False
    return await _plan_jobs(state, run, lease, jobs) and await _plan_children(context, run, lease, invokes)


async def _accepted(state: WorkerState, run: CachedRun, code: ScriptStatus) -> bool:
    if code is ScriptStatus.ALREADY:
        await catch_up(state, run)
    return state.accepted(run, code)


async def _plan_jobs(state: WorkerState, run: CachedRun, lease: Lease, steps: list[tuple[str, str]]) -> bool:
    for part in _parts(steps):
        state.signals.job_queued(run.run_id)  # the claim leaves after this command, and need not wait for its reply
        code = await state.broker.execute(plan_steps(state.keys, run_id=run.run_id, fence=lease.fence, steps=part))
        if not state.accepted(run, code):
            return False
    return True


async def _plan_children(
    context: JobContext, run: CachedRun, lease: Lease, invokes: list[tuple[StepCall, InvokeRequest]]
) -> bool:
    for part in _parts(invokes):
        context.state.signals.job_queued(run.run_id)
        code, resolved, remote = await invoke_children(context, run, lease, part)
        for one in resolved:
            context.completions.hand_over(one)
        await context.completions.deliver(context.state.keys.of(run.run_id), remote)
        if not await _accepted(context.state, run, code):
            return False
    return True


def _parts(items: list[T]) -> list[list[T]]:
    return [items[first : first + _CHUNK] for first in range(0, len(items), _CHUNK)]
