"""Starts the wait of a step for a signal."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.steps.signals import begin_signal_wait
from stepflow_broker.transitions.steps.waits import WaitStart
from stepflow_engine.codec import dumps
from stepflow_engine.steps import SignalRequest
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.execution.steps.wait import note_timer

__all__ = ["start_signal_wait"]


async def start_signal_wait(context: JobContext, attempt: StepAttempt[SignalRequest]) -> ScriptStatus:
    """Start the wait of a step, once. ALREADY: an earlier attempt started it, and it may have a memo."""
    state, lease, request = context.state, attempt.lease, attempt.request
    detail = {"id": attempt.id, "started_at": state.clock.now_ms(), "kind": request.kind, "signal": request.name}
    start = WaitStart(attempt.key, attempt.id, dumps(detail)[1:], request.timeout_ms)
    code, resolved = await state.broker.execute(
        begin_signal_wait(state.partition, start, request.name, run_id=lease.run_id, fence=lease.fence)
    )
    if resolved is not None:
        context.completions.apply_resolved(resolved)
        return ScriptStatus.DONE
    note_timer(state, attempt.run, attempt.key, request.timeout_ms)
    return code
