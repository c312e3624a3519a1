"""``step.send_event``: sends the events of a step, once."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs import Lease
from stepflow_broker.transitions.waits import send_events
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import event_scope
from stepflow_engine.ids import run_id_for
from stepflow_engine.memo import memo_of_data, read_memo
from stepflow_engine.steps import OutgoingEvent, SendRequest, StepCall, event_text
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["send_step_events"]


async def send_step_events(
    state: WorkerState, run: CachedRun, lease: Lease, call: StepCall, request: SendRequest
) -> ScriptStatus:
    """Send a step's events and store its memo, in one script; DONE, ALREADY, NO_RUN or STALE_FENCE."""
    now = now_ms()
    named = [(event.id or run_id_for(lease.run_id, call.key, str(n)), event) for n, event in enumerate(request.events)]
    events = [_encode(run.function.cipher, event_id, event, now) for event_id, event in named]
    detail = {"id": call.id, "kind": "send", "started_at": now, "ended_at": now, "worker": state.worker}
    memo = memo_of_data(dumps([event_id for _, event_id, _ in events]), detail)
    code, position = await state.broker.execute(
        send_events(state.keys, run_id=lease.run_id, fence=lease.fence, key=call.key, memo=memo, events=events)
    )
    if code is ScriptStatus.DONE:
        state.finished_jobs += 1
        run.apply_memo(position, call.key, read_memo(memo), len(memo))
    return code


def _encode(cipher: Cipher, event_id: str, event: OutgoingEvent, now: int) -> tuple[bytes, str, bool]:
    data = cipher.seal(event.data, event_scope(event_id))
    return event_text(event.name, id=event_id, ts=event.ts or now, data=data), event_id, bool(event.id)
