"""Performing a step: one attempt, and what is to be stored of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from stepflow_engine.encryption_scopes import seal_failure, step_scope
from stepflow_engine.errors import LimitError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import idempotency_key
from stepflow_engine.memo import Memo, memo_of_data, memo_of_error
from stepflow_engine.retry import Backoff, retry_delay_ms
from stepflow_engine.step_attempt import attempt_step
from stepflow_engine.steps import RunRequest, StepCall
from stepflow_workers.state.clock import now_ms
from stepflow_workers.state.poison import POISON_DEATHS, PoisonError, died_text
from stepflow_workers.state.run_cache import CachedRun

__all__ = ["Performer", "StepFinished", "StepRetry"]


@dataclass(frozen=True, slots=True)
class StepFinished:
    """The step has ended: ``text`` is to be stored, and ``memo`` is what it will be read back as."""

    text: bytes
    memo: Memo


@dataclass(frozen=True, slots=True)
class StepRetry:
    """The attempt failed and there will be another."""

    attempts: int
    error: bytes
    delay_ms: int


class Performer:
    """Performs steps for one worker.

    Args:
        worker: the worker's name, kept in memos.
        backoff: the waits between attempts.
    """

    def __init__(self, worker: str, *, backoff: Backoff) -> None:
        self._worker = worker
        self._backoff = backoff

    async def perform(
        self, held: CachedRun, call: StepCall, request: RunRequest, *, attempt: int, deaths: Sequence[str]
    ) -> StepFinished | StepRetry:
        """Command the step's handler once and decide what follows.

        Args:
            attempt: its number, 0-based.
            deaths: the workers that died in this attempt or one like it.
        """
        started_at = now_ms()
        limits = held.function.limits
        try:
            if len(deaths) >= POISON_DEATHS:
                raise PoisonError(died_text(deaths, "this step"))
            result = await attempt_step(
                call.id,
                request,
                attempt=attempt,
                limit_bytes=limits.step_output_bytes,
                idempotency_key=idempotency_key(held.run_id, call.key),
            )
            sealed = held.function.cipher.seal(result.text, step_scope(held.run_id, call.key))
            text = memo_of_data(sealed, self._detail(call.id, attempt, started_at))
            if held.state_bytes + len(text) > limits.run_state_bytes:
                raise LimitError(
                    f"the memos of the run would be over {limits.run_state_bytes:,} bytes with step {call.id!r}; "
                    "return references instead of data, or split the work over several runs"
                )
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  user code: whatever a handler raises is the step's failure
            retries = held.function.config.retries if request.retries is None else request.retries
            retries = 0 if len(deaths) >= POISON_DEATHS else retries
            return self._failed(held, call, error, attempt=attempt, started_at=started_at, retries=retries)
        held.state_bytes += len(text)
        return StepFinished(text, Memo(call.id, data=result.data))

    def _failed(
        self, held: CachedRun, call: StepCall, error: Exception, *, attempt: int, started_at: int, retries: int
    ) -> StepFinished | StepRetry:
        delay_ms = retry_delay_ms(
            error, attempt=attempt, retries=retries, backoff=self._backoff, jitter=random.random(), now_ms=now_ms()
        )
        failure = Failure.of(error)
        if delay_ms is None:
            return self.failed_for_good(held, call.key, call.id, failure, attempt=attempt, started_at=started_at)
        return StepRetry(attempt + 1, _sealed(held, call.key, failure), delay_ms)

    def failed_for_good(
        self, held: CachedRun, key: str, step_id: str, failure: Failure, *, attempt: int, started_at: int
    ) -> StepFinished:
        """What is stored of a step that failed for good."""
        text = memo_of_error(_sealed(held, key, failure), self._detail(step_id, attempt, started_at))
        return StepFinished(text, Memo(step_id, failure=failure))

    def _detail(self, step_id: str, attempt: int, started_at: int) -> dict[str, object]:
        return {
            "id": step_id,
            "attempts": attempt + 1,
            "started_at": started_at,
            "ended_at": now_ms(),
            "worker": self._worker,
        }


def _sealed(held: CachedRun, key: str, failure: Failure) -> bytes:
    return seal_failure(held.function.cipher, failure, step_scope(held.run_id, key, failed=True))
