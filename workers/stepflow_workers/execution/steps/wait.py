"""``step.sleep`` and ``step.wait_for_event``: begins waits, and looks back at events that were sent just before."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.event_filter import EventFilter, wait_index
from stepflow_broker.transitions.events import recent_events
from stepflow_broker.transitions.jobs import Lease
from stepflow_broker.transitions.waits import WaitStart, begin_wait, deliver_event
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import read_event
from stepflow_engine.steps import SleepRequest, StepCall, WaitRequest
from stepflow_workers.execution.context import JobContext
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.run_cache import IDLE_HOLD_S, CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["start_wait"]


async def start_wait(
    context: JobContext, run: CachedRun, lease: Lease, call: StepCall, request: SleepRequest | WaitRequest
) -> ScriptStatus:
    """Make a step wait, once; ALREADY if it was made to before, and may have its memo."""
    state, condition = context.state, EventFilter.of(request, run.event)
    start = _start_of(call, request, condition)
    begun = await state.broker.execute(begin_wait(state.keys, start, run_id=lease.run_id, fence=lease.fence))
    if begun.resolved is not None:
        context.completions.hand_over(begun.resolved)
        return ScriptStatus.DONE
    left_ms = max(0, start.until_ms - now_ms() if start.until_ms else start.delay_ms)
    state.signals.timer_set(lease.run_id, left_ms)
    if left_ms > IDLE_HOLD_S * 1000:
        run.distant_waits.add(call.key)
    recent = [*begun.recent, *await _recent_elsewhere(state, lease, start, begun.since_ms)]
    event = next((event for event in recent if condition.holds(event, state.cipher)), None)
    if event is not None:
        await state.broker.execute(deliver_event(state.keys, run.run_id, call.key, event))
    return begun.code


async def _recent_elsewhere(state: WorkerState, lease: Lease, start: WaitStart, since_ms: int) -> list[bytes]:
    """Recent events of the other partitions, for a wait that looks back. Later events find the wait itself."""
    here = state.keys.of(lease.run_id)
    others = [keys for keys in here.all if keys is not here] if since_ms else []
    commands = [recent_events(keys, start.event, since_ms=since_ms) for keys in others]
    found = [event for events in await state.broker.execute_all(commands) for event in events]
    return sorted(found, key=lambda event: read_event(event)["ts"])


def _start_of(call: StepCall, request: SleepRequest | WaitRequest, condition: EventFilter) -> WaitStart:
    detail: dict[str, object] = {"id": call.id, "started_at": now_ms()}
    if isinstance(request, SleepRequest):
        text = dumps({**detail, "kind": "sleep"})[1:]
        return WaitStart(call.key, call.id, text, request.duration_ms, request.until_ms)
    looked_at = bool(request.condition)
    return WaitStart(
        call.key,
        call.id,
        dumps({**detail, "kind": "wait", "event": request.event})[1:],
        request.timeout_ms,
        event=request.event,
        index=wait_index(request.event, paths=request.paths, values=request.values, looked_at=looked_at),
        condition=condition.to_json() if looked_at else b"",
        lookback_ms=request.lookback_ms,
    )
