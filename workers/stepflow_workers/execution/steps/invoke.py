"""``step.invoke``: starts the children that a run's steps ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.functions import FunctionConfig
from stepflow_broker.transitions.invokes import ChildStart, Resolved, invoke_child
from stepflow_broker.transitions.jobs import Lease
from stepflow_broker.transitions.outbox import StartChild
from stepflow_broker.transitions.remote_invokes import invoke_remote_child
from stepflow_engine.codec import dumps
from stepflow_engine.durations import show_duration
from stepflow_engine.encryption_scopes import event_scope
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for, with_partition_prefix
from stepflow_engine.limits import MAX_DEPTH
from stepflow_engine.steps import InvokeRequest, StepCall
from stepflow_workers.execution.context import JobContext
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.registry import Registry
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["invoke_children"]

_BY_URGENCY = (ScriptStatus.NO_RUN, ScriptStatus.STALE_FENCE, ScriptStatus.ALREADY)
_Invoke = Callable[..., Command[Any]]
INVOKED = b"stepflow/function.invoked"


async def invoke_children(
    context: JobContext, run: CachedRun, lease: Lease, calls: list[tuple[StepCall, InvokeRequest]]
) -> tuple[ScriptStatus, list[Resolved], list[StartChild]]:
    """Start a child for each step, once.

    The wait of the parent is recorded in the same script that starts the child. For a child in another partition it is
    recorded with a message that starts the child, which survives a crash of this worker.

    Returns:
        A code: DONE; ALREADY if a step was started before, and may have its memo; NO_RUN or STALE_FENCE if another
        worker has the parent. The steps that were resolved at once. The messages to other partitions.
    """
    state = context.state
    codes, found, remote = set[ScriptStatus](), list[Resolved](), list[StartChild]()
    while calls:
        registry = context.registries.of(state.keys.of(lease.run_id))
        answers = await state.broker.execute_all([_command(state, run, lease, registry, one) for one in calls])
        codes.update(code for code, _ in answers)
        found += [one for _, one in answers if isinstance(one, Resolved)]
        remote += [one for _, one in answers if isinstance(one, StartChild)]
        calls = [one for one, (code, _) in zip(calls, answers, strict=True) if code is ScriptStatus.STALE_REGISTRY]
        if calls:
            await registry.read()
    return next((code for code in _BY_URGENCY if code in codes), ScriptStatus.DONE), found, remote


def _command(
    state: WorkerState, run: CachedRun, lease: Lease, registry: Registry, step: tuple[StepCall, InvokeRequest]
) -> Command[tuple[ScriptStatus, Resolved | StartChild | None]]:
    keys, start = state.keys, _start(run, lease, registry, *step)
    is_local = start.refusal or keys.of(start.child) is keys.of(lease.run_id)
    invoke: _Invoke = invoke_child if is_local else invoke_remote_child
    return invoke(keys, start, run_id=lease.run_id, fence=lease.fence, version=registry.version, cipher=state.cipher)


def _start(run: CachedRun, lease: Lease, registry: Registry, call: StepCall, request: InvokeRequest) -> ChildStart:
    name = f"{request.app}/{request.function}"
    config = registry.functions.get(name)
    child = with_partition_prefix(
        (config and config.pinned_partition) or lease.run_id, run_id_for(lease.run_id, call.key)
    )
    now = now_ms()
    data = run.function.cipher.seal(request.data, event_scope(child))
    event = b'{"name":"%b","id":"%b","ts":%d,"data":%b}' % (INVOKED, child.encode(), now, data)
    detail = {"id": call.id, "kind": "invoke", "function": name, "started_at": now}
    rest = dumps({**detail, "run_id": child})[1:]
    return ChildStart(
        key=call.key,
        step_id=call.id,
        child=child,
        event=event,
        detail=rest,
        timeout_ms=request.timeout_ms,
        timeout_memo=_timeout(name, request.timeout_ms) + rest,
        refusal=_refusal(name, config, lease.depth + 1, detail),
        config=config or FunctionConfig(request.app, request.function, ""),
        depth=lease.depth + 1,
    )


def _refusal(name: str, config: FunctionConfig | None, depth: int, detail: dict[str, object]) -> bytes:
    """The memo of an invoke that cannot be: no such function, or the run is nested too deep."""
    if config is None:
        failure = Failure("FunctionNotFoundError", f"could not find function with ID: {name.partition('/')[2]}")
        return _memo(failure, "not_found", detail)
    if depth > MAX_DEPTH:
        failure = Failure(
            "InvokeError",
            f"function {name} is invoked at depth {depth}; at most {MAX_DEPTH} runs may invoke one another: "
            "is there a cycle of invokes?",
        )
        return _memo(failure, "failed", detail)
    return b""


@lru_cache
def _timeout(name: str, timeout_ms: int) -> bytes:
    """The beginning of the memo of an invoke whose time is over."""
    failure = Failure("InvokeTimeoutError", f"function {name} did not finish within {show_duration(timeout_ms)}")
    return _memo(failure, "timeout", {})[:-1] + b","


def _memo(failure: Failure, outcome: str, detail: dict[str, object]) -> bytes:
    return dumps({"error": failure.to_json(), "outcome": outcome, **detail})
