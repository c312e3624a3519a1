"""The steps of one run, as they are shown: those that have ended, then those that have not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.runs import StepRecord
from stepflow_cli.show import iso
from stepflow_engine.failure import Failure
from stepflow_engine.memo import read_memo

__all__ = ["StepLine", "step_lines"]


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step. Times are milliseconds since the epoch.

    Attributes:
        state: ``done``, ``failed``, ``running``, ``queued``, ``retrying`` or ``delayed``.
        attempts: those that were begun and, for a step that has not ended, have failed.
        worker: which executed it last, or executes it.
        due_at: when the next attempt is due.
        failure: why it failed, or its last attempt did.
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

    def to_json(self) -> dict[str, Any]:
        """The fields that scripts get."""
        return {
            "id": self.id,
            "key": self.key,
            "state": self.state,
            "attempts": self.attempts,
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "due_at": iso(self.due_at),
            "worker": self.worker or None,
            "result": self.result,
            "error": self.failure.to_json() if self.failure else None,
        }


def step_lines(memos: Sequence[tuple[str, bytes]], pending: Sequence[StepRecord]) -> list[StepLine]:
    """All steps of a run: those with memos in recorded order, then the others by their id."""
    ended = [_ended(key, text) for key, text in memos]
    known = {line.key for line in ended}
    return ended + [_pending(step) for step in sorted(pending, key=lambda step: step.id) if step.key not in known]


def _ended(key: str, text: bytes) -> StepLine:
    memo = read_memo(text)
    return StepLine(
        id=memo.id or key,
        key=key,
        state="failed" if memo.failure else "done",
        attempts=memo.detail.get("attempts", 1),
        started_at=memo.detail.get("started_at"),
        ended_at=memo.detail.get("ended_at"),
        worker=memo.detail.get("worker", ""),
        result=memo.data,
        failure=memo.failure,
    )


def _pending(step: StepRecord) -> StepLine:
    states = {"leased": "running", "delayed": "retrying" if step.attempts else "delayed"}
    return StepLine(
        id=step.id,
        key=step.key,
        state=states.get(step.state, step.state),
        attempts=step.attempts,
        due_at=step.due_at,
        worker=step.owner,
        failure=step.failure,
    )
