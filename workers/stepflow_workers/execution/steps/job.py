"""PlannedStep: the job of one step. Any worker can take it, replay the code up to the step, and call its handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import Self

from stepflow import Function
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.maps import commit_item, read_map
from stepflow_broker.transitions.steps.step_jobs import commit_planned_step
from stepflow_engine.errors import MapItemsError, StepflowError, StepKindError, StepUsageError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import is_item_key, split_item_key
from stepflow_engine.limits import MAX_RETRIES
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.steps import MapRequest, RunRequest, StepCall, StepKind
from stepflow_workers.execution.history_check import sets_step_aside
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.steps.map import item_attempt, start_item_child
from stepflow_workers.execution.steps.map_results import collect_map
from stepflow_workers.execution.steps.run import (
    StepFinished,
    StepRetry,
    seal_step_failure,
    step_failed,
    step_retry,
)
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["PlannedStep", "failed_attempt", "store_result"]

_log = logging.getLogger(WORKER_LOGGER)
_FREE_MISSES = 8
"""How many jobs of a step a worker may leave to others before one costs an attempt, so that it ends at last."""
_SOONER = 10
"""Another worker can execute the step at once: these delays are shorter than those after a failure."""
_CALL_TIMEOUT_S = 5.0
"""How long to wait until the code, which another job of this worker drives, calls the step."""
_NEXT_CALL_TIMEOUT_S = 0.5
"""How long to wait for it once the code did not call the step within that time."""


class PlannedStep:
    """One job of a planned step. It shares the run with other jobs of this worker."""

    def __init__(self, context: JobContext, run: CachedRun, lease: Lease) -> None:
        self._context = context
        self._state = context.state
        self._run = run
        self._lease = lease
        self._key, self._digest, self._index = lease.key, "", 0  # of the step that the code calls
        if is_item_key(lease.key):
            self._key, self._digest, self._index = split_item_key(lease.key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def replay(self) -> StepAttempt[RunRequest] | None:
        """Replay the code until it calls the step. ``None``: it does not, or the run was dropped meanwhile."""
        run, lease = self._run, self._lease
        call = await self._find()
        if run.execution.closed:
            await self._state.release([lease])
            return None
        match call and call.request:
            case RunRequest() as request if call is not None and not self._digest:
                return self._attempt(call, request)
            case MapRequest() as request if call is not None and self._digest in ("", request.items.digest):
                return await self._of_map(call, request)
        if call is not None or not run.execution.was_requested(self._key):  # else the code gave the step up
            self._report_not_found()
            if await self._state.left_to_other_version(lease) or await sets_step_aside(self._state, run, lease):
                return None
        await self._store(self._not_found() if call is None else await self._of_other_code(call))
        return None

    async def _of_map(self, call: StepCall, request: MapRequest) -> StepAttempt[RunRequest] | None:
        """The attempt of an item that calls a handler. ``None``: the item has a child now, or the map has ended."""
        context, run, lease = self._context, self._run, self._lease
        if not self._digest:
            await self._collect(call, request)
            return None
        try:
            of_item = request.request(request.items.values[self._index])
        except StepflowError as error:  # the data of a child
            await self._store(failed_attempt(self._state, run.function, lease, Failure.of(error), is_final=True))
            return None
        if isinstance(of_item, RunRequest):
            return item_attempt(run, lease, call, of_item)
        await start_item_child(context, run, lease, call, of_item)
        return None

    async def _collect(self, call: StepCall, request: MapRequest) -> None:
        try:
            result: StepFinished | StepRetry = await collect_map(self._context, self._run, call, request)
        except (StepKindError, MapItemsError):
            self._report_not_found()
            if await self._state.left_to_other_version(self._lease):
                return
            result = await self._of_other_code(call)
        await self._store(result)

    def _attempt(self, call: StepCall, request: RunRequest) -> StepAttempt[RunRequest]:
        run, lease = self._run, self._lease
        return StepAttempt(run, lease, call, request, number=lease.step_attempt, deaths=lease.deaths)

    async def commit(self, _attempt: StepAttempt[RunRequest], result: StepFinished | StepRetry) -> bool:
        """Store the result of the step. The job is done then.

        A step that the code has cancelled meanwhile, as far as this worker knows, gets no other attempt.
        """
        if isinstance(result, StepRetry) and self._run.execution.has_cancelled(self._key):
            result = self._last_attempt(result)
        await self._store(result)
        return False

    def _last_attempt(self, result: StepRetry) -> StepFinished:
        """The end of a cancelled step, with the failure of its attempt. Nothing awaits it."""
        lease, failure = self._lease, Failure("StepCancelledError", "the code has cancelled the step")
        number = lease.step_attempt
        return step_failed(
            self._state,
            lease,
            result.error,
            failure,
            step_id=lease.step_id,
            attempt=number,
            started_at=self._state.clock.now_ms(),
        )

    async def _find(self) -> StepCall | None:
        """The call of the step, if the code makes it."""
        run, key = self._run, self._key
        execution = run.execution
        if not execution.was_requested(key):
            if run.lease is not None or run.lock.locked():
                with contextlib.suppress(TimeoutError):
                    has_missed = self._state.has_missed(self._lease.job)
                    async with asyncio.timeout(_NEXT_CALL_TIMEOUT_S if has_missed else _CALL_TIMEOUT_S):
                        await execution.requested(key)
            else:
                async with run.lock:
                    await execution.advance()
        return execution.pending(key)

    def _report_not_found(self) -> None:
        if self._state.missed_log.allows(self._run.function.name):
            lease = self._lease
            _log.warning("planned_step_not_found", extra={"run_id": lease.run_id, "step_id": lease.step_id})

    def _not_found(self) -> StepFinished | StepRetry:
        """The result of a step that the code does not wait for. No other step is executed in its place.

        Code that called the step and gave it up, such as the loser of a race, needs no other attempt. Code that does
        not call it at all is of another version, as in every deployment, and no live worker has that version now: one
        may start soon. So the first jobs of the step that a worker cannot execute cost no attempt, and come back soon.
        """
        state, run, lease = self._state, self._run, self._lease
        pending = ", ".join(repr(step_id) for step_id in run.execution.pending_ids()[:10]) or "none"
        failure = Failure(
            "StepNotFoundError",
            f"step {lease.step_id!r} was planned, but the code of {run.function.name} does not wait for it; "
            f"steps that it waits for: {pending}; bring the step back, or cancel the run",
        )
        if run.execution.was_requested(self._key):
            return failed_attempt(state, run.function, lease, failure, is_final=True)
        misses = state.count_miss(lease.job)
        if misses <= _FREE_MISSES:
            sealed = seal_step_failure(run.function, lease.run_id, lease.key, failure)
            delay_ms = state.settings.backoff.delay_ms(misses, random.random()) // _SOONER
            return StepRetry(lease.step_attempt, sealed, delay_ms)
        return failed_attempt(state, run.function, lease, failure, is_final=False)

    async def _of_other_code(self, call: StepCall) -> StepFinished | StepRetry:
        """The result of a step whose id belongs to a step of another kind, or to a map of other items."""
        state, lease, request = self._state, self._lease, call.request
        record = await state.broker.execute(read_map(state.partition, lease.run_id, self._key))
        stored = MapRequest.kind if record.digest else RunRequest.kind
        error: StepUsageError = StepKindError(call.id, stored=stored, requested=request.kind)
        if isinstance(request, MapRequest) and record.digest:
            error = MapItemsError(call.id, began_with=record.count, has=len(request.items.values))
        return failed_attempt(state, self._run.function, lease, Failure.of(error), is_final=True, kind=stored)

    async def _store(self, result: StepFinished | StepRetry) -> None:
        await store_result(self._state, self._lease, result, self._run)


def failed_attempt(
    state: WorkerState,
    function: Function,
    lease: Lease,
    failure: Failure,
    *,
    is_final: bool,
    kind: StepKind = StepKind.RUN,
) -> StepFinished | StepRetry:
    """The result of a planned step whose handler was not called: another attempt, or the end."""
    attempt, sealed = lease.step_attempt, seal_step_failure(function, lease.run_id, lease.key, failure)
    if is_final or attempt >= min(function.config.retries, MAX_RETRIES):
        return step_failed(
            state,
            lease,
            sealed,
            failure,
            step_id=lease.step_id,
            attempt=attempt,
            started_at=state.clock.now_ms(),
            kind=kind,
        )
    delay_ms = state.settings.backoff.delay_ms(attempt, random.random())
    return step_retry(
        state, lease, sealed, step_id=lease.step_id, attempt=attempt, started_at=state.clock.now_ms(), delay_ms=delay_ms
    )


async def store_result(
    state: WorkerState, lease: Lease, result: StepFinished | StepRetry, run: CachedRun | None
) -> None:
    """Store the result of a planned step. The job is done then.

    Args:
        run: the run in the memory of this worker, if it is there.
    """
    match result:
        case StepFinished():
            await _commit(state, lease, result, run)
        case StepRetry(attempts, error, delay_ms, attempt):
            state.failed_jobs += 1
            await state.plan_retry(
                lease, lease.key, lease.step_id, attempts=attempts, error=error, delay_ms=delay_ms, attempt=attempt
            )


async def _commit(state: WorkerState, lease: Lease, result: StepFinished, run: CachedRun | None) -> None:
    if is_item_key(lease.key):
        await _commit_item(state, lease, result, run)
        return
    code, position = await state.broker.execute(
        commit_planned_step(
            state.partition,
            run_id=lease.run_id,
            key=lease.key,
            fence=lease.fence,
            memo=result.text,
            worker=state.worker,
        )
    )
    if code in (ScriptStatus.DONE, ScriptStatus.ALREADY):
        state.finished_jobs += 1
        if run is not None:
            run.apply_memo(position, lease.key, result.memo, len(result.text))
    elif code is ScriptStatus.NO_RUN and run is not None:
        state.cache.drop(run)


async def _commit_item(state: WorkerState, lease: Lease, result: StepFinished, run: CachedRun | None) -> None:
    state.wakeups.job_queued(lease.run_id)
    code = await state.broker.execute(
        commit_item(state.partition, run_id=lease.run_id, key=lease.key, fence=lease.fence, memo=result.text)
    )
    if code in (ScriptStatus.DONE, ScriptStatus.ALREADY):
        state.finished_jobs += 1
    elif code is ScriptStatus.NO_RUN and run is not None:
        state.cache.drop(run)
