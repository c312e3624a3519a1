"""Sleeps and event waits: the steps of a run that wait, or waited, for a time or an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_broker.registry.event_filter import EventFilter
from stepflow_broker.transitions.runs.attempts import UNFINISHED, AttemptRecord
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_broker.views.times import iso
from stepflow_engine.cipher import is_sealed
from stepflow_engine.codec import loads
from stepflow_engine.encryption_scopes import ENCRYPTED
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.memo import Memo
from stepflow_engine.steps import StepKind

__all__ = ["WAITING", "WaitView", "ended_wait", "find_waits", "pending_wait", "unfinished_wait"]

WAITING = "waiting"
_KINDS = (StepKind.SLEEP, StepKind.WAIT, StepKind.SIGNAL, StepKind.ASK)


@dataclass(frozen=True, slots=True)
class WaitView:
    """A step that waits for a time, or until then for an event, a signal or an answer. Times are ms since the epoch.

    Attributes:
        key, step_id: the key and the id of the step.
        event: the name of the event; ``""``: the step waits for something else.
        match: the paths at which the event must match.
        condition: a CEL expression on the event; ``""``: none; known only while the step waits.
        outcome: ``waiting``, or what ended the wait: ``time``, ``came`` for the event or the signal, ``answered``, or
            ``unfinished`` (its run was cancelled, or failed).
        started_at: when the code first reached the step.
        until: when the wait ends at the latest; ``None``: it has ended.
        values: path → the value that the event must have there; ``"encrypted"``: this process does not have the key;
            ``None``: there are none, they are long, or an older worker began the wait.
        event_id, event_ts: the event that ended the wait: its id, and its time.
        kind: ``wait``, ``sleep``, ``signal`` or ``ask``, as in memos.
        signal: the name of the signal; ``""``: the step waits for something else.
        to: whom an ask is for; ``""``: anybody.
        schema: the JSON schema of the answer to an ask; ``"encrypted"``: this process does not have the key.
        answered_by: who has answered; ``""``: nobody.
    """

    key: str
    step_id: str
    event: str
    match: tuple[str, ...]
    condition: str
    outcome: str
    started_at: int | None = None
    until: int | None = None
    values: Any = None
    event_id: str = ""
    event_ts: int | None = None
    kind: StepKind = StepKind.SLEEP
    signal: str = ""
    to: str = ""
    schema: Any = None
    answered_by: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output. The step has the others."""
        return {
            "event": self.event or None,
            "match": list(self.match),
            "values": self.values,
            "if": self.condition or None,
            "outcome": self.outcome,
            "until": iso(self.until),
            "event_id": self.event_id or None,
            "event_at": iso(self.event_ts),
            "signal": self.signal or None,
            "to": self.to or None,
            "schema": self.schema,
            "answered_by": self.answered_by or None,
        }

    def to_json_with_step(self) -> dict[str, Any]:
        """The fields of the JSON output where the step is not part of it."""
        return {"step": self.step_id, "kind": self.kind, **self.to_json()}


def find_waits(pending: Iterable[StepRecord]) -> tuple[WaitView, ...]:
    """The waits for anything but a child among the pending steps of a run, the one that ends first at the front."""
    found = [wait for step in pending if (wait := pending_wait(step)) is not None]
    return tuple(sorted(found, key=lambda wait: (wait.until or 0, wait.step_id)))


def pending_wait(step: StepRecord) -> WaitView | None:
    """The view of a step that waits for anything but a child; ``None`` for any other step."""
    if step.state != WAITING or step.child:
        return None
    detail = _detail(step)
    paths, condition = step.index.partition("\n")[0] if detail.get("event") else "", ""
    if step.condition:
        event_filter = EventFilter.from_json(step.condition)
        paths, condition = event_filter.paths, event_filter.expression
    match = tuple(filter(None, paths.split(",")))
    event, started_at = detail.get("event", ""), detail.get("started_at")
    return WaitView(
        step.key,
        step.id,
        event,
        match,
        condition,
        WAITING,
        started_at,
        step.due_at,
        _values(detail),
        **_of_other_kinds(detail),
    )


def _detail(step: StepRecord) -> dict[str, Any]:
    try:
        detail: dict[str, Any] = loads(b"{" + step.detail) if step.detail else {}
    except ValueError as error:
        raise CorruptDataError(f"step {step.id!r}", error) from None
    return detail


def ended_wait(key: str, memo: Memo) -> WaitView | None:
    """The wait that a memo records; ``None`` if the memo is of another kind of step."""
    detail = memo.detail
    if detail.get("kind") not in _KINDS:
        return None
    event = memo.data if isinstance(memo.data, dict) else {}
    is_event = detail["kind"] == StepKind.WAIT
    return WaitView(
        key,
        memo.id or key,
        detail.get("event", ""),
        _paths(detail),
        "",
        detail.get("outcome", ""),
        detail.get("started_at"),
        values=_values(detail),
        event_id=str(event.get("id") or "") if is_event else "",
        event_ts=event.get("ts") if is_event else None,
        **_of_other_kinds(detail),
    )


def unfinished_wait(attempt: AttemptRecord) -> WaitView | None:
    """The wait that had not ended when its run ended; ``None`` for a step of another kind."""
    detail = attempt.detail
    if detail.get("kind") not in _KINDS:
        return None
    return WaitView(
        attempt.key,
        attempt.step_id,
        detail.get("event", ""),
        _paths(detail),
        "",
        UNFINISHED,
        attempt.started_at,
        values=_values(detail),
        **_of_other_kinds(detail),
    )


def _of_other_kinds(detail: Mapping[str, Any]) -> dict[str, Any]:
    """What the detail of a wait for a signal or an answer has."""
    schema, kind = detail.get("schema"), detail.get("kind")
    return {
        "kind": StepKind(kind) if kind in _KINDS else StepKind.SLEEP,
        "signal": detail.get("signal", ""),
        "to": detail.get("to", ""),
        "schema": ENCRYPTED if is_sealed(schema) else schema,
        "answered_by": detail.get("answered_by", ""),
    }


def _values(detail: Mapping[str, Any]) -> Any:
    """The values that the event must have, as the detail of a wait stores them."""
    match = detail.get("match")
    return ENCRYPTED if is_sealed(match) else match


def _paths(detail: Mapping[str, Any]) -> tuple[str, ...]:
    match = detail.get("match")
    return tuple(match) if isinstance(match, dict) and not is_sealed(match) else ()
