"""Memos: the stored results and failures of steps."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from stepflow_engine.value_class import value_class

__all__ = ["Memo", "memo_of_data", "memo_of_error", "memo_of_failure", "read_memo"]


@value_class
class Memo:
    """The final result or failure of one step.

    Attributes:
        id: the id of the step.
        data: the result as plain JSON data, if the step succeeded.
        failure: the failure, if the step failed.
        detail: other facts: the number of attempts, times, the worker, the outcome of an invoke.
    """

    id: str
    data: Any = None
    failure: Failure | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def memo_of_data(data_json: bytes, detail: dict[str, Any]) -> bytes:
    """The stored text of a success. ``data_json`` is JSON text and is not encoded again."""
    return b'{"data":' + data_json + b"," + dumps(detail)[1:]


def memo_of_failure(failure: Failure, detail: dict[str, Any]) -> bytes:
    """The stored text of a failure."""
    return memo_of_error(dumps(failure.to_json()), detail)


def memo_of_error(error_json: bytes, detail: dict[str, Any]) -> bytes:
    """The stored text of a failure. ``error_json`` is JSON text and is not encoded again."""
    return b'{"error":' + error_json + b"," + dumps(detail)[1:]


def read_memo(text: bytes, key: str = "") -> Memo:
    """Read a stored memo.

    Args:
        key: the key of its step, for the error; ``""``: unknown.

    Raises:
        CorruptDataError: the text is not a memo; it names the step if that can still be read.
    """
    try:
        value = loads(text)
    except ValueError as invalid:
        raise CorruptDataError(_memo_of(text, key), invalid) from None
    if not isinstance(value, dict):
        raise CorruptDataError(_memo_of(text, key), "not an object")
    error = value.pop("error", None)
    data = value.pop("data", None)
    if not isinstance(error, dict | None):
        raise CorruptDataError(_memo_of(text, key), "its error is not an object")
    return Memo(
        id=str(value.pop("id", "")),
        data=data,
        failure=Failure.from_json(error) if error is not None else None,
        detail=value,
    )


_ID = re.compile(rb'"id":("(?:[^"\\]|\\.){0,10000}")')
_MAX_REPEATS = 1_000


def _memo_of(text: bytes, key: str) -> str:
    """What a corrupt memo is: it names the step, if the text still has an id that belongs to the key."""
    for id_text in reversed(_ID.findall(text)):
        try:
            step_id = loads(id_text)
        except ValueError:
            continue
        if any(step_key(step_id, repeat) == key for repeat in range(_MAX_REPEATS)):
            return f"the memo of step {step_id[:100]!r}"
    return f"the memo of the step with key {key}" if key else "a memo"
