"""Patience: which failures of a call are worth another try, and how long to pause before it."""

from __future__ import annotations

import random

from redis import exceptions

from stepflow_broker.redis_client.errors import is_transient

__all__ = ["backoff_s", "is_retryable"]

_FIRST_S = 0.05
_LONGEST_S = 2.0
_FULL = ("OOM ", "MISCONF ")


def backoff_s(tries: int) -> float:
    """How long to wait before another try, after ``tries`` that failed, in seconds.

    Twice as long each time, up to two seconds; at random by up to a half shorter, so that clients that lost the same
    server do not come back together.
    """
    return min(_FIRST_S * 2.0 ** min(tries - 1, 10), _LONGEST_S) * random.uniform(0.5, 1.0)


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed a little later: the server is away, busy, or has no room for it now."""
    return is_transient(error) or _is_full(error)


def _is_full(error: BaseException) -> bool:
    """Whether the server accepts no writes, for want of memory or disk; what it refuses, it has not executed."""
    return isinstance(error, exceptions.OutOfMemoryError) or any(word in str(error) for word in _FULL)
