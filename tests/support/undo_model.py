"""The life of a parent and its children that undo their steps: `InvokeModel` with one completed step in each run.

The parent has completed its step at the beginning; a child completes it in a move of its own. Then each of them may
fail or be cancelled, and its workers may die, at any time.

=====  =============================================================================================
``U1``   a run with something to undo ends as failed or cancelled only when its undo handler has a memo
``U2``   it ends with the status and the error that were decided when the undo began, whatever happens meanwhile
``U3``   nothing but its undo handler gets a memo of a run that undoes its steps
=====  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.runs import run_ends, run_notes
from stepflow_broker.transitions.steps import step_jobs
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key, undo_key
from stepflow_engine.memo import memo_of_data
from stepflow_engine.state_machine import RunStatus
from tests.support.invoke_model import PARENT, PARTITION, RETENTION_MS, InvokeModel, Minds, Move, State
from tests.support.snapshots import Snapshot

__all__ = ["UndoModel"]

_KEYS = Keys()
_BOOK = step_key("book")
_UNDO = undo_key(_BOOK)
_NOW_MS = 1_763_200_000_000
_FAILED = dumps(Failure("ValueError", "full").to_json())
_ENDS = ("failed", "cancelled")


class UndoModel(InvokeModel):
    """What can happen to runs that undo their steps, and what must be true of it."""

    def beginning(self) -> list[Command[Any]]:
        """The parent has completed its step, and its worker has died."""
        first = super().beginning()
        claimed = next(at for at, call in enumerate(first) if "claim_jobs" in repr(call)) + 1
        return [*first[:claimed], *_book(PARENT, _NOW_MS), *first[claimed:]]

    # -- moves -------------------------------------------------------------------

    def _of_parent(self, state: State) -> Iterator[Move]:
        yield from self._of_run(state, PARENT, super()._of_parent(state))

    def _of_child(self, state: State, child: str) -> Iterator[Move]:
        yield from self._of_run(state, child, super()._of_child(state, child))

    def _of_run(self, state: State, run: str, others: Iterator[Move]) -> Iterator[Move]:
        """The moves of a run; `others` are those of a run that has nothing to undo."""
        has_holder = state.run(run).get("continuation") == "leased" and self._holds(state.minds, run)
        fence = int(state.run(run).get("lease", 0))
        may_end = _BOOK in memos_of(state, run)
        without = self._without_holder(state.minds, run)
        if state.run(run).get("undoing"):
            for move in others:
                if move.verb in ("claim", "reclaim", "die", "timeout"):
                    yield move
            if has_holder and _UNDO not in memos_of(state, run):
                yield Move(f"undo {run}", (_commit(run, fence, _UNDO),), state.minds)
            elif has_holder:
                waking = without.waking | ({run} if run != PARENT else set())
                yield Move(f"end-undo {run}", (self._end_undo(run, fence),), replace(without, waking=waking))
            return
        for move in others:
            if move.verb == "finish" and not may_end:
                yield Move(f"book {run}", tuple(_book(run, fence)), state.minds)
            else:
                yield move
        if has_holder and may_end:
            yield Move(f"fail {run}", (_fail(run, fence),), without, "event")

    @staticmethod
    def _holds(minds: Minds, run: str) -> bool:
        return minds.holder is not None if run == PARENT else run in minds.live

    @staticmethod
    def _without_holder(minds: Minds, run: str) -> Minds:
        return replace(minds, holder=None) if run == PARENT else replace(minds, live=minds.live - {run})

    @staticmethod
    def _end_undo(run: str, fence: int) -> Command[Any]:
        return run_ends.end_undo(PARTITION, run_id=run, fence=fence, retention_ms=RETENTION_MS)

    @staticmethod
    def _park(fence: int, applied: int) -> Command[Any]:
        return InvokeModel._park(fence, applied + 1)  # the completed step

    # -- what comes of a move ----------------------------------------------------

    def minds_after(self, move: Move, answer: Any, after: Snapshot) -> Minds:
        match move.verb, answer:
            case (("undo" | "book"), (code, _)):
                assert code is ScriptStatus.DONE, f"M3: {move.name} was answered {code!r}"
            case "fail", code:
                assert code is ScriptStatus.MORE, f"U1: {move.name} was answered {code!r}"
            case "end-undo", code:
                assert code is ScriptStatus.DONE, f"M3: {move.name} was answered {code!r}"
            case _:
                return super().minds_after(move, answer, after)
        return move.minds

    def check(self, before: State, move: Move, after: State) -> None:
        super().check(before, move, after)
        for run in (PARENT, *self.children):
            self._check_undo(run, before, move, after)

    def _check_undo(self, run: str, before: State, move: Move, after: State) -> None:
        was, now = before.run(run), after.run(run)
        if before.is_live(run) and now.get("status") in _ENDS:
            due = "undo" in was and _BOOK in memos_of(before, run)
            assert not due or _UNDO in memos_of(after, run), f"U1: {move.name} ended {run} without undoing it"
        if "undoing" not in was:
            return
        decided = was["undoing"], was["error"]
        kept = (now["undoing"] if after.is_live(run) else now["status"], now["error"])
        assert kept == decided, f"U2: {move.name} made {kept} of {decided}"
        new = memos_of(after, run).keys() - memos_of(before, run).keys()
        assert new <= {_UNDO}, f"U3: {move.name} stored {new}"

    def _check_memos(self, before: State, move: Move, after: State) -> None:
        if move.verb not in ("book", "undo") and not _begins_undo(before, after):
            super()._check_memos(before, move, after)

    @staticmethod
    def _outcomes(before: State, move: Move) -> tuple[str, ...]:
        """The end of a child that has undone its steps is seen like that of others."""
        outcomes = InvokeModel._outcomes(before, move)
        return (*outcomes, *_ENDS) if "completed" in outcomes else outcomes

    # -- calls that come late, or again --------------------------------------------

    def repeats(self, state: State) -> Iterator[tuple[str, Command[Any], tuple[Any, ...]]]:
        yield from super().repeats(state)
        for run in (PARENT, *self.children):
            fields = state.run(run)
            if "undoing" in fields:
                yield f"cancel {run}, while it is undone", self._cancel(run), (ScriptStatus.ALREADY,)
            if fields.get("continuation") == "leased" and "undo" in fields:
                call = run_notes.note_undo(PARTITION, run_id=run, fence=int(fields["lease"]))
                yield f"note {run}, again", call, (ScriptStatus.DONE,)
            late = int(fields.get("fence", 1)) - (fields.get("continuation") == "leased")
            refused = (ScriptStatus.ALREADY, ScriptStatus.NO_RUN, ScriptStatus.STALE_FENCE)
            yield f"end-undo {run}, late", self._end_undo(run, late), refused
            yield f"fail {run}, late", _fail(run, late), refused


def memos_of(state: State, run: str) -> dict[str, str]:
    """The memos of a run."""
    return state.held.hgetall(_KEYS("MEMOS", run))


def _begins_undo(before: State, after: State) -> bool:
    """Whether the parent was woken to undo its steps, without a memo."""
    return "undoing" in after.run(PARENT) and "undoing" not in before.run(PARENT)


def _book(run: str, fence: int) -> list[Command[Any]]:
    """The completed step of a run."""
    return [run_notes.note_undo(PARTITION, run_id=run, fence=fence), _commit(run, fence, _BOOK)]


def _commit(run: str, fence: int, key: str) -> Command[Any]:
    memo = memo_of_data(b"null", {"id": key[:4]})
    return step_jobs.commit_step(PARTITION, run_id=run, fence=fence, key=key, memo=memo)


def _fail(run: str, fence: int) -> Command[Any]:
    return run_ends.finish_run(
        PARTITION,
        run_id=run,
        fence=fence,
        status=RunStatus.FAILED,
        payload=_FAILED,
        retention_ms=RETENTION_MS,
    )
