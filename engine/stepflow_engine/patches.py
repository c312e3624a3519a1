"""Patches: whether a run takes the new way or the old way at a change of its code. Each run decides once.

Theory of operation. New code asks `Execution.patched` before it does something that old code did in another way. If an
earlier pass of the run has gone beyond this point, its memos are those of the old way, and the run stays on it.
Otherwise it takes the new way. An earlier pass has gone beyond the point if the run has a step that the code has not
requested by then: a memo that is later than all those that the code has received, or a job or a wait. Steps that were
requested before, in parallel, say nothing. This is exact as long as the code between steps is deterministic: memos are
delivered in their order, and a pass that has received a memo has gone on until it was quiet.

Only a pass that drives the run may decide, and only with facts that are current: what others have decided, and which
steps have jobs. A worker stores a decision before anything that follows from it. A pass in memory may be older than the
last decision. If it does not know, it is closed, and the run is loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_engine.errors import LimitError, StepUsageError
from stepflow_engine.limits import check_id

__all__ = ["MAX_PATCHES", "PatchDecision", "Patches", "check_patch_id"]

MAX_PATCHES = 100
"""The largest number of patches of a run."""
_LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class PatchDecision:
    """What a run has decided at a patch.

    Attributes:
        patched: whether it takes the new way.
        after: the position of the latest memo that the code had received; 0: none.
    """

    patched: bool
    after: int

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return {"patched": self.patched, "after": self.after}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PatchDecision:
        """Read the stored form."""
        return cls(bool(value["patched"]), int(value["after"]))


class Patches:
    """The decisions of one run, as a pass over its code knows them.

    Attributes:
        decisions: by the id of the patch.
        planned: the keys of the steps that had a job or a wait when the present job began; ``None``: not known, so the
            pass must not decide.
        is_current: whether the decisions are those that were stored when the present job began, or later.
        is_provisional: whether the pass has taken the old way at a patch without a decision, because it does not drive
            the run. It is right for the step that the pass looks for, and must not be used for another job.
        was_refused: whether the pass was closed because it did not know a decision.
    """

    __slots__ = ("decisions", "is_current", "is_provisional", "planned", "was_refused")

    def __init__(self) -> None:
        self.decisions: dict[str, PatchDecision] = {}
        self.planned: frozenset[str] | None = frozenset()
        self.is_current = True
        self.is_provisional = False
        self.was_refused = False

    def load(self, decisions: Mapping[str, PatchDecision], planned: frozenset[str] | None) -> None:
        """Take over the facts with which a job begins."""
        self.decisions.update(decisions)
        self.planned, self.is_current = planned, True

    def expire(self) -> None:
        """Forget which facts are current: others may have driven the run since."""
        self.planned, self.is_current = None, False

    def decide(self, patch_id: str, *, patched: bool, after: int) -> bool:
        """Decide for the run.

        Raises:
            LimitError: the run has too many patches.
        """
        if len(self.decisions) >= MAX_PATCHES:
            raise LimitError(
                f"patch {patch_id!r}: a run has at most {MAX_PATCHES} patches: remove those that no live run needs"
            )
        self.decisions[patch_id] = PatchDecision(patched, after)
        return patched


def check_patch_id(patch_id: str, method: str) -> None:
    """Check the id of a patch.

    Raises:
        StepUsageError: it is invalid.
    """
    try:
        check_id(patch_id, f"ctx.{method}: id")
    except ValueError as error:
        raise StepUsageError(str(error)) from None
    if len(patch_id.encode()) > _LONGEST_ID:
        raise StepUsageError(f"ctx.{method}: id must be at most {_LONGEST_ID} bytes, got {len(patch_id.encode()):,}")
