"""The attempts of a step, or of a function's own code, oldest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.transitions.runs.attempts import FAILED, UNFINISHED, AttemptRecord
from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_broker.views.times import iso
from stepflow_engine.failure import Failure
from stepflow_engine.state_machine import RunStatus

__all__ = ["DONE", "RUNNING", "WAITING", "AttemptView", "function_attempts", "kept_attempts"]

DONE = "done"
RUNNING = "running"
WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt. Times are milliseconds since the epoch.

    Attributes:
        number: the number of the attempt, 1-based. When a worker dies, the next attempt has the same number.
        outcome: ``done``, ``failed``, ``worker_died``, ``running``, ``waiting`` (of the function's own code: for its
            steps) or ``unfinished`` (its run was cancelled, or failed).
        started_at, ended_at: ``None``: it did not start or end, or the time is unknown.
        worker: the worker that executed it last; ``""``: none, or it is unknown.
        version: the version of the code; ``""``: unknown.
        failure: why it failed.
    """

    number: int
    outcome: str
    started_at: int | None = None
    ended_at: int | None = None
    worker: str = ""
    version: str = ""
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "number": self.number,
            "outcome": self.outcome,
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "worker": self.worker or None,
            "version": self.version or None,
            "error": self.failure.to_json() if self.failure else None,
        }


def kept_attempts(run: RunRecord, attempts: Sequence[AttemptRecord]) -> dict[str, list[AttemptView]]:
    """The attempts of a run that gave no result, by the key of their step; ``""``: of the function's own code."""
    found: dict[str, list[AttemptView]] = {}
    for attempt in attempts:
        version = run.version if attempt.version is None else attempt.version
        view = AttemptView(
            attempt.number,
            attempt.outcome,
            attempt.started_at,
            attempt.ended_at,
            attempt.worker,
            version,
            attempt.failure,
        )
        found.setdefault(attempt.key, []).append(view)
    return found


def function_attempts(run: RunRecord, kept: Sequence[AttemptView]) -> list[AttemptView]:
    """The attempts of the function's own code.

    Args:
        kept: those that failed and were followed by another.
    """
    if run.attempt_started_at is None or run.continuation == "delayed":
        return list(kept)
    outcome = {
        RunStatus.COMPLETED: DONE,
        RunStatus.FAILED: FAILED,
        RunStatus.CANCELLED: UNFINISHED,
        RunStatus.WAITING: WAITING,
    }.get(run.status, RUNNING)
    last = AttemptView(
        run.attempt + 1,
        outcome,
        run.attempt_started_at,
        run.ended_at,
        run.owner or run.ended_by,
        run.ended_version if run.status.ended else run.version,
        run.failure if run.status is RunStatus.FAILED else None,
    )
    return [*kept, last]
