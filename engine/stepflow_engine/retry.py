"""The delay before the next attempt: exponential backoff with jitter, and the errors that override it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

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
from stepflow_engine.failure import group_parts

__all__ = ["DEFAULT_RETRIES", "Backoff", "is_final", "retry_delay_ms"]

DEFAULT_RETRIES = 4
_MAX_PARTS = 10_000
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
    return any(issubclass(type(part), _FINAL) for part in _parts(error))


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
        with contextlib.suppress(Exception):  # user code: a subclass, or a time that was changed afterwards
            return max(0, int(after.delay_ms(now_ms)))
    return backoff.delay_ms(attempt, jitter)


def _retry_after(error: BaseException) -> RetryAfterError | None:
    """The error that sets the time of the next attempt: this one, or the first such error of a group."""
    errors = (part for part in _parts(error) if issubclass(type(part), RetryAfterError))
    return cast("RetryAfterError | None", next(errors, None))


def _parts(error: BaseException) -> Iterator[BaseException]:
    """The error, and those of its group and of the groups in it, in order; at most `_MAX_PARTS`."""
    left = [error]
    for _ in range(_MAX_PARTS):
        if not left:
            return
        part = left.pop()
        yield part
        left += reversed(group_parts(part))
