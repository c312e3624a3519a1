"""The invoker: starts the children that a run's steps ask for."""

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
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.registry import Registries, Registry
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["Invoker"]

_TOLD = (ScriptStatus.NO_RUN, ScriptStatus.STALE_FENCE, ScriptStatus.ALREADY)
_Invoke = Callable[..., Command[Any]]
INVOKED = b"stepflow/function.invoked"


class Invoker:
    """Starts children, for one worker.

    Args:
        registries: where functions are found by name; read again when the run's partition has a newer one.
    """

    def __init__(self, worker_state: WorkerState, registries: Registries) -> None:
        self._worker_state = worker_state
        self._registries = registries

    async def invoke(
        self, held: CachedRun, lease: Lease, calls: list[tuple[StepCall, InvokeRequest]]
    ) -> tuple[ScriptStatus, list[Resolved], list[StartChild]]:
        """Start a child for each step, once; the answer has the steps that were resolved at once.

        The code is DONE; ALREADY if a step was seen to before, and may have its memo; or NO_RUN or STALE_FENCE if the
        parent is not this worker's any more. Children in other partitions are to be started by the messages.
        """
        codes, found, asked = set[ScriptStatus](), list[Resolved](), list[StartChild]()
        while calls:
            answers = await self._worker_state.broker.execute_all([self._child(held, lease, *one) for one in calls])
            codes.update(code for code, _ in answers)
            found += [one for _, one in answers if isinstance(one, Resolved)]
            asked += [one for _, one in answers if isinstance(one, StartChild)]
            calls = [one for one, (code, _) in zip(calls, answers, strict=True) if code is ScriptStatus.STALE_REGISTRY]
            if calls:
                await self._registry(lease).read()
        return next((code for code in _TOLD if code in codes), ScriptStatus.DONE), found, asked

    def _registry(self, lease: Lease) -> Registry:
        return self._registries.of(self._worker_state.keys.of(lease.run_id))

    def _child(
        self, held: CachedRun, lease: Lease, call: StepCall, request: InvokeRequest
    ) -> Command[tuple[ScriptStatus, Resolved | StartChild | None]]:
        keys, start = self._worker_state.keys, self._start(held, lease, call, request)
        is_near = start.refusal or keys.of(start.child) is keys.of(lease.run_id)
        invoke: _Invoke = invoke_child if is_near else invoke_remote_child
        return invoke(
            keys,
            start,
            run_id=lease.run_id,
            fence=lease.fence,
            version=self._registry(lease).version,
            cipher=self._worker_state.cipher,
        )

    def _start(self, held: CachedRun, lease: Lease, call: StepCall, request: InvokeRequest) -> ChildStart:
        name = f"{request.app}/{request.function}"
        config = self._registry(lease).functions.get(name)
        child = with_partition_prefix(
            (config and config.pinned_partition) or lease.run_id, run_id_for(lease.run_id, call.key)
        )
        now = now_ms()
        data = held.function.cipher.seal(request.data, event_scope(child))
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
    """The memo of an invoke that cannot be: no such function, or too many runs one above the other."""
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
