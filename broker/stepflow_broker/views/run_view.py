"""The detail of one run: its record, its steps, and its family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.runs import RunRecord, StepRecord, read_memos, read_run, read_steps
from stepflow_broker.views.invoke_view import find_invokes
from stepflow_broker.views.run_tree import RunTree, read_run_tree
from stepflow_broker.views.step_view import StepView, step_views
from stepflow_broker.views.times import iso
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.encryption_scopes import (
    end_scopes,
    event_scope,
    redacted,
    redacted_failure,
    redacted_memo,
    step_scope,
)
from stepflow_engine.errors import RunNotFoundError
from stepflow_engine.memo import read_memo

__all__ = ["RunView", "read_run_view"]


@dataclass(frozen=True, slots=True)
class RunView:
    """What is known of a run."""

    run: RunRecord
    steps: list[StepView]
    family: RunTree

    def to_json(self) -> dict[str, Any]:
        """The fields that scripts get."""
        run, parent, member = self.run, self.family.parent, self.family.run.to_json()
        return {
            "run_id": run.id,
            "app": run.app,
            "function": run.function,
            "queue": run.queue,
            "served": member["served"],
            "status": run.status,
            "attempt": run.attempt,
            "created_at": iso(run.created_at),
            "started_at": iso(run.started_at),
            "ended_at": iso(run.ended_at),
            "due_at": iso(run.due_at),
            "worker": run.owner or None,
            "blocked": run.blocked or None,
            "reason": run.reason or None,
            "event": run.event,
            "output": run.output,
            "error": run.failure.to_json() if run.failure else None,
            "steps": [step.to_json() for step in self.steps],
            "parent": _parent_json(parent.to_json(), member) if parent else None,
            "children": member["children"],
            "children_not_shown": member["children_not_shown"],
        }


def _parent_json(parent: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """The parent without its children, and the step there that invoked the run."""
    for name in ("children", "children_not_shown"):
        del parent[name]
    return {**parent, **{name: run[name] for name in ("step", "outcome", "waits_until")}}


def read_run_view(broker: Broker, keys: Keys, run_id: str, *, depth: int, cipher: Cipher = NO_ENCRYPTION) -> RunView:
    """A run, its steps and its family. The memos are read after the steps, so one that ends meanwhile is not missed.

    Args:
        depth: how many levels of children are read.
        cipher: opens payloads; those that it cannot open are shown as ``encrypted``.

    Raises:
        RunNotFoundError: there is no such run.
    """
    run = broker.execute(read_run(keys, run_id))
    if run is None:
        text = f"there is no run {run_id!r}: the id is wrong, or the run ended longer ago than the retention"
        raise RunNotFoundError(run_id, "unknown", text)
    pending = broker.execute(read_steps(keys, run_id))
    run, pending = _shown_run(cipher, run), [_shown_step(cipher, run_id, step) for step in pending]
    stored = broker.execute(read_memos(keys, run_id))
    memos = [(key, redacted_memo(cipher, run_id, key, read_memo(text))) for key, text in stored]
    family = read_run_tree(broker, keys, run, find_invokes(memos, pending), depth=depth)
    children = {child.run_id: child for child in family.run.children}
    return RunView(run, step_views(memos, pending, children), family)


def _shown_run(cipher: Cipher, run: RunRecord) -> RunRecord:
    data = redacted(cipher, run.event["data"], event_scope(run.event["id"]))
    return replace(
        run,
        event={**run.event, "data": data},
        output=redacted(cipher, run.output, *end_scopes(run.id, run.name, failed=False)),
        failure=redacted_failure(cipher, run.failure, *end_scopes(run.id, run.name, failed=True)),
    )


def _shown_step(cipher: Cipher, run_id: str, step: StepRecord) -> StepRecord:
    return replace(step, failure=redacted_failure(cipher, step.failure, step_scope(run_id, step.key, failed=True)))
