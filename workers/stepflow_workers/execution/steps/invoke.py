"""The invoker: starts the children that a run's steps ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from stepflow_broker.protocol.command import Call
from stepflow_broker.protocol.status import Code
from stepflow_broker.registry.functions import FunctionConfig
from stepflow_broker.transitions.invokes import ChildStart, Resolved, invoke_child
from stepflow_broker.transitions.jobs import Lease
from stepflow_broker.transitions.outbox import ChildAsked
from stepflow_broker.transitions.remote_invokes import invoke_remote_child
from stepflow_engine.codec import dumps
from stepflow_engine.durations import show_duration
from stepflow_engine.encryption_scopes import event_place
from stepflow_engine.failure import Failure
from stepflow_engine.ids import moved_to, run_id_for
from stepflow_engine.limits import MAX_DEPTH
from stepflow_engine.steps import InvokeRequest, StepCall
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.registry import Registries, Registry
from stepflow_workers.state.run_cache import HeldRun
from stepflow_workers.state.worker_state import Workbench

__all__ = ["Invoker"]

_TOLD = (Code.NO_RUN, Code.STALE_FENCE, Code.ALREADY)
_Invoke = Callable[..., Call[Any]]
INVOKED = b"stepflow/function.invoked"


class Invoker:
    """Starts children, for one worker.

    Args:
        registries: where functions are found by name; read again when the run's partition has a newer one.
    """

    def __init__(self, bench: Workbench, registries: Registries) -> None:
        self._bench = bench
        self._registries = registries

    async def invoke(
        self, held: HeldRun, lease: Lease, calls: list[tuple[StepCall, InvokeRequest]]
    ) -> tuple[Code, list[Resolved], list[ChildAsked]]:
        """Start a child for each step, once; the answer has the steps that were resolved at once.

        The code is DONE; ALREADY if a step was seen to before, and may have its memo; or NO_RUN or STALE_FENCE if the
        parent is not this worker's any more. Children in other partitions are to be started by the messages.
        """
        codes, found, asked = set[Code](), list[Resolved](), list[ChildAsked]()
        while calls:
            answers = await self._bench.broker.run_all([self._child(held, lease, *one) for one in calls])
            codes.update(code for code, _ in answers)
            found += [one for _, one in answers if isinstance(one, Resolved)]
            asked += [one for _, one in answers if isinstance(one, ChildAsked)]
            calls = [one for one, (code, _) in zip(calls, answers, strict=True) if code is Code.STALE_REGISTRY]
            if calls:
                await self._registry(lease).read()
        return next((code for code in _TOLD if code in codes), Code.DONE), found, asked

    def _registry(self, lease: Lease) -> Registry:
        return self._registries.of(self._bench.keys.of(lease.run_id))

    def _child(
        self, held: HeldRun, lease: Lease, call: StepCall, request: InvokeRequest
    ) -> Call[tuple[Code, Resolved | ChildAsked | None]]:
        keys, start = self._bench.keys, self._start(held, lease, call, request)
        is_near = start.refusal or keys.of(start.child) is keys.of(lease.run_id)
        invoke: _Invoke = invoke_child if is_near else invoke_remote_child
        return invoke(
            keys,
            start,
            run_id=lease.run_id,
            fence=lease.fence,
            version=self._registry(lease).version,
            cipher=self._bench.cipher,
        )

    def _start(self, held: HeldRun, lease: Lease, call: StepCall, request: InvokeRequest) -> ChildStart:
        name = f"{request.app}/{request.function}"
        config = self._registry(lease).functions.get(name)
        child = moved_to((config and config.home) or lease.run_id, run_id_for(lease.run_id, call.key))
        now = now_ms()
        data = held.function.cipher.seal(request.data, event_place(child))
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
