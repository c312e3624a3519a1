"""Payloads: which of a run's texts are sealed, and where each belongs.

=================  ====================================  =================================
payload            scope                                 stored in
=================  ====================================  =================================
an event's data    ``event``, the event's id             streams, runs, memos of waits
a step's result    ``step``, run, step key               its memo
a step's failure   ``step failure``, run, step key       its memo, or its record
a run's output     ``output``, run                       the run, the memo of its parent
a run's failure    ``failure``, run                      the run, the memo of its parent
=================  ====================================  =================================

A run's end is moved into the memo of its parent by a script. It stays bound to the child, and whose child that is
follows from the parent's run and step. The end of a batch is copied to all runs in it, so it is bound to the batch's
function only: ``batch output`` and ``batch failure``, function.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stepflow_engine.cipher import MARK, Cipher, Scope, is_sealed
from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError, DecryptionError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for, with_partition_prefix
from stepflow_engine.memo import Memo

__all__ = [
    "ENCRYPTED",
    "end_scope",
    "end_scopes",
    "event_scope",
    "open_event",
    "open_event_text",
    "open_failure",
    "open_memo",
    "read_event",
    "redacted",
    "redacted_failure",
    "redacted_memo",
    "seal_failure",
    "step_scope",
]

ENCRYPTED = "encrypted"
"""What is shown in scope of what cannot be opened."""
_EVENT_FIELDS = (("name", str), ("id", str), ("ts", int))
_SEALED_DATA = b'"data":{"%b":' % MARK.encode()


def event_scope(event_id: str) -> Scope:
    """Where the data of an event belongs."""
    return ("event", event_id)


def step_scope(run_id: str, key: str, *, failed: bool = False) -> Scope:
    """Where the result or the failure of a step belongs."""
    return ("step failure" if failed else "step", run_id, key)


def end_scope(run_id: str, function: str, *, failed: bool, batched: bool) -> Scope:
    """Where the output or the failure of a run belongs; ``function`` is ``app/id``."""
    kind = "failure" if failed else "output"
    return (f"batch {kind}", function) if batched else (kind, run_id)


def end_scopes(run_id: str, function: str, *, failed: bool) -> tuple[Scope, Scope]:
    """Where it may belong, for who does not know whether the run was part of a batch."""
    return (
        end_scope(run_id, function, failed=failed, batched=False),
        end_scope(run_id, function, failed=failed, batched=True),
    )


# -- events --------------------------------------------------------------------


def read_event(text: bytes) -> dict[str, Any]:
    """An event of its JSON text, with name, id, time and data, which is not opened.

    Raises:
        CorruptDataError: it is none.
    """
    try:
        event = loads(text)
    except ValueError as error:
        raise CorruptDataError("an event", error) from None
    if not isinstance(event, dict) or "data" not in event:
        raise CorruptDataError("an event", "it is no object with data")
    for name, kind in _EVENT_FIELDS:
        if type(event.get(name)) is not kind:
            raise CorruptDataError("an event", f"its {name} is no {kind.__name__}")
    return event


def open_event(cipher: Cipher, event: dict[str, Any]) -> dict[str, Any]:
    """A parsed event with its data opened.

    Raises:
        DecryptionError: it cannot be opened.
        CorruptDataError: it is no event.
    """
    if "data" not in event or not isinstance(event.get("id"), str):
        raise CorruptDataError("an event", "it has no data or no id")
    if not is_sealed(event["data"]):
        return event
    return {**event, "data": cipher.open(event["data"], event_scope(event["id"]))}


def open_event_text(cipher: Cipher, text: bytes) -> bytes:
    """The JSON text of an event with its data opened; see `open_event`."""
    return dumps(open_event(cipher, read_event(text))) if _SEALED_DATA in text else text


# -- failures ------------------------------------------------------------------


def seal_failure(cipher: Cipher, failure: Failure, scope: Scope) -> bytes:
    """The JSON text of a failure, of which only the name can be read."""
    text = dumps(failure.to_json())
    if not cipher.encrypts:
        return text
    return dumps({"name": failure.name, "message": ENCRYPTED})[:-1] + b"," + cipher.seal(text, scope)[1:]


def open_failure(cipher: Cipher, failure: Failure, *scopes: Scope) -> Failure:
    """A failure with its message, traceback and cause.

    Raises:
        DecryptionError: it cannot be opened.
    """
    if not failure.sealed:
        return failure
    return Failure.from_json(cipher.open({MARK: failure.sealed}, *scopes))


# -- memos ---------------------------------------------------------------------


def open_memo(cipher: Cipher, run_id: str, key: str, memo: Memo) -> Memo:
    """A memo with what was sealed in it.

    Raises:
        DecryptionError: it cannot be opened.
        CorruptDataError: it is no memo of its kind.
    """
    if memo.failure is not None:
        if not memo.failure.sealed:
            return memo
        return replace(memo, failure=open_failure(cipher, memo.failure, *_places(run_id, key, memo, failed=True)))
    match memo.detail.get("kind"):
        case "sleep" | "send":
            return memo
        case "wait":
            return replace(memo, data=open_event(cipher, memo.data)) if isinstance(memo.data, dict) else memo
        case _ if is_sealed(memo.data):
            return replace(memo, data=cipher.open(memo.data, *_places(run_id, key, memo, failed=False)))
    return memo


def _places(run_id: str, key: str, memo: Memo, *, failed: bool) -> tuple[Scope, ...]:
    if memo.detail.get("kind") == "invoke":
        function, child = str(memo.detail.get("function", "")), run_id_for(run_id, key)
        near, away = (
            with_partition_prefix(run_id, child),
            with_partition_prefix(str(memo.detail.get("run_id", "")), child),
        )
        return (*end_scopes(near, function, failed=failed), *end_scopes(away, function, failed=failed))
    return (step_scope(run_id, key, failed=failed),)


# -- shown to people -----------------------------------------------------------


def redacted(cipher: Cipher, value: Any, *scopes: Scope) -> Any:
    """A payload, or, where it cannot be opened, the word ``encrypted``."""
    try:
        return cipher.open(value, *scopes)
    except DecryptionError:
        return ENCRYPTED


def redacted_failure(cipher: Cipher, failure: Failure | None, *scopes: Scope) -> Failure | None:
    """A failure, of which, where it cannot be opened, only the name is shown."""
    try:
        return None if failure is None else open_failure(cipher, failure, *scopes)
    except DecryptionError:
        return replace(failure, sealed="") if failure else None


def redacted_memo(cipher: Cipher, run_id: str, key: str, memo: Memo) -> Memo:
    """A memo; where it cannot be opened, as `shown` and `redacted_failure` say."""
    try:
        return open_memo(cipher, run_id, key, memo)
    except DecryptionError:
        if memo.detail.get("kind") == "wait" and isinstance(memo.data, dict):
            return replace(memo, data={**memo.data, "data": ENCRYPTED})
        return memo if memo.failure is not None else replace(memo, data=ENCRYPTED)
