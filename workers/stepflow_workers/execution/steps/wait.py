"""Starts the wait of a step, for a time or for an event, and matches it with early events."""

from __future__ import annotations

import asyncio
import logging

from stepflow_broker.protocol.clock import Clock
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.event_filter import EventFilter, wait_index
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.waits import (
    BegunWait,
    WaitStart,
    begin_wait,
    deliver_event,
    early_events_matched,
    read_early_events,
)
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import read_event, wait_scope
from stepflow_engine.expression import ExpressionCostError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.steps import SleepRequest, WaitRequest
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.run_cache import IDLE_HOLD_S, CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["note_timer", "start_wait"]

_log = logging.getLogger(WORKER_LOGGER)
_MATCHED_AT_ONCE = 50
"""How many early events are matched before other tasks of the event loop continue."""
_LONGEST_VALUES = 512
"""The longest JSON text of the values of a wait that is stored for display."""


async def start_wait(context: JobContext, attempt: StepAttempt[SleepRequest | WaitRequest]) -> ScriptStatus:
    """Start the wait of a step, once. ALREADY: an earlier attempt started it, and it may have a memo."""
    state, run, lease = context.state, attempt.run, attempt.lease
    condition = EventFilter.of(attempt.request, run.event)
    start = _start_of(attempt, condition, state.clock)
    begun = await state.broker.execute(begin_wait(state.partition, start, run_id=lease.run_id, fence=lease.fence))
    if begun.resolved is not None:
        context.completions.apply_resolved(begun.resolved)
        return ScriptStatus.DONE
    left_ms = start.until_ms - state.clock.now_ms() if start.until_ms else start.delay_ms
    note_timer(state, run, attempt.key, max(0, left_ms))
    if begun.since_ms:
        await _match(state, condition, start, lease, begun)
    return begun.code


def note_timer(state: WorkerState, run: CachedRun, key: str, left_ms: int) -> None:
    """Note that a wait has begun, which ends by its time in ``left_ms`` milliseconds."""
    state.wakeups.timer_set(run.run_id, left_ms)
    if left_ms > IDLE_HOLD_S * 1000:
        run.distant_waits.add(key)


async def _match(state: WorkerState, condition: EventFilter, start: WaitStart, lease: Lease, begun: BegunWait) -> None:
    """End the wait with the oldest early event that matches and that the run has not received before."""
    early = [*begun.early, *await _early_elsewhere(state, lease, start, begun.since_ms)]
    for number, event in enumerate(early):
        if number % _MATCHED_AT_ONCE == _MATCHED_AT_ONCE - 1:
            await asyncio.sleep(0)
        if read_event(event)["id"] == start.own_event or not _holds(condition, event, state, lease.run_id):
            continue
        if await _deliver(state, lease.run_id, start.key, event):
            return
    await state.broker.execute(early_events_matched(state.partition, lease.run_id, start.key))


async def _deliver(state: WorkerState, run_id: str, key: str, event: bytes) -> bool:
    """End the wait with an early event; false for an event that the run received before it began the wait."""
    event_id = read_event(event)["id"]
    return await state.broker.execute(deliver_event(state.partition, run_id, key, event, event_id=event_id))


def _holds(condition: EventFilter, event: bytes, state: WorkerState, run_id: str) -> bool:
    """Whether an early event ends the wait. One for which the condition would take too long does not."""
    try:
        return condition.holds(event, state.partition.cipher)
    except ExpressionCostError as error:
        _log.error("expression_too_expensive", extra={"run_id": run_id, "error": str(error)})
        return False


async def _early_elsewhere(state: WorkerState, lease: Lease, start: WaitStart, since_ms: int) -> list[bytes]:
    """The early events of other partitions, for a stored wait. Later events find the wait."""
    here = state.partition.of(lease.run_id)
    calls = [read_early_events(one, start.index, since_ms=since_ms) for one in here.all if one is not here]
    early = [event for events in await state.broker.execute_all(calls) for event in events]
    return sorted(early, key=lambda event: read_event(event)["ts"])


def _start_of(attempt: StepAttempt[SleepRequest | WaitRequest], condition: EventFilter, clock: Clock) -> WaitStart:
    key, step_id, request = attempt.key, attempt.id, attempt.request
    detail: dict[str, object] = {"id": step_id, "started_at": clock.now_ms(), "kind": request.kind}
    if isinstance(request, SleepRequest):
        text = dumps(detail)[1:]
        return WaitStart(key, step_id, text, request.duration_ms, request.until_ms)
    has_condition = bool(request.condition)
    return WaitStart(
        key,
        step_id,
        dumps({**detail, "event": request.event})[1:-1] + _shown_values(attempt, request) + b"}",
        request.timeout_ms,
        event=request.event,
        index=wait_index(request.event, paths=request.paths, values=request.values, has_condition=has_condition),
        condition=condition.to_json() if has_condition else b"",
        lookback_ms=request.lookback_ms,
        since=attempt.call.position,
        own_event=read_event(attempt.run.event)["id"],
        unread=attempt.run.execution.unread_events(),
    )


def _shown_values(attempt: StepAttempt[SleepRequest | WaitRequest], request: WaitRequest) -> bytes:
    """The values that the event must have, for display, as a part of the detail; empty if they are long."""
    if not request.paths or len(request.values) > _LONGEST_VALUES:
        return b""
    values = dumps(dict(zip(request.paths.split(","), loads(request.values), strict=True)))
    run = attempt.run
    return b',"match":' + run.function.cipher.seal(values, wait_scope(run.run_id, attempt.key))
