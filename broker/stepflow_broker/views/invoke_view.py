"""Invoke steps: the steps of a run that wait, or waited, for a run of another function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.transitions.runs.attempts import UNFINISHED, AttemptRecord
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_broker.views.times import iso
from stepflow_engine.memo import Memo
from stepflow_engine.steps import StepKind

__all__ = ["InvokeView", "ended_invoke", "find_invokes", "unfinished_invoke", "waiting_invoke"]

WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class InvokeView:
    """A step that invoked a function.

    Attributes:
        key, step_id: the key and the id of the step.
        function: ``app/function``; ``""`` while the step waits: the child has the name.
        run_id: the child; ``""``: there is none, because the function was not found.
        outcome: ``waiting``, or how the wait ended: ``completed``, ``failed``, ``cancelled``, ``skipped``, ``timeout``,
            ``not_found``, or ``unfinished`` (the run has ended without the end of the child, or its code has cancelled
            the step).
        waits_until: the timeout of the wait, in milliseconds since the epoch; ``None``: the wait has ended.
    """

    key: str
    step_id: str
    function: str
    run_id: str
    outcome: str
    waits_until: int | None = None

    @property
    def waiting(self) -> bool:
        """Whether the wait has not ended."""
        return self.outcome == WAITING

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "function": self.function or None,
            "run_id": self.run_id or None,
            "outcome": self.outcome,
            "waits_until": iso(self.waits_until),
        }


def find_invokes(
    memos: Iterable[tuple[str, Memo]], pending: Sequence[StepRecord], attempts: Iterable[AttemptRecord] = ()
) -> list[InvokeView]:
    """The invoke steps of a run: those that wait, then those that did not complete, then those that did.

    Also those items of maps that have failed, or have not ended.
    """
    stored = list(memos)
    found = [_started_child(memo) for _, memo in stored]
    found += [waiting_invoke(step) for step in pending]
    found += [unfinished_invoke(attempt) for attempt in attempts]
    found += [ended_invoke(key, memo) for key, memo in stored]
    known = {invoke.key: invoke for invoke in found if invoke is not None}.values()  # of a step, the last
    waiting = [invoke for invoke in known if invoke.waiting]
    waiting.sort(key=lambda invoke: (invoke.waits_until or 0, invoke.step_id))
    rest = [invoke for invoke in known if not invoke.waiting]
    rest += [invoke for key, memo in stored for invoke in _failed_items(key, memo)]
    return waiting + sorted(rest, key=lambda invoke: invoke.outcome == "completed")


def _started_child(memo: Memo) -> InvokeView | None:
    """The wait for the child that a step has started, as if nothing else was known of it."""
    detail = memo.detail
    if detail.get("kind") != StepKind.START or memo.failure is not None:
        return None
    return InvokeView(
        detail.get("end_key", ""), memo.id, detail.get("function", ""), detail.get("run_id", ""), UNFINISHED
    )


def _failed_items(key: str, memo: Memo) -> Iterator[InvokeView]:
    """The runs of the items that have failed, of a map that has invoked a function."""
    failures = memo.detail.get("failures") if memo.detail.get("kind") == StepKind.MAP else None
    for one in failures if isinstance(failures, list) else ():  # encrypted failures are none
        if one.get("run_id"):
            item_id = f"{memo.id}[{one['index']}]"
            yield InvokeView(key, item_id, one.get("function", ""), one["run_id"], one.get("outcome", ""))


def ended_invoke(key: str, memo: Memo) -> InvokeView | None:
    """The invoke step that a memo records; ``None`` if the memo is of another kind of step."""
    detail = memo.detail
    if detail.get("kind") != StepKind.INVOKE:
        return None
    return InvokeView(
        key, memo.id or key, detail.get("function", ""), detail.get("run_id", ""), detail.get("outcome", "")
    )


def waiting_invoke(step: StepRecord) -> InvokeView | None:
    """The view of a step that waits for a child; ``None`` for any other step."""
    return InvokeView(step.key, step.id, "", step.child, WAITING, step.due_at) if step.child else None


def unfinished_invoke(attempt: AttemptRecord) -> InvokeView | None:
    """The view of a step that waited for a child when its run ended; ``None`` for any other step."""
    detail = attempt.detail
    if detail.get("kind") != StepKind.INVOKE:
        return None
    return InvokeView(attempt.key, attempt.step_id, detail.get("function", ""), detail.get("run_id", ""), UNFINISHED)
