"""Starts the steps that a continuation does not execute itself: waits, maps, sends, jobs and child runs.

Waits start first, so that no wait misses an event that another step of the same gather causes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import assert_never

from stepflow_broker.protocol.command import in_chunks
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.step_jobs import plan_steps
from stepflow_engine.errors import InvokeCancelledError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import child_key
from stepflow_engine.steps import (
    AskRequest,
    InvokeRequest,
    MapRequest,
    RunRequest,
    SendRequest,
    SignalRequest,
    SleepRequest,
    StartRequest,
    StepCall,
    WaitRequest,
)
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.run_loader import catch_up
from stepflow_workers.execution.steps.ask import start_ask
from stepflow_workers.execution.steps.invoke import invoke_children
from stepflow_workers.execution.steps.map import start_map
from stepflow_workers.execution.steps.send import send_step_events
from stepflow_workers.execution.steps.signal import start_signal_wait
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.execution.steps.wait import start_wait
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["start_steps"]

_CHUNK = 100
"""How many steps one script call plans. Workers execute the first chunk while the server plans the next."""


async def start_steps(context: JobContext, run: CachedRun, lease: Lease, calls: list[StepCall]) -> bool:
    """Start a wait, a job, a map or a child run for each step, or send its events; true if the run continues here."""
    jobs: dict[str, list[tuple[str, str]]] = {}  # by queue
    invokes: list[StepAttempt[InvokeRequest | StartRequest]] = []
    waits: list[Callable[[], Awaitable[ScriptStatus]]] = []
    sends: list[StepAttempt[SendRequest]] = []
    calls = [call for call in calls if not _is_refused(run, call)]
    for call in calls:
        match call.request:
            case RunRequest() as request:
                jobs.setdefault(_queue_of(request), []).append((call.key, call.id))
            case InvokeRequest() | StartRequest() as request:
                invokes.append(StepAttempt(run, lease, call, request))
            case SendRequest() as request:
                sends.append(StepAttempt(run, lease, call, request))
            case request:
                waits.append(_starter(context, run, lease, call, request))
    run.planned.update(call.key for call in calls)
    for wait in waits:
        if not await _accepted(context.state, run, await wait()):
            return False
    for send in sends:
        if not await _accepted(context.state, run, await send_step_events(context.state, send)):
            return False
    return await _plan_jobs(context.state, run, lease, jobs) and await _start_children(context, run, lease, invokes)


def _is_refused(run: CachedRun, call: StepCall) -> bool:
    """Whether the code waits for a child that its run has given up: a pass with other code did. It gets an error."""
    request = call.request
    if not (isinstance(request, InvokeRequest) and request.child):
        return False
    failure = Failure("RunCancelledError", f"this run does not wait for child {request.child} any more")
    error = InvokeCancelledError(call.id, failure, function_id=request.function, run_id=request.child)
    run.execution.refuse(call.key, error)
    return True


def _starter(
    context: JobContext,
    run: CachedRun,
    lease: Lease,
    call: StepCall,
    request: SleepRequest | WaitRequest | SignalRequest | AskRequest | MapRequest,
) -> Callable[[], Awaitable[ScriptStatus]]:
    """Starts a wait, or a map."""
    match request:
        case SleepRequest() | WaitRequest():
            return partial(start_wait, context, StepAttempt(run, lease, call, request))
        case SignalRequest():
            return partial(start_signal_wait, context, StepAttempt(run, lease, call, request))
        case AskRequest():
            return partial(start_ask, context.state, StepAttempt(run, lease, call, request))
        case MapRequest():
            return partial(start_map, context, StepAttempt(run, lease, call, request))
        case other:
            assert_never(other)


async def _accepted(state: WorkerState, run: CachedRun, code: ScriptStatus) -> bool:
    if code is ScriptStatus.ALREADY:
        await catch_up(state, run)
    return state.accepted(run, code)


def _queue_of(request: RunRequest) -> str:
    """The queue of the job of a step; ``""``: that of the run."""
    return request.placement.queue if request.placement else ""


async def _plan_jobs(
    state: WorkerState, run: CachedRun, lease: Lease, jobs: Mapping[str, list[tuple[str, str]]]
) -> bool:
    parts = ((queue, part) for queue, steps in jobs.items() for part in in_chunks(steps, _CHUNK))
    for queue, part in parts:
        state.wakeups.job_queued(run.run_id)  # the claim follows on the same connection, before the reply
        code = await state.broker.execute(
            plan_steps(state.partition, run_id=run.run_id, fence=lease.fence, steps=part, queue=queue)
        )
        if not state.accepted(run, code):
            return False
    return True


async def _start_children(
    context: JobContext,
    run: CachedRun,
    lease: Lease,
    invokes: Sequence[StepAttempt[InvokeRequest | StartRequest]],
) -> bool:
    state, completions = context.state, context.completions
    run.planned.update(child_key(one.key) for one in invokes if isinstance(one.request, StartRequest))
    for part in in_chunks(invokes, _CHUNK):
        state.wakeups.job_queued(run.run_id)
        code, resolved, remote = await invoke_children(context, lease, part)
        for one in resolved:
            completions.apply_resolved(one)
            if one.memo.startswith(b'{"error":'):
                run.planned.discard(child_key(one.key))  # the function cannot be started
        await completions.deliver(state.partition.of(run.run_id), remote)
        if not await _accepted(state, run, code):
            return False
    return True
