"""Starts the child runs of ``step.invoke`` and ``step.start_child``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from stepflow.event import INVOKED
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes.invokes import ChildStart, HandleStart, Resolved, invoke_child, start_child
from stepflow_broker.transitions.invokes.outbox import StartChild
from stepflow_broker.transitions.invokes.remote_invokes import invoke_remote_child
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.codec import dumps
from stepflow_engine.durations import show_duration
from stepflow_engine.encryption_scopes import event_scope
from stepflow_engine.errors import EventError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import child_key, run_id_for, with_partition_prefix
from stepflow_engine.limits import MAX_DEPTH
from stepflow_engine.steps import InvokeRequest, StartRequest, StepKind, event_text
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.registry import Registry
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["invoke_children"]

_REPORTED = (ScriptStatus.NO_RUN, ScriptStatus.STALE_FENCE, ScriptStatus.ALREADY)
_Attempt = StepAttempt[InvokeRequest | StartRequest]
_Invoke = Callable[..., Command[Any]]
_Started = Resolved | StartChild | list[Resolved | StartChild] | None


async def invoke_children(
    context: JobContext, lease: Lease, invokes: Sequence[_Attempt]
) -> tuple[ScriptStatus, list[Resolved], list[StartChild]]:
    """Start a child run for each step, once; also returns the steps that have a memo at once.

    The status is DONE; ALREADY if an earlier attempt started a child, which may have a memo; or NO_RUN or STALE_FENCE
    if this worker no longer has the parent. The messages start the children in other partitions.
    """
    state, registry = context.state, context.registries.of(context.state.partition.of(lease.run_id))
    codes, resolved, remote = set[ScriptStatus](), list[Resolved](), list[StartChild]()
    while invokes:
        replies = await state.broker.execute_all([_command(state, registry, one) for one in invokes])
        codes.update(code for code, _ in replies)
        started = [one for _, some in replies for one in (some if isinstance(some, list) else [some])]
        resolved += [one for one in started if isinstance(one, Resolved)]
        remote += [one for one in started if isinstance(one, StartChild)]
        stale = [code is ScriptStatus.STALE_REGISTRY for code, _ in replies]
        invokes = [one for one, is_stale in zip(invokes, stale, strict=True) if is_stale]
        if invokes:
            await registry.read()
    return next((code for code in _REPORTED if code in codes), ScriptStatus.DONE), resolved, remote


def _command(state: WorkerState, registry: Registry, attempt: _Attempt) -> Command[tuple[ScriptStatus, _Started]]:
    partition, lease, request, now = state.partition, attempt.lease, attempt.request, state.clock.now_ms()
    start: ChildStart | HandleStart
    invoke: _Invoke = start_child
    if isinstance(request, StartRequest):
        start = _handle_start(registry, attempt, request, now)
    else:
        start = _start_of(registry, attempt, attempt.key, now)
        is_local = start.refusal or partition.of(start.child) is partition.of(lease.run_id)
        invoke = invoke_child if is_local else invoke_remote_child
    return invoke(partition, start, run_id=lease.run_id, fence=lease.fence, version=registry.version)


def _handle_start(registry: Registry, attempt: _Attempt, request: StartRequest, now: int) -> HandleStart:
    end = _start_of(registry, attempt, child_key(attempt.key), now)
    detail = {
        "id": attempt.id,
        "kind": request.kind,
        "function": f"{request.app}/{request.function}",
        "run_id": end.child,
        "end_key": end.key,
        "parent_close": request.parent_close,
        "started_at": now,
        "ended_at": now,
    }
    return HandleStart(attempt.key, end.refusal or dumps({"data": None, **detail}), end, request.parent_close)


def _start_of(registry: Registry, attempt: _Attempt, key: str, now: int) -> ChildStart:
    """The child of a step, and the step with ``key``, which waits for its end."""
    lease, request = attempt.lease, attempt.request
    name = f"{request.app}/{request.function}"
    config = registry.functions.get(name)
    partition = (config and config.pinned_partition) or lease.run_id
    child = with_partition_prefix(partition, run_id_for(lease.run_id, key))
    data = attempt.run.function.cipher.seal(request.data, event_scope(child))
    event = event_text(INVOKED, id=child, ts=now, data=data)
    detail = {"id": attempt.id, "kind": StepKind.INVOKE, "function": name, "started_at": now}
    rest = dumps({**detail, "run_id": child})[1:]
    refusal = _refusal(name, config, request, lease.depth + 1, {**detail, "kind": request.kind, "ended_at": now})
    known = config or FunctionConfig(request.app, request.function, "")
    return ChildStart(
        key=key,
        step_id=attempt.id,
        child=child,
        event=event,
        detail=rest,
        timeout_ms=request.timeout_ms,
        timeout_memo=_timeout(name, request.timeout_ms) + b'"ended_at":%d,' % (now + request.timeout_ms) + rest,
        refusal=refusal,
        config=known if refusal else known.with_options(request.options),
        depth=lease.depth + 1,
    )


def _refusal(
    name: str,
    config: FunctionConfig | None,
    request: InvokeRequest | StartRequest,
    depth: int,
    detail: dict[str, object],
) -> bytes:
    """The memo of an invoke that is refused: no such function, too deep, or options that its runs cannot have."""
    if config is None:
        failure = Failure("FunctionNotFoundError", f"could not find function with ID: {name.partition('/')[2]}")
        return _memo(failure, "not_found", detail)
    if depth > MAX_DEPTH:
        failure = Failure(
            "InvokeError",
            f"invoke of function {name}: depth must be at most {MAX_DEPTH}, got {depth}: "
            "check the functions for a cycle of invokes",
        )
        return _memo(failure, "failed", detail)
    try:
        config.with_options(request.options)
    except EventError as error:
        return _memo(Failure("InvokeError", f"invoke: {error}"), "failed", detail)
    return b""


@lru_cache
def _timeout(name: str, timeout_ms: int) -> bytes:
    """The beginning of the memo of an invoke that timed out."""
    failure = Failure("InvokeTimeoutError", f"function {name} did not finish within {show_duration(timeout_ms)}")
    return _memo(failure, "timeout", {})[:-1] + b","


def _memo(failure: Failure, outcome: str, detail: dict[str, object]) -> bytes:
    return dumps({"error": failure.to_json(), "outcome": outcome, **detail})
