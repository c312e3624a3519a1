"""Executes an attempt of a step whose handler is isolated: in a process of its own."""

from __future__ import annotations

from stepflow_engine.around_attempt import Attempt
from stepflow_engine.handler_control import HandlerControl
from stepflow_engine.isolation import check_importable
from stepflow_engine.step_attempt import Result
from stepflow_engine.steps import RunRequest
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.handler_process.attempt import attempt_in_process
from stepflow_workers.handler_process.pickled_call import HandlerCall
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["attempt_isolated"]


async def attempt_isolated(state: WorkerState, attempt: StepAttempt[RunRequest], control: HandlerControl) -> Result:
    """Call the handler of a step once, in a process; see `attempt_in_process`."""
    function, request = attempt.run.function, attempt.request
    managers = function.around.managers
    for manager in managers:
        check_importable(manager, what=f"step {attempt.id!r}: around_attempt of an app with isolated handlers")
    call = HandlerCall(
        attempt=Attempt(function.name, attempt.run.run_id, attempt.id, attempt.number),
        handler=request.handler,
        args=request.args,
        kwargs=request.kwargs,
        managers=managers,
        idempotency_key=control.idempotency_key,
        last_heartbeat=control.last_heartbeat,
        limit_bytes=function.limits.step_output_bytes,
    )
    return await attempt_in_process(
        state.processes, request, call, control, cancel_grace_s=state.settings.cancel_grace_s
    )
