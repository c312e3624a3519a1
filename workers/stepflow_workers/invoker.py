"""The invoker: starts the children that a run's steps ask for."""

from __future__ import annotations

import asyncio

from stepflow_broker.async_broker import AsyncBroker
from stepflow_broker.functions import FunctionConfig
from stepflow_broker.invokes import ChildStart, Resolved, invoke_child
from stepflow_broker.jobs import Lease
from stepflow_broker.keys import Keys
from stepflow_broker.runs import Code
from stepflow_engine.codec import dumps, loads
from stepflow_engine.durations import show_duration
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for
from stepflow_engine.steps import InvokeRequest, StepCall
from stepflow_workers.performer import now_ms
from stepflow_workers.registry import Registry

__all__ = ["MAX_DEPTH", "Invoker"]

MAX_DEPTH = 100
"""How many runs may stand one above the other; more is taken for a cycle."""
INVOKED = b"stepflow/function.invoked"


class Invoker:
    """Starts children, for one worker.

    Args:
        registry: where functions are found by name; it is read again when a function is not found in it.
    """

    def __init__(self, broker: AsyncBroker, keys: Keys, registry: Registry) -> None:
        self._broker = broker
        self._keys = keys
        self._registry = registry

    async def invoke(self, lease: Lease, calls: list[tuple[StepCall, InvokeRequest]]) -> tuple[Code, list[Resolved]]:
        """Start a child for each step, once; the answer has the steps that were resolved at once.

        The code is DONE; ALREADY if a step was seen to before, and may have its memo; or NO_RUN or STALE_FENCE if the
        parent is not this worker's any more.
        """
        answers = await asyncio.gather(*[self._invoke(lease, call, request) for call, request in calls])
        codes = {code for code, _ in answers}
        told = next((code for code in (Code.NO_RUN, Code.STALE_FENCE, Code.ALREADY) if code in codes), Code.DONE)
        return told, [resolved for _, resolved in answers if resolved]

    async def _invoke(self, lease: Lease, call: StepCall, request: InvokeRequest) -> tuple[Code, Resolved | None]:
        while True:
            start = self._start(lease, call, request)
            code, resolved = await self._broker.run(
                invoke_child(self._keys, start, run_id=lease.run_id, fence=lease.fence, version=self._registry.version)
            )
            if code is not Code.STALE_REGISTRY:
                return code, resolved
            await self._registry.read()

    def _start(self, lease: Lease, call: StepCall, request: InvokeRequest) -> ChildStart:
        name = f"{request.app}/{request.function}"
        child = run_id_for(lease.run_id, call.key)
        config = self._registry.functions.get(name)
        detail = {"id": call.id, "kind": "invoke", "function": name, "started_at": now_ms()}
        event = (
            b'{"name":"'
            + INVOKED
            + b'","id":"'
            + child.encode()
            + b'","ts":%d,"data":' % now_ms()
            + request.data
            + b"}"
        )
        timeout = Failure(
            "InvokeTimeoutError", f"function {name} did not finish within {show_duration(request.timeout_ms)}"
        )
        return ChildStart(
            key=call.key,
            step_id=call.id,
            child=child,
            event=event,
            event_value=loads(event) if config and config.rate_limit else {},
            detail=dumps({**detail, "run_id": child})[1:],
            timeout_ms=request.timeout_ms,
            timeout_memo=_memo(timeout, "timeout", {**detail, "run_id": child}),
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


def _memo(failure: Failure, outcome: str, detail: dict[str, object]) -> bytes:
    return dumps({"error": failure.to_json(), "outcome": outcome, **detail})
