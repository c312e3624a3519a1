"""The verdict on a run under new code: whether it goes on as it would have, from what a replay of its code has done."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stepflow.replay.call_site import CallSite
from stepflow.replay.history import RunHistory
from stepflow.replay.replayed import Replayed, ReplayOutcome, RequestedStep
from stepflow_engine.undo import has_undo

__all__ = ["Judgement", "Risk", "Verdict", "judge"]


class Risk(StrEnum):
    """What the new code does to a run.

    Attributes:
        SAFE: it goes on.
        RERUN: a step executes although results of later steps exist, which may be those of the same work.
        UNSAFE: it fails, or loses a result, or a step that is planned.
    """

    SAFE = "safe"
    RERUN = "rerun"
    UNSAFE = "unsafe"


class Verdict(StrEnum):
    """What happens to a run when the new code executes it."""

    OK = "ok"
    NEW_STEP = "new step later"
    PINNED = "pinned"
    RERUNS = "re-runs"
    ORPHAN = "orphan memo"
    DROPPED = "drops a planned step"
    ENDS_EARLY = "ends early"
    KIND = "kind changed"
    ITEMS = "items changed"
    TYPE = "result no longer fits its type"
    UNDO = "undo handler missing"
    INPUT = "input no longer accepted"
    RAISES = "raises"
    OUTSIDE = "reaches outside"
    NOT_DETERMINISTIC = "not deterministic"
    CODE_MISSING = "code missing"
    UNREADABLE = "unreadable"

    @property
    def risk(self) -> Risk:
        """How bad it is."""
        if self in (Verdict.OK, Verdict.NEW_STEP, Verdict.PINNED):
            return Risk.SAFE
        return Risk.RERUN if self is Verdict.RERUNS else Risk.UNSAFE


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why, and the line of the new code that it is about.

    Attributes:
        text: the reason, as a sentence; ``""``: none is needed.
        site: ``None``: there is no such line.
    """

    verdict: Verdict
    text: str = ""
    site: CallSite | None = None


def judge(history: RunHistory, replayed: Replayed, again: Replayed | None = None) -> Judgement:
    """The verdict on a run.

    Args:
        replayed: a replay of the run with the new code.
        again: another replay, with another clock and other random numbers; ``None``: there was none.
    """
    if again is not None and not replayed.same(again):
        return _not_deterministic(replayed, again)
    return (
        _cannot_be_known(replayed)
        or next((judgement for step in replayed.requested if (judgement := _of_step(step)) is not None), None)
        or (_of_undo(history, replayed) if history.undoing else None)
        or _of_error(history, replayed)
        or _of_steps(replayed)
    )


def _not_deterministic(replayed: Replayed, again: Replayed) -> Judgement:
    step = replayed.first_difference(again) or again.first_difference(replayed)
    what = f'step "{step.id}" is requested in one replay and not in another' if step else "two replays end differently"
    site = step.site if step else replayed.error_site or replayed.last_site
    return Judgement(
        Verdict.NOT_DETERMINISTIC, f"{what}: use ctx.now(), ctx.random() and ctx.uuid(), and no sets", site
    )


def _cannot_be_known(replayed: Replayed) -> Judgement | None:
    """The verdict on code that has not gone on in a replay as it does in a worker."""
    if replayed.outside:
        call = replayed.outside[0]
        site = call.site or replayed.error_site or replayed.last_site
        return Judgement(Verdict.OUTSIDE, f"the code {call.what} between steps: do it in a step", site)
    if replayed.outcome is ReplayOutcome.STUCK:
        text = "the code did not come to a step or to its end in time: do long work in a step"
        return Judgement(Verdict.OUTSIDE, text, replayed.error_site or replayed.last_site)
    if replayed.waits_outside:
        text = f"the code waits for something else than a step, and has not asked for {_names(_missed(replayed))}"
        return Judgement(Verdict.OUTSIDE, text, replayed.last_site)
    return None


