"""Retry rules: what a client does after an error. No I/O and no clock, so both clients follow the same rules.

`decide` is a pure function of the error, of what the client knows about the request, and of the time. `BlockingClient`
and `PipelinedClient` execute its decisions. The rules:

=====================================================  =========================================================
error                                                  decision
=====================================================  =========================================================
NOSCRIPT, and the request had no source                resend with the source, at once
the server is not the primary, or lost the slot        reconnect, then resend
the connection is lost; the server is busy, loading,   resend
out of memory or disk, or is moving the slot
the server refuses the user, a right or the TLS        resend
connection, and the request is of a patient client
any of these after the deadline                        fail
any other error                                        fail
=====================================================  =========================================================

A resent request may be executed twice: the server may have executed it before the connection was lost. Every script
of stepflow changes nothing the second time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from redis import exceptions

from stepflow_broker.redis_client.errors import is_refusal, is_transient, is_wrong_node

__all__ = ["Attempt", "Decision", "Next", "backoff_s", "decide", "is_retryable"]

_FIRST_S = 0.05
_LONGEST_S = 2.0
_FULL = ("OOM ", "MISCONF ")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that has failed, as far as the rules need to know it.

    Attributes:
        give_up_at: the deadline of its retries, on the clock of the client, in seconds.
        pause_s: how long the client pauses before it resends the request, in seconds.
        has_source: whether it was sent with the source of its script.
        is_patient: whether the client takes a refusal for an outage. It has worked with the server before, so somebody
            is changing the password, the certificate or the rights.
    """

    give_up_at: float
    pause_s: float = 0.0
    has_source: bool = False
    is_patient: bool = False


class Next(Enum):
    """What happens to a request that has failed."""

    RESEND = "resend"
    RESEND_WITH_SOURCE = "resend with source"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a client does after an error.

    Attributes:
        next: what happens to the request.
        reconnect: whether to close the connection, because a new one may lead to another server. This also holds for a
            request that fails: the next request needs the right server.
    """

    next: Next
    reconnect: bool = False


def decide(error: BaseException, attempt: Attempt, now: float) -> Decision:
    """Decide what to do about a request that has failed.

    Args:
        error: the reply of the server, or the error of the connection.
        attempt: the request.
        now: the time on the clock of the client, in seconds.
    """
    if isinstance(error, exceptions.NoScriptError) and not attempt.has_source:
        return Decision(Next.RESEND_WITH_SOURCE)
    is_refused = attempt.is_patient and is_refusal(error)
    is_in_time = now + attempt.pause_s < attempt.give_up_at
    return Decision(
        Next.RESEND if is_in_time and (is_refused or is_retryable(error)) else Next.FAIL,
        reconnect=is_wrong_node(error),
    )


def backoff_s(tries: int) -> float:
    """The pause after ``tries`` failed attempts, in seconds.

    It doubles with each attempt, up to two seconds. It is shortened by up to half at random, so that clients that lost
    the same server do not reconnect at the same moment.
    """
    return min(_FIRST_S * 2.0 ** min(tries - 1, 10), _LONGEST_S) * random.uniform(0.5, 1.0)


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed later: the server is unreachable, busy, or out of memory or disk."""
    return is_transient(error) or _is_full(error)


def _is_full(error: BaseException) -> bool:
    """Whether the server refuses writes for lack of memory or disk. It has not executed what it refuses."""
    return isinstance(error, exceptions.OutOfMemoryError) or any(word in str(error) for word in _FULL)
