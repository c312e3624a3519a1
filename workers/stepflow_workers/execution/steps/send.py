"""Sends the events of a ``step.send_event``, once per step."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.steps.waits import SentEvent, send_events
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import event_scope
from stepflow_engine.ids import run_id_for
from stepflow_engine.memo import memo_of_data, read_memo
from stepflow_engine.steps import OutgoingEvent, SendRequest, event_text
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["send_step_events"]


async def send_step_events(state: WorkerState, attempt: StepAttempt[SendRequest]) -> ScriptStatus:
    """Send the events of a step and store its memo; DONE, ALREADY, NO_RUN or STALE_FENCE."""
    run, lease, now = attempt.run, attempt.lease, state.clock.now_ms()
    named = [
        (event.id or run_id_for(lease.run_id, attempt.key, str(n)), event)
        for n, event in enumerate(attempt.request.events)
    ]
    events = [_sealed(run.function.cipher, event_id, event, now) for event_id, event in named]
    detail = {
        "id": attempt.id,
        "kind": attempt.request.kind,
        "started_at": now,
        "ended_at": now,
        "worker": state.worker,
    }
    if (version := state.version_beside(lease)) is not None:
        detail["version"] = version
    memo = memo_of_data(dumps([event_id for event_id, _ in named]), detail)
    code, position = await state.broker.execute(
        send_events(state.partition, run_id=lease.run_id, fence=lease.fence, key=attempt.key, memo=memo, events=events)
    )
    if code is ScriptStatus.DONE:
        state.finished_jobs += 1
        run.apply_memo(position, attempt.key, read_memo(memo), len(memo))
    return code


def _sealed(cipher: Cipher, event_id: str, event: OutgoingEvent, now: int) -> SentEvent:
    data, at_ms = cipher.seal(event.data, event_scope(event_id)), event.at_ms if event.at_ms > now else 0
    text = event_text(event.name, id=event_id, ts=event.ts or at_ms or now, data=data)
    return SentEvent(text, event_id, bool(event.id), at_ms)