def _of_step(step: RequestedStep) -> Judgement | None:
    if step.has_other_kind:
        text = f'step "{step.id}" was {_a(step.recorded)} step, and the code asks for {_a(step.kind)} step'
        return Judgement(Verdict.KIND, text, step.site)
    if step.other_items:
        return Judgement(Verdict.ITEMS, f'map "{step.id}" has begun with other items', step.site)
    if step.misfit:
        return Judgement(Verdict.TYPE, step.misfit, step.site)
    if step.lacks_undo:
        text = f'step "{step.id}" has completed with an undo handler, and the code has none for it'
        return Judgement(Verdict.UNDO, text, step.site)
    return None


def _of_undo(history: RunHistory, replayed: Replayed) -> Judgement:
    """The verdict on a run whose steps are undone: its code decides nothing but which handlers undo them."""
    undone = {memo.id for _, memo in history.memos if has_undo(memo)}
    if not (missing := [step_id for step_id in replayed.left if step_id in undone]):
        return Judgement(Verdict.OK)
    text = f"the run is undone, and the code does not ask for {_names(missing)} any more"
    return Judgement(Verdict.UNDO, text, replayed.last_site)


def _of_error(history: RunHistory, replayed: Replayed) -> Judgement | None:
    """The verdict on code that raises an error of its own."""
    if replayed.outcome is ReplayOutcome.REFUSED:
        return Judgement(Verdict.INPUT, replayed.error, replayed.error_site)
    if replayed.outcome is not ReplayOutcome.RAISED or replayed.failed_step or history.ended == "failed":
        return None
    verdict = Verdict.TYPE if replayed.error.startswith("StepOutputError") else Verdict.RAISES
    return Judgement(verdict, replayed.error, replayed.error_site or replayed.last_site)


def _of_steps(replayed: Replayed) -> Judgement:
    """The verdict by the steps that the code asks for, and those that the run has."""
    new, is_waiting = replayed.new, replayed.outcome is ReplayOutcome.WAITING
    if replayed.left and new:
        text = f'step "{new[0].id}" is asked for before {_names(replayed.left)}, of which there are results: '
        return Judgement(Verdict.RERUNS, text + "it executes now" + _alike(new, replayed.left), new[0].site)
    if replayed.left:
        text = f"the code does not ask for {_names(replayed.left)}, of which there are results"
        return Judgement(Verdict.ORPHAN, text, replayed.last_site)
    if replayed.dropped and is_waiting:
        text = f"the code does not ask for {_names(replayed.dropped)}, which is planned"
        if new:
            text += f', but for "{new[0].id}"{_alike(new, replayed.dropped)}'
        return Judgement(Verdict.DROPPED, text, new[0].site if new else replayed.last_site)
    if replayed.dropped:
        text = f"the code ends and does not ask for {_names(replayed.dropped)}, which is planned"
        return Judgement(Verdict.ENDS_EARLY, text, replayed.error_site or replayed.last_site)
    planned = any(not step.is_new and step.recorded and not step.received for step in replayed.requested)
    if new and planned and is_waiting:
        return Judgement(
            Verdict.NEW_STEP, f'step "{new[0].id}" is asked for beside those that are planned', new[0].site
        )
    return Judgement(Verdict.OK)


def _missed(replayed: Replayed) -> Sequence[str]:
    return replayed.left or replayed.dropped


def _alike(new: Iterable[RequestedStep], ids: Sequence[str]) -> str:
    """A hint that a step may have got another id."""
    for step in new:
        if alike := difflib.get_close_matches(step.id, ids, n=1):
            return f'. Was "{alike[0]}" renamed to "{step.id}"?'
    return ""


def _names(ids: Sequence[str]) -> str:
    shown = ", ".join(f'"{one}"' for one in ids[:3])
    return f"{shown} and {len(ids) - 3} more" if len(ids) > 3 else shown


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
