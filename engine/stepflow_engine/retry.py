"""The delay before the next attempt: exponential backoff with jitter, and the errors that override it."""

from __future__ import annotations

from dataclasses import dataclass

from stepflow_engine.errors import (
    ConfigurationError,
    EventError,
    LimitError,
    NonRetriableError,
    RetryAfterError,
    StepError,
    StepOutputError,
    StepUsageError,
)

__all__ = ["DEFAULT_RETRIES", "Backoff", "is_final", "retry_delay_ms"]

DEFAULT_RETRIES = 4
_FINAL = (NonRetriableError, StepError, StepOutputError, StepUsageError, LimitError, EventError, ConfigurationError)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays of ``first_ms * 2 ** attempt``, at most ``max_ms``. Jitter shortens each by up to half.

    Attributes:
        first_ms: the delay after the first attempt, in milliseconds.
        max_ms: the longest delay, in milliseconds.
    """

    first_ms: int = 1_000
    max_ms: int = 3_600_000

    def delay_ms(self, attempt: int, jitter: float) -> int:
        """The delay after attempt number ``attempt`` (0-based); ``jitter`` is a random number in [0, 1)."""
        whole = min(self.first_ms << min(attempt, 32), self.max_ms)
        return round(whole * (1 - jitter / 2))


def is_final(error: BaseException) -> bool:
    """Whether an error rules out another attempt. A group does if one of its errors does."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_final(part) for part in error.exceptions)
    return isinstance(error, _FINAL)


def retry_delay_ms(
    error: BaseException, *, attempt: int, retries: int, backoff: Backoff, jitter: float, now_ms: int
) -> int | None:
    """The delay before the next attempt, in milliseconds; ``None``: there is no other attempt.

    Args:
        error: the error of the attempt.
        attempt: the number of the failed attempt, 0-based.
        retries: the number of attempts after the first that are allowed.
        backoff: the delays.
        jitter: a random number in [0, 1).
        now_ms: the time, in milliseconds since the epoch, for a `RetryAfterError` with a datetime.
    """
    if attempt >= retries or is_final(error):
        return None
    after = _retry_after(error)
    if after is not None:
        return after.delay_ms(now_ms)
    return backoff.delay_ms(attempt, jitter)


def _retry_after(error: BaseException) -> RetryAfterError | None:
    """The error that sets the time of the next attempt: this one, or the first such error of a group."""
    if isinstance(error, RetryAfterError):
        return error
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((after for part in parts if (after := _retry_after(part)) is not None), None)
