"""The values that the code of a run sets with ``ctx.set``."""

from __future__ import annotations

from typing import Any

from stepflow_engine.codec import dumps_checked
from stepflow_engine.errors import LimitError, StepUsageError
from stepflow_engine.limits import check_id

__all__ = ["MAX_VALUES", "MAX_VALUES_BYTES", "set_value"]

MAX_VALUES = 100
"""The largest number of values of a run."""
MAX_VALUES_BYTES = 256 * 1024
"""The largest size of all of them, in bytes of JSON."""
_LONGEST_KEY = 128


def set_value(values: dict[str, bytes], key: str, value: Any) -> None:
    """Set a value: JSON text by key.

    Raises:
        StepUsageError: the key is invalid, or the value is not JSON.
        LimitError: there would be too many values, or they would be too large.
    """
    try:
        check_id(key, "ctx.set: key")
    except ValueError as error:
        raise StepUsageError(str(error)) from None
    if len(key.encode()) > _LONGEST_KEY:
        raise StepUsageError(f"ctx.set: key must be at most {_LONGEST_KEY} bytes, got {len(key.encode()):,}")
    what = f"ctx.set({key!r}): value"
    text = dumps_checked(value, what=what, limit_bytes=MAX_VALUES_BYTES, refuse=StepUsageError)
    if key not in values and len(values) >= MAX_VALUES:
        raise LimitError(f"ctx.set({key!r}): a run has at most {MAX_VALUES} values: use fewer keys")
    size = sum(len(name) + len(known) for name, known in values.items() if name != key) + len(key) + len(text)
    if size > MAX_VALUES_BYTES:
        raise LimitError(
            f"ctx.set({key!r}): the values of a run must be at most {MAX_VALUES_BYTES:,} bytes of JSON, got {size:,}: "
            "store large data elsewhere and set a reference to it"
        )
    values[key] = text
