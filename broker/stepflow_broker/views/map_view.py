"""Maps: the steps of a run that call a handler, or invoke a function, for each of many items."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_engine.memo import Memo
from stepflow_engine.steps import StepKind

__all__ = ["MapProgress", "ended_map", "pending_map"]


@dataclass(frozen=True, slots=True)
class MapProgress:
    """How far a step of ``step.map`` is.

    Attributes:
        count: how many items it has.
        completed: how many of them have a result.
        failed: how many have failed.
        open: how many were handed out and have not ended: they are ready, execute, or wait for a child or a retry.

    Example::

        percent = [100 * step.map.completed / step.map.count for step in run.steps() if step.map]
    """

    count: int
    completed: int
    failed: int
    open: int = 0

    @property
    def left(self) -> int:
        """How many items have not been handed out."""
        return self.count - self.completed - self.failed - self.open

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return asdict(self)


def ended_map(memo: Memo) -> MapProgress | None:
    """The map that a memo records; ``None`` if the memo is of another kind of step."""
    detail = memo.detail
    if detail.get("kind") != StepKind.MAP:
        return None
    return MapProgress(detail.get("count", 0), detail.get("completed", 0), detail.get("failed", 0))


def pending_map(step: StepRecord) -> MapProgress | None:
    """The map that a step is; ``None`` for any other step."""
    items = step.items
    if items is None:
        return None
    return MapProgress(items.count, items.begun - items.open - items.failed, items.failed, items.open)
