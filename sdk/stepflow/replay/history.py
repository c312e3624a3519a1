"""RunHistory: what a run has stored, without the server, as a replay of its code needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepflow_engine.memo import Memo
from stepflow_engine.patches import PatchDecision

__all__ = ["PlannedStep", "RunHistory"]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step that was requested and has not ended: it has a job, is retried, or waits.

    Attributes:
        key, id, kind: the step.
        digest: of a map: identifies its items; ``""``: unknown.
    """

    key: str
    id: str
    kind: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What a run has stored. All of it is decrypted.

    Attributes:
        function: the function, as ``app/id``.
        run_id: the run.
        events: the event of the run, or all events of a batch, as JSON text.
        memos: the results of its steps, in their order, with their keys.
        planned: the steps that have not ended.
        patches: what it has decided at patches.
        attempt: the 0-based attempt of the function.
        round: how often it has continued as new.
        started_ms: the start of the round, in milliseconds since the epoch.
        undoing: the status that it will have when its steps are undone; ``""``: it is not undone.
        ended: its status, if it has ended; else ``""``.
    """

    function: str
    run_id: str
    events: tuple[bytes, ...]
    memos: tuple[tuple[str, Memo], ...] = ()
    planned: tuple[PlannedStep, ...] = ()
    patches: Mapping[str, PatchDecision] = field(default_factory=dict)
    attempt: int = 0
    round: int = 0
    started_ms: int = 0
    undoing: str = ""
    ended: str = ""
