"""Whole numbers that users give as limits."""

from __future__ import annotations

from stepflow_engine.durations import show_value

__all__ = ["MAX_COUNT", "check_count"]

MAX_COUNT = 1_000_000_000
"""The largest limit that a user can give. The scripts compute with it exactly."""


def check_count(value: object, what: str, *, instead: str = "") -> int:
    """Return ``value`` if it is an integer from 1 to 1,000,000,000.

    Args:
        what: the name of the value in the error.
        instead: what else is allowed, for the error.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} must be an integer >= 1{instead}, got {show_value(value)}")
    if value > MAX_COUNT:
        raise ValueError(f"{what} must be at most {MAX_COUNT:,}{instead}, got {show_value(value)}")
    return value
