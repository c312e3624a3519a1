"""The sizes and counts that a run may not pass, each a setting with a default."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MAX_RETRIES", "Limits", "check_id", "check_retries"]

MAX_RETRIES = 20
_MAX_ID_BYTES = 10_240


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one app. Sizes are in bytes of JSON.

    A breach is a typed error at the place that caused it, never a hang.
    """

    steps_per_run: int = 10_000
    step_output_bytes: int = 4 * 1024 * 1024
    run_state_bytes: int = 32 * 1024 * 1024
    event_bytes: int = 512 * 1024
    events_per_send: int = 5_000


def check_id(value: object, what: str) -> str:
    """Return ``value`` if it can be an id: text that is not empty, valid UTF-8, and at most 10 kB.

    Raises:
        ValueError: it is not; the message names ``what``.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be text that is not empty, not {value!r}")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} {value!r} is not valid Unicode (it has a lone surrogate)") from None
    if size > _MAX_ID_BYTES:
        raise ValueError(f"{what} is {size} bytes long; at most {_MAX_ID_BYTES} are accepted")
    return value


def check_retries(value: object) -> int:
    """Return ``value`` if it can be a number of retries.

    Raises:
        ValueError: it is not a whole number from 0 to 20.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RETRIES:
        raise ValueError(f"retries must be a whole number from 0 to {MAX_RETRIES}, not {value!r}")
    return value


MAX_DEPTH = 100
"""How many runs may stand one above the other; more is taken for a cycle."""
