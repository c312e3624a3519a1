"""Mismatches: the code of a run requests other steps than its history records.

Theory of operation. A memo was stored because an earlier pass had requested its step, after it had received only memos
that are earlier. Code that is the same requests it again as soon as it has received these. So when the code is quiet,
has received all memos, and waits for nothing but steps, it has requested every step that has a memo, a job or a wait.
If it has not, or if it has ended, it is other code than that which made the history. This says nothing of steps that
have no memo yet, of the order of parallel branches, or of steps that the code has cancelled: it has requested them.

Some memos say nothing: those of a fork that has other data or results than its source or lacks some of its steps; the
ends of children that the code does not await; all memos, if a retry of the function itself reads `ctx.attempt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepflow_engine.call_site import site_of_call
from stepflow_engine.execution import Execution, Outcome, Returned, Waiting
from stepflow_engine.ids import numbered_id
from stepflow_engine.steps import StepCall, stored_kind

__all__ = ["Mismatch", "NamedStep", "find_mismatch", "kind_mismatch", "planned_mismatch"]

_MAX_STEPS = 10


@dataclass(frozen=True, slots=True)
class NamedStep:
    """A step of the history, or one that the code requests.

    Attributes:
        id: by which a person names it: ``charge#2`` is the second ``charge``.
        kind: a `StepKind`.
        site: where the code requests it, as ``shop.py:41``; ``""``: unknown, or a step of the history.
    """

    id: str
    kind: str
    site: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.id!r}" + (f" ({self.site})" if self.site else "")

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"id": self.id, "kind": self.kind, "at": self.site or None}

    @classmethod
    def from_json(cls, value: Any) -> NamedStep:
        """Read the JSON form."""
        return cls(str(value["id"]), str(value["kind"]), str(value["at"] or ""))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How the code differs from the history of a run. At most ten steps of each side are named.

    Attributes:
        recorded: the steps of the history that the code does not request.
        requested: the steps that it waits for instead; empty: it returns.
        version: the version of the code; ``""``: unknown.
    """

    recorded: tuple[NamedStep, ...]
    requested: tuple[NamedStep, ...]
    version: str = ""

    def __str__(self) -> str:
        recorded = ", ".join(map(str, self.recorded))
        requested = f"requests {', '.join(map(str, self.requested))}" if self.requested else "returns"
        code = f"the code of version {self.version}" if self.version else "the code"
        return f"the history has {recorded}, and {code} {requested}"

    def of_version(self, version: str) -> Mismatch:
        """The same, of this version of the code."""
        return replace(self, version=version)

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return {
            "recorded": [one.to_json() for one in self.recorded],
            "requested": [one.to_json() for one in self.requested],
            "version": self.version or None,
        }

    @classmethod
    def from_json(cls, value: Any) -> Mismatch:
        """Read the stored form."""
        recorded, requested = ([NamedStep.from_json(one) for one in value[name]] for name in ("recorded", "requested"))
        return cls(tuple(recorded), tuple(requested), str(value.get("version") or ""))


def find_mismatch(execution: Execution, outcome: Outcome) -> Mismatch | None:
    """The mismatch that a pass has found since it was asked last; ``None``: there is none, or it is too early to say.

    Code that raises says nothing: another attempt may go on.
    """
    if (other := execution.other_kind) is not None:
        execution.other_kind = None
        step_id, stored, requested, site = other
        return kind_mismatch(step_id, stored=stored, requested=requested, site=site)
    if not _is_conclusive(outcome):
        return None
    memos = execution.unrequested_memos()
    recorded = [NamedStep(numbered_id(memo.id, key), stored_kind(memo.detail)) for key, memo in memos]
    return _mismatch(execution, recorded)


def planned_mismatch(
    execution: Execution, outcome: Outcome, planned: Iterable[tuple[str, str, str]]
) -> Mismatch | None:
    """The mismatch between the code and the steps of its run that have a job or a wait.

    Args:
        planned: key, id and kind of each.
    """
    if not _is_conclusive(outcome):
        return None
    recorded = [
        NamedStep(numbered_id(step_id, key), kind)
        for key, step_id, kind in planned
        if not execution.expects(key) or _has_other_kind(execution.pending(key), kind)
    ]
    return _mismatch(execution, recorded)


def kind_mismatch(step_id: str, *, stored: str, requested: str, site: str) -> Mismatch:
    """The mismatch of a step that has another kind in the history."""
    return Mismatch((NamedStep(step_id, stored),), (NamedStep(step_id, requested, site),))


def _is_conclusive(outcome: Outcome) -> bool:
    """Whether the code has requested all that it does with the memos that it has received."""
    return isinstance(outcome, Returned) or (isinstance(outcome, Waiting) and outcome.blocked)


def _has_other_kind(call: StepCall | None, kind: str) -> bool:
    return call is not None and call.request.kind != kind


def _mismatch(execution: Execution, recorded: Sequence[NamedStep]) -> Mismatch | None:
    if not recorded or execution.depends_on_attempt:
        return None
    requested = [_requested(execution, call) for call in execution.open_calls()[:_MAX_STEPS]]
    return Mismatch(tuple(recorded[:_MAX_STEPS]), tuple(requested))


def _requested(execution: Execution, call: StepCall) -> NamedStep:
    site = site_of_call(call, execution.activity.tasks, execution.threads)
    return NamedStep(numbered_id(call.id, call.key), call.request.kind, site)
