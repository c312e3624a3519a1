"""Memos: the stored results and failures of steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any

from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import KEY_LENGTH, step_key
from stepflow_engine.value_class import value_class

__all__ = ["Memo", "memo_of_data", "memo_of_error", "memo_of_failure", "read_memo", "unread_events"]


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
    if not detail:
        return b'{"data":' + data_json + b"}"
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


def unread_events(dropped: Sequence[tuple[int, Memo]], received: Iterable[Memo]) -> list[tuple[str, int]]:
    """The ids of the events in memos that the code has not got, and the positions of these memos.

    Args:
        dropped: position and memo of each step that the code had cancelled.
        received: memos of waits that the code has got: what came by them too is not unread.
    """
    events = [(event_id, position) for position, memo in dropped if (event_id := _event_of(memo))]
    read = {_event_of(memo) for memo in received} if events else set[str]()
    return [(event_id, position) for event_id, position in events if event_id not in read]


def _event_of(memo: Memo) -> str:
    """The id of the event that has ended a wait; ``""``: none has."""
    is_event = memo.detail.get("outcome") == "came" and isinstance(memo.data, dict)
    return str(memo.data.get("id", "")) if is_event else ""


_ID = re.compile(rb'"id":("(?:[^"\\]|\\.){0,10000}")')
_MAX_REPEATS = 1_000


def _memo_of(text: bytes, key: str) -> str:
    """What a corrupt memo is: it names the step, if the text still has an id that belongs to the key."""
    for id_text in reversed(_ID.findall(text)):
        try:
            step_id = loads(id_text)
        except ValueError:
            continue
        if any(step_key(step_id, repeat) == key[:KEY_LENGTH] for repeat in range(_MAX_REPEATS)):
            return f"the memo of step {step_id[:100]!r}"
    return f"the memo of the step with key {key}" if key else "a memo"
