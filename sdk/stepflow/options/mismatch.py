"""What becomes of a run whose code requests other steps than its history records."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["OnMismatch", "checked_on_mismatch"]

OnMismatch = Literal["warn", "pause", "fail"]


def checked_on_mismatch(value: OnMismatch) -> OnMismatch:
    """The value.

    Raises:
        ValueError: it is none of the three.
    """
    if value not in get_args(OnMismatch):
        raise ValueError(f'on_mismatch must be "warn", "pause" or "fail", got {value!r:.100}')
    return value
