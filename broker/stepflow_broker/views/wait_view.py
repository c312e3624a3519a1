"""Waits: the steps of a run that wait, or have waited, for a time or for an event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stepflow_broker.registry.event_filter import EventFilter
from stepflow_broker.transitions.runs import StepRecord
from stepflow_broker.views.times import iso
from stepflow_engine.codec import loads
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.memo import Memo

__all__ = ["WAITING", "Wait", "ended_wait", "find_waits", "pending_wait"]

WAITING = "waiting"
_KINDS = ("sleep", "wait")


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that waits for a time, or for an event until a time. Times are milliseconds since the epoch.

    Attributes:
        key, step_id: the step.
        event: the name of the event that it waits for; ``""``: it sleeps.
        match: at which paths that event must have given values; known while it waits.
        condition: an expression that must hold as well; ``""``: none; known while it waits.
        outcome: ``waiting``, or what ended it: ``time`` or ``came`` (the event).
        started_at: when it was first asked for.
        until: when it is over at the latest; ``None``: it has ended.
    """

    key: str
    step_id: str
    event: str
    match: tuple[str, ...]
    condition: str
    outcome: str
    started_at: int | None = None
    until: int | None = None

    @property
    def kind(self) -> str:
        """As in memos."""
        return "wait" if self.event else "sleep"

    def to_json(self) -> dict[str, Any]:
        """The fields that scripts get of the wait itself; its step has the others."""
        return {
            "event": self.event or None,
            "match": list(self.match),
            "if": self.condition or None,
            "outcome": self.outcome,
            "until": iso(self.until),
        }

    def named_json(self) -> dict[str, Any]:
        """The same where its step is not told."""
        return {"step": self.step_id, "kind": self.kind, **self.to_json()}


def find_waits(pending: Iterable[StepRecord]) -> tuple[Wait, ...]:
    """The waits among the steps of a run that have not ended, the one that is over first at the front."""
    found = [wait for step in pending if (wait := pending_wait(step)) is not None]
    return tuple(sorted(found, key=lambda wait: (wait.until or 0, wait.step_id)))


def pending_wait(step: StepRecord) -> Wait | None:
    """The wait that a step is in; ``None`` for one with a handler, and for one that waits for a child."""
    if step.state != WAITING or step.child:
        return None
    detail = _detail(step)
    paths, condition = step.index.partition("\n")[0], ""
    if step.condition:
        looked_at = EventFilter.from_json(step.condition)
        paths, condition = looked_at.paths, looked_at.expression
    match = tuple(filter(None, paths.split(",")))
    event, started_at = detail.get("event", ""), detail.get("started_at")
    return Wait(step.key, step.id, event, match, condition, WAITING, started_at, step.due_at)


def _detail(step: StepRecord) -> dict[str, Any]:
    try:
        detail: dict[str, Any] = loads(b"{" + step.detail) if step.detail else {}
    except ValueError as error:
        raise CorruptDataError(f"step {step.id!r}", error) from None
    return detail


def ended_wait(key: str, memo: Memo) -> Wait | None:
    """The wait that a memo is the end of; ``None`` for a memo of another step."""
    detail = memo.detail
    if detail.get("kind") not in _KINDS:
        return None
    outcome, started_at = detail.get("outcome", ""), detail.get("started_at")
    return Wait(key, memo.id or key, detail.get("event", ""), (), "", outcome, started_at)
