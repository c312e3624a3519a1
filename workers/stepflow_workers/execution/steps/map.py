"""Maps: begins a map, makes the attempt of an item, and starts the child of an item."""

from __future__ import annotations

from dataclasses import replace

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.run_state import read_depth
from stepflow_broker.transitions.steps.maps import MapStart, begin_map
from stepflow_engine.codec import dumps
from stepflow_engine.steps import InvokeRequest, MapRequest, RunRequest, StepCall
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.steps.invoke import invoke_children
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["item_attempt", "start_item_child", "start_map"]


async def start_map(context: JobContext, attempt: StepAttempt[MapRequest]) -> ScriptStatus:
    """Begin a map, and hand out as many items as may be open. ALREADY: an earlier attempt has, and all have ended."""
    state, run, lease, request = context.state, attempt.run, attempt.lease, attempt.request
    detail: dict[str, object] = {"id": attempt.id, "kind": request.kind, "started_at": state.clock.now_ms()}
    if request.function:  # the runs of the items are found by these facts
        detail |= {"function": request.function, "digest": request.items.digest, "started_by": run.run_id}
        config = context.registries.of(state.partition.of(run.run_id)).functions.get(request.function)
        if config is not None and config.pinned_partition:
            detail["partition"] = config.pinned_partition
    start = MapStart(
        key=attempt.key,
        step_id=attempt.id,
        detail=dumps(detail)[1:],
        digest=request.items.digest,
        count=len(request.items.values),
        at_once=request.at_once,
        tolerated=request.tolerated,
        room=max(0, run.function.limits.run_state_bytes - run.state_bytes),
        queue=request.queue,
    )
    code = ScriptStatus.MORE
    while code is ScriptStatus.MORE:
        state.wakeups.job_queued(run.run_id)
        code = await state.broker.execute(begin_map(state.partition, start, run_id=lease.run_id, fence=lease.fence))
    return code


def item_attempt(run: CachedRun, lease: Lease, call: StepCall, request: RunRequest) -> StepAttempt[RunRequest]:
    """The attempt of an item that calls a handler.

    Args:
        lease: of the job of the item.
        call: the call of the map.
        request: the request of the item.
    """
    item = StepCall(lease.key, lease.step_id, request, call.future, call.position)
    return StepAttempt(run, lease, item, request, number=lease.step_attempt, deaths=lease.deaths)


async def start_item_child(
    context: JobContext, run: CachedRun, lease: Lease, call: StepCall, request: InvokeRequest
) -> None:
    """Start the child of an item, once. The job of the item ends, and the end of the child ends the item."""
    state = context.state
    if run.depth is None:
        run.depth = await state.broker.execute(read_depth(state.partition, run.run_id))
    item = StepCall(lease.key, lease.step_id, request, call.future, call.position)
    of_item = replace(lease, depth=run.depth)
    state.wakeups.job_queued(run.run_id)
    code, _, remote = await invoke_children(context, of_item, [StepAttempt(run, of_item, item, request)])
    await context.completions.deliver(state.partition.of(run.run_id), remote)
    if code is ScriptStatus.NO_RUN:
        state.cache.drop(run)
    elif code is not ScriptStatus.STALE_FENCE:
        state.finished_jobs += 1
