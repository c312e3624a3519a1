"""``step.run``: executes a handler once, and decides what is stored of the attempt."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from stepflow_engine.encryption_scopes import seal_failure, step_scope
from stepflow_engine.errors import LimitError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import idempotency_key
from stepflow_engine.memo import Memo, memo_of_data, memo_of_error
from stepflow_engine.retry import retry_delay_ms
from stepflow_engine.step_attempt import attempt_step
from stepflow_workers.execution.attempt import StepAttempt
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.poison import POISON_DEATHS, PoisonError, died_text
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["StepFinished", "StepRetry", "execute_step", "failed_step"]


@dataclass(frozen=True, slots=True)
class StepFinished:
    """The step has ended. ``text`` is what is stored, and ``memo`` what it is read back as."""

    text: bytes
    memo: Memo


@dataclass(frozen=True, slots=True)
class StepRetry:
    """The attempt has failed, and there will be another after ``delay_ms``."""

    attempts: int
    error: bytes
    delay_ms: int


async def execute_step(state: WorkerState, attempt: StepAttempt) -> StepFinished | StepRetry:
    """Call the step's handler once. Nothing is stored here: a crash leaves the attempt to whoever reclaims the job."""
    run, call, request = attempt.run, attempt.call, attempt.request
    started_at = now_ms()
    limits = run.function.limits
    try:
        if len(attempt.deaths) >= POISON_DEATHS:
            raise PoisonError(died_text(attempt.deaths, "this step"))
        result = await attempt_step(
            call.id,
            request,
            attempt=attempt.number,
            limit_bytes=limits.step_output_bytes,
            idempotency_key=idempotency_key(run.run_id, call.key),
        )
        sealed = run.function.cipher.seal(result.text, step_scope(run.run_id, call.key))
        text = memo_of_data(sealed, _detail(state, call.id, attempt.number, started_at))
        if run.state_bytes + len(text) > limits.run_state_bytes:
            raise LimitError(
                f"the memos of the run would exceed {limits.run_state_bytes:,} bytes with step {call.id!r}; "
                "return references instead of data, or split the work over several runs"
            )
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001  user code: whatever a handler raises is the step's failure
        return _failed_attempt(state, attempt, error, started_at)
    run.state_bytes += len(text)
    return StepFinished(text, Memo(call.id, data=result.data))


def _failed_attempt(
    state: WorkerState, attempt: StepAttempt, error: Exception, started_at: int
) -> StepFinished | StepRetry:
    run, call, retries = attempt.run, attempt.call, attempt.request.retries
    if len(attempt.deaths) >= POISON_DEATHS:
        retries = 0
    delay_ms = retry_delay_ms(
        error,
        attempt=attempt.number,
        retries=run.function.config.retries if retries is None else retries,
        backoff=state.settings.backoff,
        jitter=random.random(),
        now_ms=now_ms(),
    )
    failure = Failure.of(error)
    if delay_ms is None:
        return failed_step(state, run, call.key, call.id, failure, attempt=attempt.number, started_at=started_at)
    return StepRetry(attempt.number + 1, _sealed(run, call.key, failure), delay_ms)


def failed_step(
    state: WorkerState, run: CachedRun, key: str, step_id: str, failure: Failure, *, attempt: int, started_at: int
) -> StepFinished:
    """What is stored of a step that has failed for good."""
    text = memo_of_error(_sealed(run, key, failure), _detail(state, step_id, attempt, started_at))
    return StepFinished(text, Memo(step_id, failure=failure))


def _detail(state: WorkerState, step_id: str, attempt: int, started_at: int) -> dict[str, object]:
    return {
        "id": step_id,
        "attempts": attempt + 1,
        "started_at": started_at,
        "ended_at": now_ms(),
        "worker": state.worker,
    }


def _sealed(run: CachedRun, key: str, failure: Failure) -> bytes:
    return seal_failure(run.function.cipher, failure, step_scope(run.run_id, key, failed=True))
