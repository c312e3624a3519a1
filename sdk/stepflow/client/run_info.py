"""What `Run.info` and `Run.steps` return: a run and its steps at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stepflow_broker.views.attempt_view import AttemptView
from stepflow_broker.views.map_view import MapProgress
from stepflow_broker.views.run_view import RunView
from stepflow_broker.views.step_view import StepView
from stepflow_engine.failure import Failure
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.times import utc_time, utc_time_or_none

__all__ = ["AttemptInfo", "RunInfo", "StepInfo", "attempt_info", "run_info", "step_info"]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run, as it was when it was read. It does not change.

    Attributes:
        id: the id of the run.
        function: the function, as ``app/function``.
        status: the status.
        created_at, started_at, ended_at: in UTC; ``None``: not yet.
        tags: the tags of the run: name and value.
        version: the version of the code that started the run; ``""``: it is unknown.
        parent: the id of the run that invoked it; ``""``: none.
        forked_from: the id of the run of which it is a fork; ``""``: none.
        forks: the ids of its last 20 forks, the newest first: a failed run that was retried has some.
        error: the failure that ended the run, or that of its last attempt; ``None``: none.
        error_group: the group of errors that are alike, by which ``app.runs(error=…)`` finds the run; ``""``: none.
        queue: the queue of its jobs.
        reason: why flow control has skipped the run; ``""``: it has not.
        starts_at: when the run starts, in UTC, if its start is delayed; ``None``: it is not.
        undoing: the status that the run will have when its steps are undone; ``""``: it does not undo them.
        pinned: whether only workers with the version ``version`` execute the run.
        round: how often the run has continued as new; see `Context.continue_as_new`.
        patches: whether the run takes the new way at each patch of its code that it has reached; see `Context.patched`.

    Example::

        info = app.run(run_id).info()
        print(info.status, info.tags.get("tenant"), info.ended_at)
    """

    id: str
    function: str
    status: RunStatus
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    parent: str = ""
    forked_from: str = ""
    error: Failure | None = None
    error_group: str = ""
    queue: str = ""
    reason: str = ""
    forks: tuple[str, ...] = ()
    starts_at: datetime | None = None
    undoing: str = ""
    patches: Mapping[str, bool] = field(default_factory=dict)
    pinned: bool = False
    round: int = 0


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """An attempt of a step, or of the code between steps, as it was when it was read. It does not change.

    Attributes:
        number: the number of the attempt, from 1. When a worker dies, the next attempt has the same number.
        outcome: ``done``, ``failed``, ``worker_died``, ``running``, ``waiting`` (the code waits for its steps) or
            ``unfinished`` (the run ended before it did).
        started_at, ended_at: in UTC; ``None``: not yet, or unknown.
        worker: the worker that executed it; ``""``: it is unknown.
        version: the version of the code; ``""``: it is unknown.
        error: why it failed; ``None``: it did not.

    Example::

        errors = [attempt.error for step in run.steps() for attempt in step.history if attempt.error]
    """

    number: int
    outcome: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    worker: str = ""
    version: str = ""
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step of a run, as it was when it was read. It does not change.

    Attributes:
        id: the id of the step, as the code gave it.
        kind: ``run``, ``invoke``, ``sleep``, ``wait`` (for an event), ``send``, ``signal`` (a wait for one), ``ask``
            or ``map``.
        state: ``done``, ``failed``, ``running``, ``queued``, ``retrying``, ``delayed``, ``waiting`` or ``unfinished``
            (the run ended before the step did).
        attempts: how many attempts have started; of a step that has not ended, how many have failed.
        started_at, ended_at: in UTC; ``None``: not yet, or unknown.
        worker: the worker that executes it, or executed it last; ``""``: none.
        error: the failure of the step, or of its last attempt; ``None``: none.
        output: the result as plain JSON data; ``None``: none yet.
        run_id: of an invoke, the run that it has started; ``""``: none.
        due_at: when the next attempt is due, in UTC; ``None``: none is planned.
        version: the version of the code of that worker; ``""``: it is unknown.
        history: its last attempts, the oldest first; empty for a wait.
        answered_by: of an ask, who has answered, at ``ended_at``; ``""``: nobody.
        undoes: the id of the step that it undoes; ``""``: it is not an undo handler.
        map: of a map, how far it is; ``None``: it is a step of another kind.
        cached_from: the id of the run whose result it has taken from the cache; ``""``: none.

    Example::

        slow = [step.id for step in run.steps() if step.attempts > 1]
    """

    id: str
    kind: str
    state: str
    attempts: int
    started_at: datetime | None = None
    ended_at: datetime | None = None
    worker: str = ""
    error: Failure | None = None
    output: Any = None
    run_id: str = ""
    due_at: datetime | None = None
    version: str = ""
    history: tuple[AttemptInfo, ...] = ()
    answered_by: str = ""
    undoes: str = ""
    map: MapProgress | None = None
    cached_from: str = ""


def run_info(view: RunView) -> RunInfo:
    """A run from its view."""
    return RunInfo(
        id=view.id,
        function=view.name,
        status=RunStatus(view.status),
        created_at=utc_time(view.created_at or 0),
        started_at=utc_time_or_none(view.started_at),
        ended_at=utc_time_or_none(view.ended_at),
        tags=view.tags,
        version=view.version,
        parent=view.parent,
        forked_from=view.forked_from,
        error=view.failure,
        error_group=view.error_group,
        forks=view.forks,
        queue=view.queue,
        reason=view.reason,
        starts_at=utc_time_or_none(view.starts_at),
        undoing=view.undoing,
        patches=view.patches,
        pinned=view.pinned,
        round=view.round,
    )


def step_info(view: StepView) -> StepInfo:
    """A step from its view."""
    return StepInfo(
        id=view.id,
        kind=str(view.kind),
        state=view.state,
        attempts=view.attempts,
        started_at=utc_time_or_none(view.started_at),
        ended_at=utc_time_or_none(view.ended_at),
        worker=view.worker,
        error=view.failure,
        output=view.result,
        run_id=view.invoke.run_id if view.invoke else "",
        due_at=utc_time_or_none(view.due_at),
        version=view.version,
        history=tuple(attempt_info(one) for one in view.history),
        answered_by=view.wait.answered_by if view.wait else "",
        undoes=view.undoes,
        map=view.map,
        cached_from=view.cached_from,
    )


def attempt_info(view: AttemptView) -> AttemptInfo:
    """An attempt from its view."""
    return AttemptInfo(
        number=view.number,
        outcome=view.outcome,
        started_at=utc_time_or_none(view.started_at),
        ended_at=utc_time_or_none(view.ended_at),
        worker=view.worker,
        version=view.version,
        error=view.failure,
    )
