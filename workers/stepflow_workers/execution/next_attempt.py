"""Decides whether another attempt follows a failed one, by the policy of the step or of its function."""

from __future__ import annotations

import random

from stepflow import Function, Retry
from stepflow_broker.transitions.runs.attempts import read_first_failure
from stepflow_engine.retry import retry_delay_ms
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["next_attempt_delay_ms"]


async def next_attempt_delay_ms(
    state: WorkerState,
    function: Function,
    run_id: str,
    error: BaseException,
    *,
    key: str = "",
    attempt: int,
    retries: int | Retry | None = None,
) -> int | None:
    """The delay before the next attempt, in milliseconds; ``None``: there is no other attempt.

    Args:
        key: the key of the step; ``""``: the function's own code failed.
        attempt: the number of the failed attempt, 0-based.
        retries: the option of the step; ``None``: that of the function. A number keeps the policy of the function.
    """
    policy = retries if isinstance(retries, Retry) else function.retry
    most = function.config.retries if retries is None else retries
    has_budget = policy is not None and policy.budget is not None and attempt > 0
    first_failed_ms = (
        await state.broker.execute(read_first_failure(state.partition, run_id, key)) if has_budget else None
    )
    return retry_delay_ms(
        error,
        attempt=attempt,
        retries=most.retries if isinstance(most, Retry) else most,
        policy=policy,
        backoff=state.settings.backoff,
        chance=random.random(),
        now_ms=state.clock.now_ms(),
        first_failed_ms=first_failed_ms,
    )
