"""The sender: sends the events of steps, each step's once."""

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

__all__ = ["Sender"]


class Sender:
    """Sends events, for one worker."""

    def __init__(self, worker_state: WorkerState) -> None:
        self._worker_state = worker_state

    async def send(self, held: CachedRun, lease: Lease, call: StepCall, request: SendRequest) -> ScriptStatus:
        """Send a step's events and store its memo; DONE, ALREADY, NO_RUN or STALE_FENCE."""
        worker_state, now = self._worker_state, now_ms()
        named = [
            (event.id or run_id_for(lease.run_id, call.key, str(n)), event) for n, event in enumerate(request.events)
        ]
        events = [_sent(held.function.cipher, event_id, event, now) for event_id, event in named]
        detail = {"id": call.id, "kind": "send", "started_at": now, "ended_at": now, "worker": worker_state.worker}
        memo = memo_of_data(dumps([event_id for _, event_id, _ in events]), detail)
        code, position = await worker_state.broker.execute(
            send_events(
                worker_state.keys, run_id=lease.run_id, fence=lease.fence, key=call.key, memo=memo, events=events
            )
        )
        if code is ScriptStatus.DONE:
            worker_state.finished_jobs += 1
            held.apply_memo(position, call.key, read_memo(memo), len(memo))
        return code


def _sent(cipher: Cipher, event_id: str, event: OutgoingEvent, now: int) -> tuple[bytes, str, bool]:
    data = cipher.seal(event.data, event_scope(event_id))
    return event_text(event.name, id=event_id, ts=event.ts or now, data=data), event_id, bool(event.id)
