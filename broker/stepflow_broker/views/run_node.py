"""A member of a family of runs: what is shown of a run beside the one that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.transitions.runs import RunRecord, StepRecord
from stepflow_broker.views.invoke_view import Invoke
from stepflow_broker.views.times import iso
from stepflow_broker.views.wait_view import Wait, find_waits
from stepflow_engine.failure import Failure

__all__ = ["RunNode", "forgotten_node", "node_of"]


@dataclass(frozen=True, slots=True)
class RunNode:
    """A run of a family, without its event and its result, which may be large. Times are milliseconds since the epoch.

    Attributes:
        status: a `RunStatus`, or ``forgotten``: the run ended longer ago than its retention.
        reason: why it was skipped.
        blocked: why no worker can take it.
        failure: what ended it, or why its last attempt failed.
        served: whether a live worker serves its queue; ``None``: it has ended and needs none.
        invoke: the step of its parent that invoked it; ``None``: none did, or the parent is forgotten.
        waits: what its steps wait for besides its children, the one that is over first at the front.
        children: the runs that it invoked, those that it waits for first.
        hidden: how many more it invoked.
    """

    run_id: str
    app: str
    function: str
    queue: str
    status: str
    created_at: int | None
    started_at: int | None
    ended_at: int | None
    reason: str
    blocked: str
    failure: Failure | None
    served: bool | None
    invoke: Invoke | None
    waits: tuple[Wait, ...] = ()
    children: tuple[RunNode, ...] = ()
    hidden: int = 0

    @property
    def name(self) -> str:
        """``app/function``."""
        return f"{self.app}/{self.function}"

    def to_json(self) -> dict[str, Any]:
        """The fields that scripts get: of the run, and of the step that invoked it."""
        return {
            "step": self.invoke.step_id if self.invoke else None,
            "outcome": self.invoke.outcome if self.invoke else None,
            "waits_until": iso(self.invoke.waits_until) if self.invoke else None,
            "run_id": self.run_id,
            "app": self.app,
            "function": self.function,
            "queue": self.queue or None,
            "served": self.served,
            "status": self.status,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "blocked": self.blocked or None,
            "reason": self.reason or None,
            "error": self.failure.to_json() if self.failure else None,
            "waits": [wait.named_json() for wait in self.waits],
            "children": [child.to_json() for child in self.children],
            "children_not_shown": self.hidden,
        }


def node_of(run: RunRecord, queues: frozenset[str], pending: Sequence[StepRecord] = ()) -> RunNode:
    """What is shown of a run.

    Args:
        queues: those that live workers serve.
        pending: its steps that have not ended.
    """
    return RunNode(
        run_id=run.id,
        app=run.app,
        function=run.function,
        queue=run.queue,
        status=run.status,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        reason=run.reason,
        blocked=run.blocked,
        failure=run.failure,
        served=None if run.status.ended else run.queue in queues,
        invoke=None,
        waits=find_waits(pending),
    )


def forgotten_node(run_id: str, name: str) -> RunNode:
    """A run of which only a memo of its parent tells."""
    app, _, function = name.partition("/")
    return RunNode(run_id, app, function, "", "forgotten", None, None, None, "", "", None, None, None)
