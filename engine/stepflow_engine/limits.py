"""The limits of a run: sizes and counts, each a setting with a default."""

from __future__ import annotations

from dataclasses import dataclass

from stepflow_engine.durations import show_value

__all__ = ["MAX_ATTEMPTS", "MAX_RETRIES", "Limits", "check_id", "check_retries"]

MAX_RETRIES = 20
"""The largest number of retries without a policy."""
MAX_ATTEMPTS = 10_000
"""The largest number of attempts of a `Retry` policy."""
MAX_ID_BYTES = 10_240


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one app. A run over a limit gets a typed error where it exceeds the limit; it never hangs.

    Attributes:
        steps_per_run: the largest number of steps in a run; more is a `LimitError`.
        step_output_bytes: the largest result of a step or a function, in bytes of JSON; more is a `StepOutputError`.
        run_state_bytes: the largest total size of the memos of a run, in bytes of JSON; more is a `LimitError`.
        event_bytes: the largest data of an event, in bytes of JSON; more is an `EventError`.
        events_per_send: the largest number of events or runs in one call; more is an `EventError`.

    Example::

        app = Stepflow("shop", limits=Limits(step_output_bytes=1024 * 1024))
    """

    steps_per_run: int = 10_000
    step_output_bytes: int = 4 * 1024 * 1024
    run_state_bytes: int = 32 * 1024 * 1024
    event_bytes: int = 512 * 1024
    events_per_send: int = 5_000


def check_id(value: object, what: str) -> str:
    """Return ``value`` if it is a valid id: non-empty text, valid UTF-8, and at most 10 kB.

    Args:
        what: the name of the value in the error.

    Raises:
        ValueError: it is not a valid id.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be non-empty text, got {value!r}")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be valid Unicode, got {value!r} with a lone surrogate") from None
    if size > MAX_ID_BYTES:
        raise ValueError(f"{what} must be at most {MAX_ID_BYTES:,} bytes, got {size:,}")
    return value


def check_retries(value: object) -> int:
    """Return ``value`` if it is a valid number of retries.

    Raises:
        ValueError: it is not an integer from 0 to 20.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RETRIES:
        raise ValueError(f"retries must be an integer from 0 to {MAX_RETRIES}, or a Retry, got {show_value(value)}")
    return value


MAX_DEPTH = 100
"""The largest depth of nested invokes. A deeper invoke is refused, because it is probably a cycle."""
