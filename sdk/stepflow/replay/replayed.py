"""Replayed: what the code of a function has done over the history of a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stepflow.replay.call_site import CallSite
from stepflow.replay.guard import OutsideCall

__all__ = ["ReplayOutcome", "Replayed", "RequestedStep"]


class ReplayOutcome(StrEnum):
    """How a replay has ended.

    Attributes:
        WAITING: the code waits for steps.
        RETURNED: it has returned.
        CONTINUED: it has returned `Context.continue_as_new`.
        RAISED: it has raised an error.
        REFUSED: the event does not fit the input of the function, so the code has not begun.
        STUCK: it has neither ended nor requested a step in time.
    """

    WAITING = "waiting"
    RETURNED = "returned"
    CONTINUED = "continued"
    RAISED = "raised"
    REFUSED = "refused"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class RequestedStep:
    """A step that the code has requested.

    Attributes:
        key, id, kind: the step, as the code requests it.
        site: where the code calls it; ``None``: unknown.
        is_new: whether the run has neither a result of it nor has planned it.
        received: whether the run has a result of it.
        recorded: the kind of the step as the run has stored it; ``""``: it has not.
        other_items: whether it is a map of other items than those with which it began.
        misfit: why its result does not fit the type that the code declares; ``""``: it does.
        lacks_undo: whether it has completed with an undo handler, and the code requests it without one.
    """

    key: str
    id: str
    kind: str
    site: CallSite | None
    is_new: bool
    received: bool = False
    recorded: str = ""
    other_items: bool = False
    misfit: str = ""
    lacks_undo: bool = False

    @property
    def has_other_kind(self) -> bool:
        """Whether the run has stored the step as one of another kind."""
        return bool(self.recorded) and self.recorded != self.kind


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the code has done. No handler was executed, and nothing was stored.

    Attributes:
        outcome: how it has ended.
        requested: the steps that it has requested, in the order of the requests.
        left: the ids of steps that have a result for which the code has not asked.
        dropped: the ids of planned steps for which the code has not asked.
        error: the class and the message of the error; ``""``: none.
        error_site: the line of the code that raised it; ``None``: unknown.
        failed_step: the step whose stored failure the error is; ``""``: it is an error of the code itself.
        outside: what the code wanted to do outside of its steps, which was refused.
        waits_outside: whether it waits for something else than steps, such as a timer, and was not waited for.
    """

    outcome: ReplayOutcome
    requested: tuple[RequestedStep, ...] = ()
    left: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    error: str = ""
    error_site: CallSite | None = None
    failed_step: str = ""
    outside: tuple[OutsideCall, ...] = ()
    waits_outside: bool = False

    @property
    def new(self) -> list[RequestedStep]:
        """The steps that the run has not requested before."""
        return [step for step in self.requested if step.is_new]

    @property
    def last_site(self) -> CallSite | None:
        """Where the code has requested its last step."""
        return self.requested[-1].site if self.requested else None

    def same(self, other: Replayed) -> bool:
        """Whether the code has done the same in another replay."""
        return self._path() == other._path()

    def first_difference(self, other: Replayed) -> RequestedStep | None:
        """The first step that this replay has requested, and another has not requested there; ``None``: none."""
        theirs = [(step.key, step.kind) for step in other.requested]
        for number, step in enumerate(self.requested):
            if theirs[number : number + 1] != [(step.key, step.kind)]:
                return step
        return None

    def _path(self) -> object:
        error = self.error.partition(":")[0]  # a message may have an address in memory
        return self.outcome, [(step.key, step.kind) for step in self.requested], self.left, self.dropped, error
