"""Executes a ``step.run``: one attempt, and what to store of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from stepflow import Function
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.attempts import attempt_detail
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import seal_failure, step_scope
from stepflow_engine.errors import LimitError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import is_item_key
from stepflow_engine.memo import Memo, memo_of_data, memo_of_error
from stepflow_engine.step_attempt import attempt_step
from stepflow_engine.steps import RunRequest, StepKind
from stepflow_engine.undo import UNDO
from stepflow_engine.user_code import original
from stepflow_engine.value_class import value_class
from stepflow_workers.execution.failure_log import log_failed_attempt
from stepflow_workers.execution.heartbeats import begin_handler, end_handler
from stepflow_workers.execution.next_attempt import next_attempt_delay_ms
from stepflow_workers.execution.steps.cached import CachedResult, find_cached, store_cached
from stepflow_workers.execution.steps.isolated import attempt_isolated
from stepflow_workers.execution.steps.step_attempt import StepAttempt
from stepflow_workers.state.poison import POISON_DEATHS, PoisonError, died_text
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["StepFinished", "StepRetry", "execute_step", "seal_step_failure", "step_failed", "step_retry"]


@value_class
class StepFinished:
    """The step has ended. ``text`` is the stored form; ``memo`` is its value when read back.

    Attributes:
        had_heartbeats: whether its attempts have stored heartbeats.
    """

    text: bytes
    memo: Memo
    had_heartbeats: bool = False


@dataclass(frozen=True, slots=True)
class StepRetry:
    """The attempt failed, and another follows. ``attempt`` is its entry in the history; ``b""``: it was no attempt."""

    attempts: int
    error: bytes
    delay_ms: int
    attempt: bytes = b""


async def execute_step(state: WorkerState, attempt: StepAttempt[RunRequest]) -> StepFinished | StepRetry:
    """Call the handler of the step once and decide what follows."""
    run, started_at = attempt.run, state.clock.now_ms()
    call, job = attempt.call, attempt.lease.job
    step = call.key, call.id, started_at
    if not attempt.lease.key:  # the claim of a planned step says that it executes
        state.executing[job] = step
    if (cache := attempt.request.cache) is not None and (hit := await find_cached(state, attempt, cache)) is not None:
        return _cached(state, attempt, hit, started_at=started_at)
    if state.replace_handler is not None:
        described = Attempt(run.function.name, run.run_id, call.id, attempt.number)
        attempt = replace(attempt, request=state.replace_handler(described, attempt.request))
    control = await begin_handler(state, attempt)
    state.handlers[job] = control
    try:
        if len(attempt.deaths) >= POISON_DEATHS:
            raise PoisonError(died_text(attempt.deaths, "this step"))
        if attempt.request.isolation is None:
            result = await attempt_step(
                call.id,
                attempt.request,
                function=run.function.name,
                run_id=run.run_id,
                attempt=attempt.number,
                limit_bytes=run.function.limits.step_output_bytes,
                threads=state.threads,
                control=control,
                around=run.function.around,
                loop=call.future.get_loop(),
            )
        else:
            result = await attempt_isolated(state, attempt, control)
        detail = _detail(state, attempt.lease, call.id, attempt=attempt.number, started_at=started_at)
        text = _memo_text(attempt, result.text, detail)
    except asyncio.CancelledError:
        end_handler(control, failed=False)
        raise
    except BaseException as error:  # noqa: BLE001  user code: any error of a handler is the failure of the step
        had_heartbeats = end_handler(control, failed=True)
        return await _failed(state, attempt, original(error), started_at=started_at, had_heartbeats=had_heartbeats)
    finally:
        if state.handlers.get(job) is control:
            del state.handlers[job]
        if state.executing.get(job) is step:  # not that of a later lease
            del state.executing[job]
    run.add_uncommitted(call.key, len(text))
    had_heartbeats = end_handler(control, failed=False)
    if cache is not None:
        await store_cached(state, attempt, cache, result.text)
    return StepFinished(text, Memo(call.id, data=result.data, detail=detail), had_heartbeats)


def _cached(
    state: WorkerState, attempt: StepAttempt[RunRequest], hit: CachedResult, *, started_at: int
) -> StepFinished:
    """The result of a step that an earlier run has computed. The handler is not called."""
    detail = _detail(state, attempt.lease, attempt.id, attempt=-1, started_at=started_at)
    detail["cached_from"] = hit.run_id
    text = _memo_text(attempt, dumps(hit.data), detail)
    attempt.run.add_uncommitted(attempt.key, len(text))
    return StepFinished(text, Memo(attempt.id, data=hit.data, detail=detail))


def step_failed(
    state: WorkerState,
    lease: Lease,
    sealed: bytes,
    failure: Failure,
    *,
    step_id: str,
    attempt: int,
    started_at: int,
    had_heartbeats: bool = False,
    kind: StepKind = StepKind.RUN,
) -> StepFinished:
    """The result of a step that has no attempts left.

    Args:
        sealed: the stored form of the failure; see `seal_step_failure`.
        attempt: the number of the last attempt, 0-based.
    """
    detail = _detail(state, lease, step_id, attempt=attempt, started_at=started_at)
    if kind is not StepKind.RUN:
        detail["kind"] = kind
    return StepFinished(memo_of_error(sealed, detail), Memo(step_id, failure=failure, detail=detail), had_heartbeats)


def step_retry(
    state: WorkerState, lease: Lease, sealed: bytes, *, step_id: str, attempt: int, started_at: int, delay_ms: int
) -> StepRetry:
    """The result of an attempt that failed and that another follows. See `step_failed`.

    Args:
        delay_ms: the delay before the next attempt, in milliseconds.
    """
    detail = attempt_detail(
        number=attempt + 1,
        worker=state.worker,
        version=state.version_beside(lease),
        step_id=step_id,
        times=(started_at, state.clock.now_ms()),
    )
    return StepRetry(attempt + 1, sealed, delay_ms, detail)


def seal_step_failure(function: Function, run_id: str, key: str, failure: Failure) -> bytes:
    """The stored form of the failure of a step."""
    return seal_failure(function.cipher, failure, step_scope(run_id, key, failed=True))


def _memo_text(attempt: StepAttempt[RunRequest], data: bytes, detail: dict[str, object]) -> bytes:
    run = attempt.run
    if attempt.request.undo is not None:
        detail[UNDO] = True
    if is_item_key(attempt.key):  # a map may have very many, and collects the results only
        detail = {}
    text = memo_of_data(run.function.cipher.seal(data, step_scope(run.run_id, attempt.key)), detail)
    if not run.has_room(len(text)):
        limit = run.function.limits.run_state_bytes
        raise LimitError(
            f"the memos of a run must be at most {limit:,} bytes, exceeded by step {attempt.id!r}: "
            "return references instead of data, or split the work over several runs"
        )
    return text


async def _failed(
    state: WorkerState,
    attempt: StepAttempt[RunRequest],
    error: BaseException,
    *,
    started_at: int,
    had_heartbeats: bool,
) -> StepFinished | StepRetry:
    run = attempt.run
    delay_ms = await next_attempt_delay_ms(
        state,
        run.function,
        run.run_id,
        error,
        key=attempt.key,
        attempt=attempt.number,
        retries=0 if len(attempt.deaths) >= POISON_DEATHS else attempt.request.retries,
    )
    failure = Failure.of(error)
    sealed = seal_step_failure(run.function, run.run_id, attempt.key, failure)
    if delay_ms is None:
        return step_failed(
            state,
            attempt.lease,
            sealed,
            failure,
            step_id=attempt.id,
            attempt=attempt.number,
            started_at=started_at,
            had_heartbeats=had_heartbeats,
        )
    if not run.execution.closed:  # else nobody needs the result any more
        log_failed_attempt(
            run.function, run.run_id, failure, step_id=attempt.id, attempt=attempt.number + 1, delay_ms=delay_ms
        )
    return step_retry(
        state,
        attempt.lease,
        sealed,
        step_id=attempt.id,
        attempt=attempt.number,
        started_at=started_at,
        delay_ms=delay_ms,
    )


def _detail(state: WorkerState, lease: Lease, step_id: str, *, attempt: int, started_at: int) -> dict[str, object]:
    detail: dict[str, object] = {
        "id": step_id,
        "attempts": attempt + 1,
        "started_at": started_at,
        "ended_at": state.clock.now_ms(),
        "worker": state.worker,
    }
    version = state.version_beside(lease)
    return detail if version is None else {**detail, "version": version}
