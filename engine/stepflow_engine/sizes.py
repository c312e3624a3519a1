"""Sizes in bytes, as people write them: ``500M``, ``2G``, ``512MiB``."""

from __future__ import annotations

import re

__all__ = ["show_size", "size_bytes"]

_SIZE = re.compile(r"(\d{1,9})\s*([kmg])i?b?", re.IGNORECASE | re.ASCII)
_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


def size_bytes(value: int | str, *, name: str = "size") -> int:
    """The number of bytes that a size means. The units are powers of 1,024; an integer is a number of bytes.

    Args:
        name: what the size is, for the error.

    Raises:
        ValueError: it is not a size, or is 0.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError(f"{name} must be a number with a unit, as in 500M or 2G, got {value!r}")
    return int(match[1]) * _UNITS[match[2].lower()]


def show_size(size: int) -> str:
    """A size for people, in MiB."""
    return f"{size / 1024**2:,.0f} MiB"
