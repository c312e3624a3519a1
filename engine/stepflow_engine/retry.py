"""When a failed attempt is tried again: exponential back-off with jitter, and the errors that overrule it."""

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
    """Waits of ``first_ms * 2 ** attempt``, at most ``most_ms``, each shortened by up to half by jitter."""

    first_ms: int = 1_000
    most_ms: int = 3_600_000

    def delay_ms(self, attempt: int, jitter: float) -> int:
        """The wait after failed attempt number ``attempt`` (0-based); ``jitter`` is a random number in [0, 1)."""
        whole = min(self.first_ms << min(attempt, 32), self.most_ms)
        return round(whole * (1 - jitter / 2))


def is_final(error: BaseException) -> bool:
    """Whether an error rules out another attempt; a group does if one of its errors does."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_final(part) for part in error.exceptions)
    return isinstance(error, _FINAL)


def retry_delay_ms(
    error: BaseException, *, attempt: int, retries: int, backoff: Backoff, jitter: float, now_ms: int
) -> int | None:
    """How long to wait before the next attempt, in milliseconds; ``None`` if there is none.

    Args:
        error: what the attempt raised.
        attempt: the number of the attempt that failed, 0-based.
        retries: how many more than one attempts are allowed.
        backoff: the waits.
        jitter: a random number in [0, 1).
        now_ms: the time, for `RetryAfterError` with a datetime.
    """
    if attempt >= retries or is_final(error):
        return None
    after = _retry_after(error)
    if after is not None:
        return after.delay_ms(now_ms)
    return backoff.delay_ms(attempt, jitter)


def _retry_after(error: BaseException) -> RetryAfterError | None:
    """The error that says when to try again: this one, or the first in a group that does."""
    if isinstance(error, RetryAfterError):
        return error
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((found for part in parts if (found := _retry_after(part)) is not None), None)
