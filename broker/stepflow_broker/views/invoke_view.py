"""Invokes: the steps of a run that wait, or have waited, for runs of other functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.transitions.runs import StepRecord
from stepflow_broker.views.times import iso
from stepflow_engine.memo import Memo

__all__ = ["Invoke", "find_invokes"]

WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Invoke:
    """A step that invoked a function.

    Attributes:
        key, step_id: the step.
        function: ``app/function``; ``""`` while it waits, when only the child says so.
        run_id: the child; ``""``: there is none, because the function could not be invoked.
        outcome: ``waiting``, or how the wait ended: ``completed``, ``failed``, ``cancelled``, ``skipped``, ``timeout``,
            ``not_found``.
        waits_until: when the wait is over at the latest, in milliseconds since the epoch; ``None``: it has ended.
    """

    key: str
    step_id: str
    function: str
    run_id: str
    outcome: str
    waits_until: int | None = None

    @property
    def waiting(self) -> bool:
        """Whether the step still waits."""
        return self.outcome == WAITING

    def to_json(self) -> dict[str, Any]:
        """The fields that scripts get."""
        return {
            "function": self.function or None,
            "run_id": self.run_id or None,
            "outcome": self.outcome,
            "waits_until": iso(self.waits_until),
        }


def find_invokes(memos: Iterable[tuple[str, Memo]], pending: Sequence[StepRecord]) -> list[Invoke]:
    """The invokes among the steps of a run: those that wait, then those that ended badly, then the others."""
    ended = {key: invoke for key, memo in memos if (invoke := ended_invoke(key, memo)) is not None}
    waiting = [invoke for step in pending if step.key not in ended and (invoke := waiting_invoke(step)) is not None]
    waiting.sort(key=lambda invoke: (invoke.waits_until or 0, invoke.step_id))
    return waiting + sorted(ended.values(), key=lambda invoke: invoke.outcome == "completed")


def ended_invoke(key: str, memo: Memo) -> Invoke | None:
    """The invoke that a memo is the end of; ``None`` for a memo of another step."""
    detail = memo.detail
    if detail.get("kind") != "invoke":
        return None
    return Invoke(key, memo.id or key, detail.get("function", ""), detail.get("run_id", ""), detail.get("outcome", ""))


def waiting_invoke(step: StepRecord) -> Invoke | None:
    """The invoke that a step waits in; ``None`` for a step that waits for no child."""
    return Invoke(step.key, step.id, "", step.child, WAITING, step.due_at) if step.child else None
