"""Durations as people write them: ``"1h"``, ``"1d12h"``, a timedelta, or a number of seconds."""

from __future__ import annotations

import math
import re
from datetime import timedelta

__all__ = ["MAX_DURATION_MS", "Duration", "duration_ms", "show_duration", "show_value"]

_FORMS = 'write "30s", "1h", "1d12h", a timedelta, or a number of seconds'

Duration = str | int | float | timedelta

MAX_DURATION_MS = 366 * 24 * 3600 * 1000
"""The longest sleep, wait or timeout of an invoke: 366 days, in milliseconds."""

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_MAX_SHOWN = 100
_MAX_TEXT = 1_000
"""Longer text is refused: the search for parts takes quadratic time in the number of digits."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def duration_ms(value: Duration, *, name: str = "duration", least_ms: int = 0, max_ms: int = MAX_DURATION_MS) -> int:
    """Turn a duration into whole milliseconds.

    Args:
        value: text of numbers with units (w, d, h, m, s, ms), a timedelta, or seconds as a number.
        name: the name of the value in an error.
        least_ms: the shortest duration that is accepted, in milliseconds: 1 where 0 would make no sense.
        max_ms: the longest duration that is accepted, in milliseconds.

    Raises:
        ValueError: the value is not a duration, is negative or shorter than ``least_ms``, or is longer than
            ``max_ms``.
    """
    milliseconds = _parse_ms(value)
    if milliseconds is None:
        raise ValueError(f"{name} must be a duration, got {show_value(value)}: {_FORMS}")
    if milliseconds < 0:
        raise ValueError(f"{name} must not be negative, got {show_value(value)}: {_FORMS}")
    if milliseconds > max_ms:
        raise ValueError(f"{name} must be at most {show_duration(max_ms)}, got {show_value(value)}")
    if round(milliseconds) < least_ms:
        raise ValueError(f"{name} must be at least {show_duration(least_ms)}, got {show_value(value)}")
    return round(milliseconds)


def show_value(value: object) -> str:
    """A value for an error, cut. Python does not convert numbers of more than 4,300 digits to text."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of too many digits"
    except Exception:  # noqa: BLE001  user code: __repr__
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _parse_ms(value: object) -> float | None:
    match value:
        case bool():
            return None
        case int():
            return value * 1000
        case float():
            return value * 1000 if math.isfinite(value) else None
        case timedelta():
            return value.total_seconds() * 1000
        case str():
            return _parse_text_ms(value.strip())
        case _:
            return None


def _parse_text_ms(text: str) -> float | None:
    if len(text) > _MAX_TEXT:
        return None
    parts = list(_PART.finditer(text))
    if not parts or "".join(part.group(0) for part in parts) != text:
        return None
    return sum(float(part.group(1)) * _UNITS_MS[part.group(2)] for part in parts)


def show_duration(milliseconds: float) -> str:
    """Write milliseconds as people read them, with the two largest units: ``"1d 12h"``, ``"3.2s"``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f}".rstrip("0").rstrip(".") + "s"
    seconds = round(milliseconds / 1000)
    sizes = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    shown = [f"{count}{unit}" for unit, size in sizes if (count := seconds // size % _WRAP[unit])]
    return " ".join(shown[:2])


_WRAP = {"d": 1_000_000, "h": 24, "m": 60, "s": 60}
