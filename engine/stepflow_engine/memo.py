"""Memos: the stored results and failures of steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure

__all__ = ["Memo", "memo_of_data", "memo_of_error", "memo_of_failure", "read_memo"]


@dataclass(frozen=True, slots=True)
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


def read_memo(text: bytes) -> Memo:
    """Read a stored memo.

    Raises:
        CorruptDataError: the text is not a memo.
    """
    try:
        value = loads(text)
    except ValueError as invalid:
        raise CorruptDataError("a memo", invalid) from None
    if not isinstance(value, dict):
        raise CorruptDataError("a memo", "not an object")
    error = value.pop("error", None)
    data = value.pop("data", None)
    if not isinstance(error, dict | None):
        raise CorruptDataError("a memo", "its error is not an object")
    return Memo(
        id=str(value.pop("id", "")),
        data=data,
        failure=Failure.from_json(error) if error is not None else None,
        detail=value,
    )
