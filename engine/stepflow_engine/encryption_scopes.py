"""The payloads of a run that are sealed, and the scope of each.

==================  ====================================  ==========================================
payload             scope                                 stored in
==================  ====================================  ==========================================
an event's data     ``event``, the event's id             streams, runs, memos of waits
a wait's values     ``wait``, run, step key               the waiting step, its memo
a step's result     ``step``, run, step key               its memo
a step's failure    ``step failure``, run, step key       its memo, or its record
a heartbeat         ``heartbeat``, run, step key          the attempts of the run
a signal's data     ``signal``, run, the signal's id      the signals of the run, the memo of the wait
an ask's schema     ``ask``, run, step key                the waiting step, its memo
a map's failures    ``map failures``, run, step key       its memo
a run's values      ``values``, run                       the run
a run's output      ``output``, run                       the run, the memo of its parent
a run's failure     ``failure``, run                      the run, the memo of its parent
a schedule's data   ``schedule``, app/schedule            the schedule
==================  ====================================  ==========================================

A script copies the end of a child into the memo of its parent. Its scope stays that of the child, whose id follows from
the run and the step of the parent. The end of a batch is copied to all of its runs, so its scope has the function only:
``batch output`` and ``batch failure``, function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stepflow_engine.cipher import MARK, Cipher, Scope, is_sealed
from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import CorruptDataError, DecryptionError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for, with_partition_prefix
from stepflow_engine.memo import Memo, memo_of_data, memo_of_error, read_memo
from stepflow_engine.run_events import CANCELLED
from stepflow_engine.steps import StepKind

__all__ = [
    "ENCRYPTED",
    "ask_scope",
    "detail_scopes",
    "end_scope",
    "end_scopes",
    "event_scope",
    "heartbeat_scope",
    "map_failures_scope",
    "open_event",
    "open_event_text",
    "open_failure",
    "open_memo",
    "open_signal",
    "read_event",
    "redacted",
    "redacted_detail",
    "redacted_event",
    "redacted_failure",
    "redacted_memo",
    "reseal_memo",
    "result_scope",
    "schedule_scope",
    "seal_failure",
    "signal_scope",
    "step_scope",
    "values_scope",
    "wait_scope",
]

ENCRYPTED = "encrypted"
"""The text that is shown instead of a payload that cannot be opened."""
_EVENT_FIELDS = (("name", str), ("id", str), ("ts", int))
_SEALED_DATA = b'"data":{"%b":' % MARK.encode()


def event_scope(event_id: str) -> Scope:
    """The scope of the data of an event."""
    return ("event", event_id)


def step_scope(run_id: str, key: str, *, failed: bool = False) -> Scope:
    """The scope of the result or the failure of a step."""
    return ("step failure" if failed else "step", run_id, key)


def heartbeat_scope(run_id: str, key: str) -> Scope:
    """The scope of the detail of a heartbeat."""
    return ("heartbeat", run_id, key)


def wait_scope(run_id: str, key: str) -> Scope:
    """The scope of the values that a wait compares with those of events."""
    return ("wait", run_id, key)


def schedule_scope(name: str) -> Scope:
    """The scope of the data of a schedule (``app/schedule``)."""
    return ("schedule", name)


def signal_scope(run_id: str, signal_id: str) -> Scope:
    """The scope of the data of a signal."""
    return ("signal", run_id, signal_id)


def ask_scope(run_id: str, key: str) -> Scope:
    """The scope of the JSON schema of an ask. Its answer has the scope of a result of the step."""
    return ("ask", run_id, key)


def map_failures_scope(run_id: str, key: str) -> Scope:
    """The scope of the failures of the items of a map. Its results have the scope of a result of the step."""
    return ("map failures", run_id, key)


def values_scope(run_id: str) -> Scope:
    """The scope of the values that the code of a run has set."""
    return ("values", run_id)


def cache_scope(digest: str) -> Scope:
    """The scope of a cached result of a step, by the digest under which it is stored."""
    return ("cached", digest)


def detail_scopes(run_id: str, key: str) -> dict[str, Scope]:
    """The fields of the detail of a waiting step, or of a memo, that are sealed, and the scope of each."""
    return {
        "match": wait_scope(run_id, key),
        "schema": ask_scope(run_id, key),
        "failures": map_failures_scope(run_id, key),
    }


def end_scope(run_id: str, function: str, *, failed: bool, batched: bool) -> Scope:
    """The scope of the output or the failure of a run; ``function`` is ``app/id``."""
    kind = "failure" if failed else "output"
    return (f"batch {kind}", function) if batched else (kind, run_id)


def end_scopes(run_id: str, function: str, *, failed: bool) -> tuple[Scope, Scope]:
    """The two scopes of a run that may be part of a batch, for a caller that does not know."""
    return (
        end_scope(run_id, function, failed=failed, batched=False),
        end_scope(run_id, function, failed=failed, batched=True),
    )


# -- events --------------------------------------------------------------------


def read_event(text: bytes, what: str = "an event") -> dict[str, Any]:
    """Parse the JSON text of an event. Its data is not opened.

    Args:
        what: what the text is, for the error.

    Raises:
        CorruptDataError: the text is not an event.
    """
    try:
        event = loads(text)
    except ValueError as error:
        raise CorruptDataError(what, error) from None
    if not isinstance(event, dict) or "data" not in event:
        raise CorruptDataError(what, "not an object with data")
    for name, kind in _EVENT_FIELDS:
        if type(event.get(name)) is not kind:
            raise CorruptDataError(what, f"its {name} is not a {kind.__name__}")
    return event


def open_event(cipher: Cipher, event: dict[str, Any]) -> dict[str, Any]:
    """A parsed event with its data opened.

    Raises:
        DecryptionError: the data cannot be opened.
        CorruptDataError: the value is not an event.
    """
    if "data" not in event or not isinstance(event.get("id"), str):
        raise CorruptDataError("an event", "it has no data or no id")
    if is_sealed(event["data"]):
        return {**event, "data": cipher.open(event["data"], event_scope(event["id"]))}
    reported = _reported_event(event)
    if reported is None:
        return event
    return {**event, "data": {**event["data"], "event": open_event(cipher, reported)}}


def _reported_event(event: dict[str, Any]) -> dict[str, Any] | None:
    """The event of the run that an event reports as cancelled, if its data is sealed; ``None``: there is none.

    A script writes the event of a cancelled run, so its data is not sealed as a whole, and the run's own event is in it
    as it was stored. The run may itself have been started by such an event, but what that reports stays sealed. The
    event may also come from elsewhere and have any form.
    """
    data = event["data"]
    reported = data.get("event") if event.get("name") == CANCELLED and isinstance(data, dict) else None
    if isinstance(reported, dict) and isinstance(reported.get("id"), str) and is_sealed(reported.get("data")):
        return reported
    return None


def open_event_text(cipher: Cipher, text: bytes) -> bytes:
    """The JSON text of an event with its data opened; see `open_event`."""
    return dumps(open_event(cipher, read_event(text))) if _SEALED_DATA in text else text


def open_signal(cipher: Cipher, run_id: str, signal: dict[str, Any]) -> dict[str, Any]:
    """A parsed signal with its data opened.

    Raises:
        DecryptionError: the data cannot be opened.
        CorruptDataError: the value is not a signal.
    """
    if "data" not in signal or not isinstance(signal.get("id"), str):
        raise CorruptDataError("a signal", "it has no data or no id")
    if not is_sealed(signal["data"]):
        return signal
    return {**signal, "data": cipher.open(signal["data"], signal_scope(run_id, signal["id"]))}


# -- failures ------------------------------------------------------------------


def seal_failure(cipher: Cipher, failure: Failure, scope: Scope) -> bytes:
    """The JSON text of a failure, with all but its name sealed."""
    text = dumps(failure.to_json())
    if not cipher.encrypts:
        return text
    return dumps({"name": failure.name, "message": ENCRYPTED})[:-1] + b"," + cipher.seal(text, scope)[1:]


def open_failure(cipher: Cipher, failure: Failure, *scopes: Scope) -> Failure:
    """A failure with its message, traceback and cause opened.

    Raises:
        DecryptionError: the failure cannot be opened.
    """
    if not failure.sealed:
        return failure
    return Failure.from_json(cipher.open({MARK: failure.sealed}, *scopes))


# -- memos ---------------------------------------------------------------------


def open_memo(cipher: Cipher, run_id: str, key: str, memo: Memo) -> Memo:
    """A memo with its result or failure opened.

    Raises:
        DecryptionError: the memo cannot be opened.
        CorruptDataError: the memo is not one of its kind.
    """
    if memo.failure is not None:
        opened = _with_open_items(cipher, run_id, key, memo)
        if not memo.failure.sealed:
            return opened
        return replace(opened, failure=open_failure(cipher, memo.failure, *_scopes(run_id, key, memo, failed=True)))
    match memo.detail.get("kind"):
        case StepKind.SLEEP | StepKind.SEND | StepKind.START:
            return memo
        case StepKind.WAIT:
            return replace(memo, data=open_event(cipher, memo.data)) if isinstance(memo.data, dict) else memo
        case StepKind.SIGNAL:
            is_open = not (isinstance(memo.data, dict) and is_sealed(memo.data.get("data")))
            return memo if is_open else replace(memo, data=open_signal(cipher, run_id, memo.data))
        case StepKind.MAP:
            memo = _with_open_items(cipher, run_id, key, memo)
    if is_sealed(memo.data):
        return replace(memo, data=cipher.open(memo.data, *_scopes(run_id, key, memo, failed=False)))
    return memo


def _with_open_items(cipher: Cipher, run_id: str, key: str, memo: Memo) -> Memo:
    """The memo of a map with the failures of its items opened, any other memo as it is."""
    failures = memo.detail.get("failures")
    if not is_sealed(failures):
        return memo
    return replace(memo, detail={**memo.detail, "failures": cipher.open(failures, map_failures_scope(run_id, key))})


def result_scope(run_id: str, key: str, memo: Memo) -> Scope:
    """The scope in which the result or the failure of a ``run`` or ``invoke`` step is sealed."""
    return _scopes(run_id, key, memo, failed=memo.failure is not None)[0]


def reseal_memo(cipher: Cipher, text: bytes, key: str, *, of: str, to: str) -> bytes:
    """The text of a memo for another run; ``b""``: the same text is valid there.

    Args:
        cipher: opens and seals.
        text: the text of the memo.
        key: the key of its step.
        of: the run that has the memo.
        to: the run that gets it.

    Raises:
        DecryptionError: the memo cannot be opened.
        CorruptDataError: the text is not a memo.
    """
    sealed = read_memo(text)
    resealed = _resealed_detail(cipher, sealed.detail, key, of=of, to=to)
    detail, is_event = {"id": sealed.id, **resealed}, sealed.detail.get("kind") == StepKind.WAIT
    memo = sealed if is_event else open_memo(cipher, of, key, sealed)  # the data of an event is bound to the event
    if memo is sealed:
        return memo_of_data(dumps(memo.data), detail) if resealed != sealed.detail else b""
    if memo.detail.get("kind") == StepKind.SIGNAL:
        return memo_of_data(_resealed_signal(cipher, memo.data, to), detail)
    scope = result_scope(to, key, memo)
    if memo.failure is not None:
        return memo_of_error(seal_failure(cipher, memo.failure, scope), detail)
    return memo_of_data(cipher.seal(dumps(memo.data), scope), detail)


def _resealed_detail(cipher: Cipher, detail: dict[str, Any], key: str, *, of: str, to: str) -> dict[str, Any]:
    """The detail of a memo, with what is sealed in it bound to another run."""
    scopes, new = detail_scopes(of, key), detail_scopes(to, key)
    sealed = {name: detail[name] for name in scopes if is_sealed(detail.get(name))}
    resealed = {
        name: loads(cipher.seal(dumps(cipher.open(value, scopes[name])), new[name])) for name, value in sealed.items()
    }
    return {**detail, **resealed}


def _resealed_signal(cipher: Cipher, signal: dict[str, Any], run_id: str) -> bytes:
    """The text of an opened signal, with its data bound to a run."""
    head = dumps({name: value for name, value in signal.items() if name != "data"})
    return head[:-1] + b',"data":' + cipher.seal(dumps(signal["data"]), signal_scope(run_id, signal["id"])) + b"}"


def _scopes(run_id: str, key: str, memo: Memo, *, failed: bool) -> tuple[Scope, ...]:
    if memo.detail.get("kind") == StepKind.INVOKE:
        function, child = str(memo.detail.get("function", "")), run_id_for(run_id, key)
        local = with_partition_prefix(run_id, child)
        remote = with_partition_prefix(str(memo.detail.get("run_id", "")), child)
        return (*end_scopes(local, function, failed=failed), *end_scopes(remote, function, failed=failed))
    return (step_scope(run_id, key, failed=failed),)


# -- for display --------------------------------------------------------------


def redacted(cipher: Cipher, value: Any, *scopes: Scope) -> Any:
    """A payload; ``"encrypted"`` if it cannot be opened."""
    try:
        return cipher.open(value, *scopes)
    except DecryptionError:
        return ENCRYPTED


def redacted_event(cipher: Cipher, event: dict[str, Any]) -> dict[str, Any]:
    """A parsed event with its data, or that of the event that it reports, as in `redacted`."""
    reported = _reported_event(event)
    if reported is not None:
        return {**event, "data": {**event["data"], "event": redacted_event(cipher, reported)}}
    return {**event, "data": redacted(cipher, event["data"], event_scope(event["id"]))}


def redacted_failure(cipher: Cipher, failure: Failure | None, *scopes: Scope) -> Failure | None:
    """A failure; only its name if it cannot be opened."""
    try:
        return None if failure is None else open_failure(cipher, failure, *scopes)
    except DecryptionError:
        return replace(failure, sealed="") if failure else None


def redacted_detail(cipher: Cipher, run_id: str, key: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    """The detail of a waiting step, or of its memo, with what is sealed in it opened, or ``"encrypted"``."""
    sealed = {name: scope for name, scope in detail_scopes(run_id, key).items() if is_sealed(detail.get(name))}
    return {**detail, **{name: redacted(cipher, detail[name], scope) for name, scope in sealed.items()}}


def redacted_memo(cipher: Cipher, run_id: str, key: str, memo: Memo) -> Memo:
    """A memo; if it cannot be opened, with a payload as in `redacted` or a failure as in `redacted_failure`."""
    memo = replace(memo, detail=redacted_detail(cipher, run_id, key, memo.detail))
    try:
        return open_memo(cipher, run_id, key, memo)
    except DecryptionError:
        if memo.detail.get("kind") in (StepKind.WAIT, StepKind.SIGNAL) and isinstance(memo.data, dict):
            return replace(memo, data={**memo.data, "data": ENCRYPTED})
        return memo if memo.failure is not None else replace(memo, data=ENCRYPTED)
