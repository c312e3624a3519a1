"""The waiter: begins the waits of steps, for a time or for an event, and looks at events that came just before."""

from __future__ import annotations

from stepflow_broker.codes import Code
from stepflow_broker.condition import Condition, wait_index
from stepflow_broker.jobs import Lease
from stepflow_broker.waits import WaitStart, begin_wait, give_event
from stepflow_engine.codec import dumps
from stepflow_engine.steps import SleepRequest, StepCall, WaitRequest
from stepflow_workers.held import HOLD_S, HeldRun
from stepflow_workers.performer import now_ms
from stepflow_workers.waker import Waker
from stepflow_workers.workbench import Workbench

__all__ = ["Waiter"]


class Waiter:
    """Begins waits, for one worker."""

    def __init__(self, bench: Workbench, waker: Waker) -> None:
        self._bench = bench
        self._waker = waker

    async def begin(self, held: HeldRun, lease: Lease, call: StepCall, request: SleepRequest | WaitRequest) -> Code:
        """Make a step wait, once; ALREADY if it was made to before, and may have its memo."""
        bench, condition = self._bench, Condition.of(request, held.event)
        start = _start_of(call, request, condition)
        begun = begin_wait(bench.keys, start, run_id=lease.run_id, fence=lease.fence)
        code, resolved, recent = await bench.broker.run(begun)
        if resolved is not None:
            self._waker.hand_over(resolved)
            return Code.DONE
        left_ms = max(0, start.until_ms - now_ms() if start.until_ms else start.delay_ms)
        bench.timer_set(lease.run_id, left_ms)
        if left_ms > HOLD_S * 1000:
            held.late.add(call.key)
        came = next((event for event in recent if condition.holds(event, bench.cipher)), None)
        if came is not None:
            await bench.broker.run(give_event(bench.keys, held.run_id, call.key, came))
        return code


def _start_of(call: StepCall, request: SleepRequest | WaitRequest, condition: Condition) -> WaitStart:
    detail: dict[str, object] = {"id": call.id, "started_at": now_ms()}
    if isinstance(request, SleepRequest):
        text = dumps({**detail, "kind": "sleep"})[1:]
        return WaitStart(call.key, call.id, text, request.duration_ms, request.until_ms)
    looked_at = bool(request.condition)
    return WaitStart(
        call.key,
        call.id,
        dumps({**detail, "kind": "wait", "event": request.event})[1:],
        request.timeout_ms,
        event=request.event,
        index=wait_index(request.event, paths=request.paths, values=request.values, looked_at=looked_at),
        condition=condition.to_json() if looked_at else b"",
        lookback_ms=request.lookback_ms,
    )
