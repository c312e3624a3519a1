"""Starts the wait of a step for the answer of a person."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.steps.asks import begin_ask
from stepflow_broker.transitions.steps.waits import WaitStart
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import ask_scope
from stepflow_engine.steps import AskRequest
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.execution.steps.wait import note_timer
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["start_ask"]


async def start_ask(state: WorkerState, attempt: StepAttempt[AskRequest]) -> ScriptStatus:
    """Start the wait of a step, once. ALREADY: an earlier attempt started it, and it may have its answer."""
    run, lease, request = attempt.run, attempt.lease, attempt.request
    detail = {"id": attempt.id, "started_at": state.clock.now_ms(), "kind": request.kind}
    if request.to:
        detail["to"] = request.to
    schema = run.function.cipher.seal(request.schema, ask_scope(run.run_id, attempt.key))
    text = dumps(detail)[1:-1] + b',"schema":' + schema + b"}"
    start = WaitStart(attempt.key, attempt.id, text, request.timeout_ms)
    code = await state.broker.execute(begin_ask(state.partition, start, run_id=lease.run_id, fence=lease.fence))
    note_timer(state, run, attempt.key, request.timeout_ms)
    return code
