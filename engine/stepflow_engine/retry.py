"""Whether another attempt follows a failed one, and after which delay."""

from __future__ import annotations

import contextlib
from typing import cast

from stepflow_engine.durations import MAX_DURATION_MS
from stepflow_engine.errors import (
    ConfigurationError,
    CorruptDataError,
    EventError,
    LimitError,
    NonRetriableError,
    RetryAfterError,
    StepError,
    StepOutputError,
    StepUsageError,
)
from stepflow_engine.http_retry_after import http_retry_after_ms
from stepflow_engine.retry_policy import Backoff, Retry, error_parts, is_retried

__all__ = ["DEFAULT_RETRIES", "is_final", "retry_delay_ms"]

DEFAULT_RETRIES = 4
_FINAL = (
    NonRetriableError,
    StepError,
    StepOutputError,
    StepUsageError,
    LimitError,
    EventError,
    ConfigurationError,
    CorruptDataError,
)


def is_final(error: BaseException) -> bool:
    """Whether an error rules out another attempt. A group does if one of its errors does."""
    return any(issubclass(type(part), _FINAL) for part in error_parts(error))


def retry_delay_ms(
    error: BaseException,
    *,
    attempt: int,
    retries: int,
    policy: Retry | None,
    backoff: Backoff,
    chance: float,
    now_ms: int,
    first_failed_ms: int | None = None,
) -> int | None:
    """The delay before the next attempt, in milliseconds; ``None``: there is no other attempt.

    Args:
        error: the error of the attempt.
        attempt: the number of the failed attempt, 0-based.
        retries: the number of attempts after the first that are allowed.
        policy: the retry policy; ``None``: all errors are retried, with the delays of ``backoff``.
        backoff: the delays where there is no policy.
        chance: a random number in [0, 1), for the jitter.
        now_ms: the time, in milliseconds since the epoch, for errors that name a time, and for the budget.
        first_failed_ms: when the first attempt failed, in milliseconds since the epoch, for the budget; ``None``: now.
    """
    if attempt >= retries or is_final(error):
        return None
    delay_ms = _named_delay_ms(error, now_ms)
    if delay_ms is None:
        if policy is not None and not is_retried(policy, error):
            return None
        delays = backoff if policy is None else policy.backoff
        delay_ms = max(delays.delay_ms(attempt, chance), min(_http_delay_ms(error, now_ms), delays.max_ms))
    budget_ms = None if policy is None else policy.budget_ms
    if budget_ms is None:
        return delay_ms
    since_ms = now_ms if first_failed_ms is None else first_failed_ms
    return delay_ms if now_ms + delay_ms <= since_ms + budget_ms else None


def _named_delay_ms(error: BaseException, now_ms: int) -> int | None:
    """The delay that a `RetryAfterError` sets: this error, or the first such error of a group."""
    errors = (part for part in error_parts(error) if issubclass(type(part), RetryAfterError))
    after = cast("RetryAfterError | None", next(errors, None))
    if after is not None:
        with contextlib.suppress(Exception):  # user code: a subclass, or a time that was changed afterwards
            return min(max(0, int(after.delay_ms(now_ms))), MAX_DURATION_MS)
    return None


def _http_delay_ms(error: BaseException, now_ms: int) -> int:
    return max((http_retry_after_ms(part, now_ms) or 0 for part in error_parts(error)), default=0)
