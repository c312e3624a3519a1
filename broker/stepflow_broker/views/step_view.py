"""The steps of one run: those that have ended, then those that have not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.transitions.runs import StepRecord
from stepflow_broker.views.invoke_view import InvokeView, ended_invoke, waiting_invoke
from stepflow_broker.views.run_view import RunView
from stepflow_broker.views.times import iso
from stepflow_broker.views.wait_view import WaitView, ended_wait, pending_wait
from stepflow_engine.failure import Failure
from stepflow_engine.memo import Memo
from stepflow_engine.steps import StepKind

__all__ = ["StepView", "step_views"]


@dataclass(frozen=True, slots=True)
class StepView:
    """One step. Times are milliseconds since the epoch.

    Attributes:
        state: ``done``, ``failed``, ``running``, ``queued``, ``retrying``, ``delayed`` or ``waiting`` (for a child, a
            time or an event).
        attempts: how many attempts started; for a step that has not ended, how many failed.
        worker: the worker that executes it, or executed it last.
        due_at: when the next attempt is due.
        failure: the failure of the step, or of its last attempt.
        kind: ``run``, ``invoke``, ``sleep``, ``wait`` (for an event) or ``send``.
        invoke: the invoke; ``None`` for a step of another kind.
        wait: the sleep or event wait; ``None`` for a step of another kind.
    """

    id: str
    key: str
    state: str
    attempts: int
    started_at: int | None = None
    ended_at: int | None = None
    due_at: int | None = None
    worker: str = ""
    result: Any = None
    failure: Failure | None = None
    kind: str = StepKind.RUN
    invoke: InvokeView | None = None
    wait: WaitView | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "id": self.id,
            "key": self.key,
            "kind": self.kind,
            "state": self.state,
            "attempts": self.attempts,
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "due_at": iso(self.due_at),
            "worker": self.worker or None,
            "result": self.result,
            "error": self.failure.to_json() if self.failure else None,
            "invoke": self.invoke.to_json() if self.invoke else None,
            "wait": self.wait.to_json() if self.wait else None,
        }


def step_views(
    memos: Sequence[tuple[str, Memo]], pending: Sequence[StepRecord], children: Mapping[str, RunView]
) -> list[StepView]:
    """All steps of a run: those with memos in the order of the memos, then the others by id.

    Args:
        children: the children of the run by id; an invoke step takes its times from its child.
    """
    ended = [_ended(key, memo, children) for key, memo in memos]
    known = {line.key for line in ended}
    left = [step for step in pending if step.key not in known]
    return ended + [_pending(step, children) for step in sorted(left, key=lambda step: step.id)]


def _ended(key: str, memo: Memo, children: Mapping[str, RunView]) -> StepView:
    invoke = ended_invoke(key, memo)
    child = children.get(invoke.run_id) if invoke and invoke.outcome != "timeout" else None
    return StepView(
        id=memo.id or key,
        key=key,
        state="failed" if memo.failure else "done",
        attempts=memo.detail.get("attempts", 1),
        started_at=memo.detail.get("started_at"),
        ended_at=child.ended_at if child else memo.detail.get("ended_at"),
        worker=memo.detail.get("worker", ""),
        result=memo.data,
        failure=memo.failure,
        kind=memo.detail.get("kind", StepKind.RUN),
        invoke=invoke,
        wait=ended_wait(key, memo),
    )


def _pending(step: StepRecord, children: Mapping[str, RunView]) -> StepView:
    states = {"leased": "running", "delayed": "retrying" if step.attempts else "delayed"}
    invoke, wait = waiting_invoke(step), pending_wait(step)
    child = children.get(step.child)
    waits = invoke is not None or wait is not None
    return StepView(
        id=step.id,
        key=step.key,
        state=states.get(step.state, step.state),
        attempts=1 if waits else step.attempts,
        started_at=child.created_at if child else wait.started_at if wait else None,
        due_at=None if waits else step.due_at,
        worker=step.owner,
        failure=step.failure,
        kind=wait.kind if wait else StepKind.INVOKE if invoke else StepKind.RUN,
        invoke=invoke,
        wait=wait,
    )
