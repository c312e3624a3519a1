"""One run as people and scripts see it, without its event and its output, which may be large."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stepflow_broker.transitions.pauses import Pause
from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_broker.views.run_pauses import pause_reason, pauses_of
from stepflow_broker.views.times import iso
from stepflow_broker.views.wait_view import WaitView, find_waits
from stepflow_engine.errors import RunEndedError, RunNotFoundError
from stepflow_engine.failure import Failure
from stepflow_engine.product import NAME

__all__ = ["FORGOTTEN", "RunView", "forgotten_run", "run_ended", "run_not_found", "view_run"]

FORGOTTEN = "forgotten"
"""The status of a run that ended longer ago than its retention: only a memo of its parent names it."""

_PART_OF_ID = re.compile("[0-9a-f]{4,31}")
_CONTINUATIONS = {
    "waitlisted": "waits for a slot, for its turn by priority, or for a worker with its code",
    "batched": "collected in a batch",
}


@dataclass(frozen=True, slots=True)
class RunView:
    """One run. Times are milliseconds since the epoch.

    Attributes:
        status: a `RunStatus`, or ``forgotten``.
        attempt: how many times the code between steps was retried.
        failure: the failure that ended the run, or that of its last attempt.
        reason: why the run was skipped.
        blocked: why no worker can execute the run.
        blocked_by: the flow control rule that delays the run or skipped it; ``""``: none.
        starts_at: when it starts, if its start is delayed: by the client, a throttle, a debounce or a batch.
        paused: why a pause stops it, as `run_pauses.pause_reason` says; ``""``: none does, or it was not read.
        waits: the sleeps and event waits of its steps, the one that ends first at the front.
        version: the version of the code that started it; ``""``: unknown.
        tags: its tags by name.
        error_group: the group of its error; ``""``: it has not failed.
        parent: the run that invoked it; ``""``: none, or it was not read.
        forked_from: the run that it repeats; ``""``: none, or it was not read.
        forks: its last forks, the newest first.
        round: how often the run has continued as new.
        undoing: the status that it will have when its steps are undone; ``""``: it does not undo them.
        pinned: whether only workers with the version ``version`` execute it.
        patches: whether it takes the new way at each patch of its code that it has reached.
    """

    id: str
    app: str
    function: str
    status: str
    queue: str = ""
    attempt: int = 0
    created_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    failure: Failure | None = None
    reason: str = ""
    blocked: str = ""
    blocked_by: str = ""
    starts_at: int | None = None
    paused: str = ""
    waits: tuple[WaitView, ...] = ()
    version: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    error_group: str = ""
    parent: str = ""
    forked_from: str = ""
    forks: tuple[str, ...] = ()
    undoing: str = ""
    patches: Mapping[str, bool] = field(default_factory=dict)
    pinned: bool = False
    round: int = 0

    @property
    def name(self) -> str:
        """``app/function``."""
        return f"{self.app}/{self.function}"

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "run_id": self.id,
            "app": self.app,
            "function": self.function,
            "queue": self.queue or None,
            "status": self.status,
            "attempt": self.attempt,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "version": self.version or None,
            "pinned": self.pinned,
            "blocked": self.blocked or None,
            "blocked_by": self.blocked_by or None,
            "starts_at": iso(self.starts_at),
            "paused": self.paused or None,
            "waits": [wait.to_json_with_step() for wait in self.waits],
            "tags": dict(self.tags),
            "error_group": self.error_group or None,
            "forked_from": self.forked_from or None,
            "forks": list(self.forks),
            "undoing": self.undoing or None,
            "patches": dict(self.patches),
            "round": self.round,
            "error": self.failure.to_json() if self.failure else None,
        }


def view_run(
    run: RunRecord,
    *,
    delayed_by: str = "",
    pending: Sequence[StepRecord] = (),
    limits: Sequence[tuple[int, str]] = (),
    pauses: Mapping[str, Pause] = MappingProxyType({}),
) -> RunView:
    """The view of a run.

    Args:
        run: the stored run.
        delayed_by: the flow control rule that delays its start; ``""``: none, or it was not read.
        pending: its steps that have not ended; empty: they were not read.
        limits: its concurrency limits.
        pauses: all pauses of its partition by subject.
    """
    return RunView(
        id=run.id,
        app=run.app,
        function=run.function,
        status=run.status,
        queue=run.queue,
        attempt=run.attempt,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        failure=run.failure,
        reason=run.reason,
        blocked=run.blocked,
        blocked_by=_blocked_by(run, delayed_by, limits),
        starts_at=None if run.started_at else run.due_at,
        paused="" if run.status.ended else pause_reason(pauses_of(pauses, run.name, run.queue, limits)),
        waits=find_waits(pending),
        version=run.version,
        tags=run.tags,
        error_group=run.error_group,
        parent=run.parent,
        forked_from=run.forked_from,
        forks=run.forks,
        undoing=run.undoing,
        patches=run.patched,
        pinned=run.pinned,
        round=run.round,
    )


def _blocked_by(run: RunRecord, delayed_by: str, limits: Sequence[tuple[int, str]]) -> str:
    if run.continuation == "waitlisted" and limits:
        return "waits for a slot of " + " and ".join(f"{name}, limit {limit}" for limit, name in limits)
    if run.continuation == "delayed" and not run.started_at:
        return delayed_by
    return run.reason or _CONTINUATIONS.get(run.continuation, "")


def run_not_found(run_id: str) -> RunNotFoundError:
    """The error for a run id that Redis does not know."""
    why = "the id is wrong, or the run ended longer ago than the retention"
    if isinstance(run_id, str) and _PART_OF_ID.fullmatch(run_id):
        why = f"an id is longer. app.runs(id=…) and '{NAME} runs list --id' find a run by the beginning of its id"
    text = f"there is no run {run_id!r:.100}: {why}"
    return RunNotFoundError(run_id, "unknown", text)


def run_ended(run_id: str, status: str, what: str) -> RunEndedError:
    """The error for something that a run cannot receive any more.

    Args:
        status: its status; or ``undoing`` and the status that it will have when its steps are undone.
    """
    undoing, _, status = status.rpartition(" ")
    how = f"is undoing its steps, and ends as {status} then" if undoing else f"has ended ({status})"
    return RunEndedError(run_id, status, f"run {run_id} {how}, so it receives no {what}")


def forgotten_run(run_id: str, name: str) -> RunView:
    """The view of a run whose retention is over; ``name`` is ``app/function``, or ``""`` if it is unknown."""
    app, _, function = name.partition("/")
    return RunView(run_id, app, function, FORGOTTEN)
