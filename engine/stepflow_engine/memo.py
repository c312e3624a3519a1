"""Memos: the recorded ends of steps, in the order in which they were recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure

__all__ = ["Memo", "memo_of_data", "memo_of_error", "memo_of_failure", "read_memo"]


@dataclass(frozen=True, slots=True)
class Memo:
    """How one step ended, for good.

    Attributes:
        id: the step's id.
        data: its result as plain JSON data, when it succeeded.
        failure: its error, when it failed.
        detail: what else is known of it: attempts, times, worker, the kind of an invoke's end.
    """

    id: str
    data: Any = None
    failure: Failure | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def memo_of_data(data_json: bytes, detail: dict[str, Any]) -> bytes:
    """The stored text of a success; ``data_json`` is put in as it is, so it is encoded once."""
    return b'{"data":' + data_json + b"," + dumps(detail)[1:]


def memo_of_failure(failure: Failure, detail: dict[str, Any]) -> bytes:
    """The stored text of a failure."""
    return memo_of_error(dumps(failure.to_json()), detail)


def memo_of_error(error_json: bytes, detail: dict[str, Any]) -> bytes:
    """The stored text of a failure, which is JSON text already."""
    return b'{"error":' + error_json + b"," + dumps(detail)[1:]


def read_memo(text: bytes) -> Memo:
    """Read a stored memo.

    Raises:
        CorruptDataError: it is none.
    """
    try:
        value = loads(text)
    except ValueError as fault:
        raise CorruptDataError("a memo", fault) from None
    if not isinstance(value, dict):
        raise CorruptDataError("a memo", "it is no object")
    error = value.pop("error", None)
    data = value.pop("data", None)
    if not isinstance(error, dict | None):
        raise CorruptDataError("a memo", "its error is no object")
    return Memo(
        id=str(value.pop("id", "")),
        data=data,
        failure=Failure.from_json(error) if error is not None else None,
        detail=value,
    )
