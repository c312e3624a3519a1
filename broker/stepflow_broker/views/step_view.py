"""The steps of one run: those that have ended, then those that have not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepflow_broker.transitions.runs.attempts import FAILED, UNFINISHED, WORKER_DIED, AttemptRecord, parse_executing
from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_broker.views.attempt_view import DONE, RUNNING, AttemptView, kept_attempts
from stepflow_broker.views.invoke_view import InvokeView, ended_invoke, unfinished_invoke, waiting_invoke
from stepflow_broker.views.map_view import MapProgress, ended_map, pending_map
from stepflow_broker.views.run_view import RunView
from stepflow_broker.views.times import iso
from stepflow_broker.views.wait_view import WaitView, ended_wait, pending_wait, unfinished_wait
from stepflow_engine.codec import loads
from stepflow_engine.failure import Failure
from stepflow_engine.ids import is_item_key, split_item_key, undo_key
from stepflow_engine.memo import Memo
from stepflow_engine.steps import StepKind, stored_kind

__all__ = ["StepView", "executing_step", "step_views"]


@dataclass(frozen=True, slots=True)
class StepView:
    """One step. Times are milliseconds since the epoch.

    Attributes:
        state: ``done``, ``failed``, ``running``, ``queued``, ``retrying``, ``delayed``, ``waiting`` (for a child, a
            time, an event, a signal or an answer) or ``unfinished`` (its run was cancelled, or failed, or the code has
            cancelled the step).
        attempts: how many attempts started; for a step that has not ended, how many failed.
        started_at, ended_at: of the last attempt, or of the wait.
        worker: the worker that executes it, or executed it last.
        version: the version of the code of that worker; ``""``: unknown, or the step is a wait.
        due_at: when the next attempt is due.
        failure: the failure of the step, or of its last attempt.
        kind: ``run``, ``invoke``, ``sleep``, ``wait`` (for an event), ``send``, ``signal`` (a wait for one), ``ask``,
            ``map`` or ``start`` (of a child; a step ``invoke`` with the same id waits for its end).
        invoke: the invoke; ``None`` for a step of another kind.
        wait: the sleep, or the wait for an event, a signal or an answer; ``None`` for a step of another kind.
        map: how far a map is; ``None`` for a step of another kind.
        history: its attempts that are kept, oldest first; empty for a wait and a map.
        undoes: the id of the step that it undoes; ``""``: it is not an undo handler.
        cached_from: the run whose result it has taken from the cache; ``""``: none.
    """

    id: str
    key: str
    state: str
    attempts: int
    started_at: int | None = None
    ended_at: int | None = None
    due_at: int | None = None
    worker: str = ""
    version: str = ""
    result: Any = None
    failure: Failure | None = None
    kind: str = StepKind.RUN
    invoke: InvokeView | None = None
    wait: WaitView | None = None
    map: MapProgress | None = None
    history: tuple[AttemptView, ...] = ()
    undoes: str = ""
    cached_from: str = ""

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
            "version": self.version or None,
            "result": self.result,
            "error": self.failure.to_json() if self.failure else None,
            "invoke": self.invoke.to_json() if self.invoke else None,
            "wait": self.wait.to_json() if self.wait else None,
            "map": self.map.to_json() if self.map else None,
            "history": [attempt.to_json() for attempt in self.history],
            "undoes": self.undoes or None,
            "cached_from": self.cached_from or None,
        }


def step_views(
    run: RunRecord,
    memos: Sequence[tuple[str, Memo]],
    pending: Sequence[StepRecord],
    attempts: Sequence[AttemptRecord],
    children: Mapping[str, RunView],
) -> list[StepView]:
    """All steps of a run: those with memos in the order of the memos, then the others by id.

    The items of a map that has not ended are steps too. Those that are ready, and no worker has taken, are left out.

    Args:
        attempts: the attempts of the run that gave no result.
        children: the children of the run by id; an invoke step takes its times from its child.
    """
    kept = kept_attempts(run, attempts)
    steps = [_ended(run, key, memo, kept.get(key, ()), children) for key, memo in memos]
    known = {step.key for step in steps}
    left = [
        _map(step) if step.items else _pending(step, kept.get(step.key, ()), children)
        for step in pending
        if step.key not in known and not (step.is_item and step.state == "queued")
    ]
    known.update(step.key for step in left)
    left += _executing(run, kept, known)
    known.update(step.key for step in left)
    left += _unfinished(run, attempts, kept, known)
    steps += sorted(left, key=lambda step: step.id)
    if not run.has_undo:
        return steps
    undone = {undo_key(key): memo.id for key, memo in memos}
    return [replace(step, undoes=undone.get(step.key, "")) for step in steps]


def _ended(
    run: RunRecord, key: str, memo: Memo, kept: Sequence[AttemptView], children: Mapping[str, RunView]
) -> StepView:
    invoke, detail = ended_invoke(key, memo), memo.detail
    child = children.get(invoke.run_id) if invoke and invoke.outcome != "timeout" else None
    cached_from = str(detail.get("cached_from", ""))
    has_attempts = "worker" in detail and not cached_from
    version = detail.get("version", run.version) if has_attempts else ""
    last = AttemptView(
        number=detail.get("attempts", 1),
        outcome=FAILED if memo.failure else DONE,
        started_at=detail.get("started_at"),
        ended_at=detail.get("ended_at"),
        worker=detail.get("worker", ""),
        version=version,
        failure=memo.failure,
    )
    return StepView(
        id=memo.id or key,
        key=key,
        state="failed" if memo.failure else "done",
        attempts=detail.get("attempts", 1),
        started_at=detail.get("started_at"),
        ended_at=child.ended_at if child else detail.get("ended_at"),
        worker=detail.get("worker", ""),
        version=version,
        result=memo.data,
        failure=memo.failure,
        kind=stored_kind(detail),
        invoke=invoke,
        wait=ended_wait(key, memo),
        map=ended_map(memo),
        history=(*kept, last) if has_attempts else tuple(kept),
        cached_from=cached_from,
    )


def _pending(step: StepRecord, kept: Sequence[AttemptView], children: Mapping[str, RunView]) -> StepView:
    states = {"leased": RUNNING, "delayed": "retrying" if step.attempts else "delayed"}
    invoke, wait = waiting_invoke(step), pending_wait(step)
    child = children.get(step.child)
    waits = invoke is not None or wait is not None
    history = tuple(kept)
    if step.state == "leased":
        history += (AttemptView(step.attempts + 1, RUNNING, step.leased_at, worker=step.owner),)
    last = history[-1] if history and not waits else None
    return StepView(
        id=step.id,
        key=step.key,
        state=states.get(step.state, step.state),
        attempts=1 if waits else step.attempts,
        started_at=child.created_at if child else wait.started_at if wait else last.started_at if last else None,
        ended_at=last.ended_at if last else None,
        due_at=None if waits else step.due_at if step.state == "delayed" else None,
        worker=step.owner or (last.worker if last else ""),
        version=last.version if last else "",
        failure=step.failure,
        kind=wait.kind if wait else StepKind.INVOKE if invoke else StepKind.RUN,
        invoke=invoke,
        wait=wait,
        history=history,
    )


def _map(step: StepRecord) -> StepView:
    """A map whose items have not all ended, or whose results are being collected."""
    detail = loads(b"{" + step.detail)
    return StepView(
        id=step.id,
        key=step.key,
        state=RUNNING,
        attempts=1,
        started_at=detail.get("started_at"),
        kind=StepKind.MAP,
        map=pending_map(step),
    )


def executing_step(run: RunRecord, ended: frozenset[str] | set[str]) -> tuple[str, str, int] | None:
    """The step that the continuation of a run executes, as its worker has reported it: key, id, and since when.

    Args:
        ended: the keys of the steps that have a memo or a job of their own, read after the run. The report stays when
            the step ends.
    """
    found = parse_executing(run.executing) if run.continuation == "leased" else None
    if found is None or found.fence != run.fence or found.key in ended:
        return None
    return found.key, found.step_id, found.since


def _is_item_of(key: str, known: set[str]) -> bool:
    """Whether a key is that of an item of a map among some steps, which shows how many items have failed."""
    return is_item_key(key) and split_item_key(key)[0] in known


def _executing(run: RunRecord, kept: Mapping[str, Sequence[AttemptView]], known: set[str]) -> list[StepView]:
    found = executing_step(run, known)
    if found is None:
        return []
    key, step_id, since = found
    history = (*kept.get(key, ()), AttemptView(1, RUNNING, since, worker=run.owner))
    return [StepView(step_id, key, RUNNING, 0, started_at=since, worker=run.owner, history=history)]


def _unfinished(
    run: RunRecord, attempts: Sequence[AttemptRecord], kept: Mapping[str, Sequence[AttemptView]], known: set[str]
) -> Iterator[StepView]:
    """The steps of which only attempts are known.

    Their run has ended, or the code has cancelled them. A live run requests a step again after the death of its worker.
    """
    last = {
        attempt.key: attempt
        for attempt in attempts
        if attempt.key and attempt.key not in known and not _is_item_of(attempt.key, known)
    }
    for key, attempt in last.items():
        kind = stored_kind(attempt.detail)
        is_wait = kind not in (StepKind.RUN, StepKind.SEND)
        failures = [view.failure for view in kept[key] if view.failure is not None]
        yield StepView(
            id=attempt.step_id or key,
            key=key,
            state="retrying" if attempt.outcome == WORKER_DIED and not run.status.ended else UNFINISHED,
            attempts=1 if is_wait else sum(view.outcome == FAILED for view in kept[key]),
            started_at=attempt.started_at,
            ended_at=attempt.ended_at,
            worker=attempt.worker,
            version="" if is_wait else kept[key][-1].version,
            failure=failures[-1] if failures else None,
            kind=kind,
            invoke=unfinished_invoke(attempt),
            wait=unfinished_wait(attempt),
            history=() if is_wait else tuple(kept[key]),
        )
