"""The life of a parent and its children, in every order: a model of the workers over the real scripts and a server.

A state is what the server holds and what the workers have in mind: how far the holder of the parent's lease is in the
parent's code (invoke each child, cancel some of the steps, wait for the others, end), which holders of children live,
and whose end somebody is about to see to. A move is one script, sent by whoever may send it in that state, or a fault:
a worker dies, and what it had in mind is gone. Fences and counts of deaths do not make states different, nor does which
child is which, so any number of faults leads to finitely many states, and all of them are visited.

A worker that is paused past its lease, a call that comes late and a call that comes twice need no moves of their own:
in every state, every call that was or could have been sent before is sent once more, and must change nothing.

=====  =============================================================================================
``M1``   a step has one memo, for good, and it says what ended the step; a parked parent is woken by a memo alone
``M2``   what has ended stays as it is; a child starts once, by the invoke of its step
``M3``   a call of the holder is obeyed; a call of anyone else, or sent again, is refused or changes nothing
``M4``   when all is let run, with no fault, cancel or timeout, the parent ends, and nothing is left over
=====  =============================================================================================

The invariants of `tests.support.invariants` hold in every state too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes import invokes
from stepflow_broker.transitions.invokes import outbox as messages
from stepflow_broker.transitions.invokes.invokes import ChildStart, HandleStart
from stepflow_broker.transitions.jobs import continuations, job_claims, timers
from stepflow_broker.transitions.jobs.leases import reclaim_leases
from stepflow_broker.transitions.runs import run_control, run_ends, run_starts
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.ids import child_key, step_key
from stepflow_engine.memo import memo_of_data, memo_of_failure
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import ParentClose
from tests.support.invariants import check_invariants
from tests.support.plain import plain_at
from tests.support.snapshots import Snapshot

__all__ = ["PARENT", "PARTITION", "RETENTION_MS", "InvokeModel", "Minds", "Move", "State"]

PARENT = "parent"
_KEYS = Keys()
_NOW_MS = 1_763_200_000_000
PARTITION = plain_at(_KEYS, _NOW_MS)
_LEASE_MS = 10_000
_TIMEOUT_MS = 60_000
RETENTION_MS = 3_600_000
_CANCELLED = dumps(Failure("RunCancelled", "the run was cancelled").to_json())
_REFUSED = (ScriptStatus.NO_RUN, ScriptStatus.STALE_FENCE)
_NOTHING = (ScriptStatus.ALREADY, *_REFUSED)


@dataclass(frozen=True, slots=True)
class Holder:
    """The worker that holds the parent: the memos that it knows, and the steps that it has invoked."""

    known: frozenset[str]
    invoked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Minds:
    """What the workers have in mind.

    Attributes:
        holder: of the parent; ``None``: nobody holds it, or its holder is dead.
        live: children whose holder lives.
        waking: children that have ended and whose parent somebody is about to wake.
        lost: children whose steps the parent's code has cancelled. Every pass cancels them again.
    """

    holder: Holder | None = None
    live: frozenset[str] = frozenset()
    waking: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()

    def renamed(self, names: dict[str, str]) -> Minds:
        """The same, of other children."""

        def rename(children: frozenset[str]) -> frozenset[str]:
            return frozenset(names[child] for child in children)

        holder = self.holder and Holder(rename(self.holder.known), rename(self.holder.invoked))
        return Minds(holder, rename(self.live), rename(self.waking), rename(self.lost))


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the server holds, and what the workers have in mind."""

    held: Snapshot
    minds: Minds

    def run(self, run: str) -> dict[str, str]:
        content: dict[str, str] = self.held.content(_KEYS("RUN", run), {})
        return content

    def memos(self) -> dict[str, str]:
        return self.held.hgetall(_KEYS("MEMOS", PARENT))

    def is_live(self, run: str) -> bool:
        return self.run(run).get("status") in ("queued", "running", "waiting")

    def is_parked(self, run: str) -> bool:
        return self.is_live(run) and "continuation" not in self.run(run)

    def waiting(self) -> set[str]:
        """The keys of the steps of the parent that wait."""
        fields = self.held.hgetall(_KEYS("STEPS", PARENT))
        return {name.partition(":")[0] for name, value in fields.items() if value == "waiting"}


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that can happen.

    Attributes:
        name: what happens, and to which run.
        calls: what is sent; the answer to the last one counts.
        minds: what the workers have in mind then, unless the answer says otherwise.
        kind: ``step`` (it happens in time, if nothing else does), ``event`` (it may happen) or ``fault``.
    """

    name: str
    calls: tuple[Command[Any], ...]
    minds: Minds
    kind: str = "step"

    @property
    def verb(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def run(self) -> str:
        return self.name.partition(" ")[2]


class InvokeModel:
    """What can happen in a state, and what must be true of what comes of it.

    Args:
        children: how many the parent invokes.
        without: verbs of events and faults that never happen.
        handles: whether the parent starts the children and has handles, in the place of invokes. The end of a child is
            then the memo of another step than that of the start, and a child that takes too long is cancelled.
    """

    def __init__(self, *, children: int = 2, without: frozenset[str] = frozenset(), handles: bool = False) -> None:
        self.children = tuple(f"child{n}" for n in range(1, children + 1))
        self._without = without
        self._handles = handles

    def _key(self, child: str) -> str:
        """The key of the step that waits for a child."""
        return child_key(step_key(child)) if self._handles else step_key(child)

    def _waits_for(self, state: State, child: str) -> bool:
        return self._key(child) in state.waiting()

    def _known(self, memos: Iterable[str]) -> frozenset[str]:
        """The children whose ends have memos."""
        return frozenset(child for child in self.children if self._key(child) in memos)

    def _started(self, memos: Iterable[str]) -> frozenset[str]:
        """The children of whose starts there are memos."""
        return frozenset(child for child in self.children if self._handles and step_key(child) in memos)

    def beginning(self) -> list[Command[Any]]:
        """What makes the first state: the parent has been started, and its first worker has died."""
        config = self._config(PARENT)
        return [
            create_group(_KEYS, "FINISHED"),
            create_group(_KEYS, "EVENTS"),
            run_starts.start_run(PARTITION, config, run_id=PARENT, event=_event(PARENT), dedupe=False),
            self._claim(PARENT),
            *self._expire("LEASES", PARENT),
            reclaim_leases(PARTITION),
        ]

    def twins(self) -> list[dict[str, str]]:
        """The children are alike: every way to give them, and their steps, each other's names."""
        ways = itertools.permutations(self.children)
        return [
            dict(zip(self.children, names, strict=True))
            | dict(zip(map(step_key, self.children), map(step_key, names), strict=True))
            | dict(zip(map(self._key, self.children), map(self._key, names), strict=True))
            for names in ways
        ]

    # -- moves -------------------------------------------------------------------

    def moves(self, state: State) -> Iterator[Move]:
        """All that can happen in a state."""
        for move in (*self._of_parent(state), *self._of_children(state), *self._of_stream(state)):
            if move.verb not in self._without:
                yield move

    def _of_parent(self, state: State) -> Iterator[Move]:
        run, minds = state.run(PARENT), state.minds
        continuation = run.get("continuation")
        if continuation == "queued":
            holder = Holder(self._known(state.memos()), self._started(state.memos()))
            yield Move("claim parent", (self._claim(PARENT),), replace(minds, holder=holder))
        elif continuation == "leased" and minds.holder:
            yield from self._by_holder(state, minds.holder, int(run["lease"]))
            yield Move("die parent", (), replace(minds, holder=None), "fault")
        elif continuation == "leased":
            yield self._reclaim(PARENT, minds)
        if state.is_live(PARENT):
            dead = replace(minds, holder=None)
            yield Move("cancel parent", (self._cancel(PARENT),), dead, "event")
            yield Move("cancel-alone parent", (self._cancel(PARENT, children=False),), dead, "event")

    def _by_holder(self, state: State, holder: Holder, fence: int) -> Iterator[Move]:
        minds = state.minds
        for child in holder.invoked - holder.known:
            if self._waits_for(state, child):
                after = replace(holder, invoked=holder.invoked - {child})
                lost = replace(minds, holder=after, live=minds.live - {child}, lost=minds.lost | {child})
                yield Move(f"lose {child}", (self._lose(child, fence),), lost, "event")
        fresh = [child for child in self.children if child not in holder.known | holder.invoked | minds.lost]
        if fresh:
            for child in fresh:
                after = replace(holder, invoked=holder.invoked | {child})
                yield Move(f"invoke {child}", (self._invoke(child, fence),), replace(state.minds, holder=after))
        elif len(holder.known | minds.lost) < len(self.children):
            applied = len(holder.known) + len(self._started(state.memos()))
            yield Move("park parent", (self._park(fence, applied),), replace(state.minds, holder=None))
        else:
            call = self._finish(PARENT, fence, dumps("the parent's result"))
            yield Move("finish parent", (call,), replace(state.minds, holder=None))

    def _of_children(self, state: State) -> Iterator[Move]:
        for child in self.children:
            yield from self._of_child(state, child)

    def _of_child(self, state: State, child: str) -> Iterator[Move]:
        run, minds = state.run(child), state.minds
        continuation = run.get("continuation")
        without = replace(minds, live=minds.live - {child})
        if continuation == "queued":
            yield Move(f"claim {child}", (self._claim(child),), replace(minds, live=minds.live | {child}))
        elif continuation == "leased" and child in minds.live:
            call = self._finish(child, int(run["lease"]), dumps(f"result of {child}"))
            yield Move(f"finish {child}", (call,), replace(without, waking=minds.waking | {child}))
            yield Move(f"die {child}", (), without, "fault")
        elif continuation == "leased":
            yield self._reclaim(child, minds)
        if child in minds.waking:
            awake = replace(minds, waking=minds.waking - {child})
            yield Move(f"wake {child}", (self._wake(child),), awake)
            yield Move(f"forget {child}", (), awake, "fault")
        if state.is_live(child):
            yield Move(f"cancel {child}", (self._cancel(child),), without, "event")
        if self._waits_for(state, child):
            timer = self._expire("TIMEOUTS", f"wait:{PARENT}:{self._key(child)}")
            fire = timers.fire_timers(PARTITION)
            after = without if self._handles else minds
            yield Move(f"timeout {child}", (*timer, fire), after, "event")

    def _of_stream(self, state: State) -> Iterator[Move]:
        entries, pending = state.held.content(_KEYS("FINISHED"), ([], []))
        minds = state.minds
        new = [fields["run"] for entry, fields in entries if entry not in pending]
        left = [fields["run"] for entry, fields in entries if entry in pending and fields["run"] not in minds.waking]
        if new:
            call = messages.read_finished(PARTITION, "reader", limit=1)
            yield Move(f"read {new[0]}", (call,), replace(minds, waking=minds.waking | {new[0]}))
        if left:
            call = messages.take_over_finished(PARTITION, "reader", idle_ms=0)
            yield Move("take-over all", (call,), replace(minds, waking=minds.waking | set(left)))

    def _reclaim(self, run: str, minds: Minds) -> Move:
        return Move(f"reclaim {run}", (*self._expire("LEASES", run), reclaim_leases(PARTITION)), minds)

    # -- what comes of a move ----------------------------------------------------

    def minds_after(self, move: Move, answer: Any, after: Snapshot) -> Minds:
        """What the workers have in mind when the answer has come."""
        match move.verb, answer:
            case "park", ScriptStatus.MORE:
                known = self._known(after.hgetall(_KEYS("MEMOS", PARENT)))
                assert not known & move.minds.lost, "M3: a cancelled step has a memo"
                started = self._started(after.hgetall(_KEYS("MEMOS", PARENT)))
                return replace(move.minds, holder=Holder(known, known | (started - move.minds.lost)))
            case (("park" | "finish"), code):
                assert code is ScriptStatus.DONE, f"M3: the holder was not obeyed: {move.name} was answered {code!r}"
            case "lose", code:
                assert code is ScriptStatus.DONE, f"M3: {move.name} was answered {code!r}"
            case "invoke", (code, _):
                assert code in (ScriptStatus.DONE, ScriptStatus.ALREADY), f"M3: {move.name} was answered {code!r}"
            case "claim", claimed:
                assert [lease.run_id for lease in claimed.leases] == [move.run], f"M3: {move.name} claimed {claimed}"
            case "reclaim", found:
                assert found == [move.run], f"M3: {move.name} found {found}"
            case "read", found:
                assert [one.run_id for one in found] == [move.run], f"M3: {move.name} found {found}"
            case _:
                pass
        return move.minds

    def check(self, before: State, move: Move, after: State) -> None:
        """Fail if a move did what it must not do."""
        self._check_memos(before, move, after)
        for run in (PARENT, *self.children):
            if before.run(run) and not before.is_live(run):
                assert before.run(run) == after.run(run), f"M2: {run} had ended, and {move.name} changed it"
            if not before.run(run) and after.run(run):
                assert move.name == f"invoke {run}", f"M2: {run} was started by {move.name}"

    def check_state(self, state: State) -> None:
        """Fail if a state must not be."""
        ended = {entry.split(" ")[0] for entry in state.held.zrange(_KEYS("EXPIRY"), 0, -1)}
        ids = set(state.held.zrange(_KEYS("LIVE"), 0, -1)) | ended
        assert ids <= {PARENT, *self.children}, f"M2: there are runs {ids}"
        check_invariants(state.held)  # type: ignore[arg-type]

    def _check_memos(self, before: State, move: Move, after: State) -> None:
        old, new = before.memos(), after.memos()
        assert old.items() <= new.items(), f"M1: {move.name} changed a memo"
        woken = before.is_parked(PARENT) and after.run(PARENT).get("continuation")
        assert not woken or len(new) == len(old) + 1, f"M1: {move.name} woke the parent without a memo"
        for key in new.keys() - old.keys():
            if self._handles and move.verb == "invoke" and key == step_key(move.run):
                continue
            child = {self._key(child): child for child in self.children}[key]
            outcome, data = (json.loads(new[key]).get(field) for field in ("outcome", "data"))
            assert move.run == child, f"M1: {move.name} made the memo of {child}"
            assert outcome in self._outcomes(before, move), f"M1: {move.name} made memo {new[key]}"
            assert data == (f"result of {child}" if outcome == "completed" else None), f"M1: the memo is {new[key]}"

    @staticmethod
    def _outcomes(before: State, move: Move) -> tuple[str, ...]:
        """What a step may end as by a move. A timeout that finds a child that has ended, unseen till then, says so."""
        match move.verb:
            case "wake":
                return ("completed",)
            case "cancel":
                return ("cancelled",)
            case "timeout":
                return ("timeout",) if before.is_live(move.run) else ("completed",)
            case _:
                return ()

    def check_rest(self, state: State) -> None:
        """Fail if a state in which nothing more happens by itself is not the end."""
        assert not state.is_live(PARENT), f"M4: the parent stays {state.run(PARENT)}"
        for child in self.children:
            assert not state.is_live(child), f"M4: child {child} stays {state.run(child)}"
        entries, _ = state.held.content(_KEYS("FINISHED"), ([], []))
        assert not entries, f"M4: finished events are left: {entries}"
        for kind in ("TIMEOUTS", "LEASES", "LIVE"):
            assert _KEYS(kind) not in state.held, f"M4: {kind} is left"

    # -- calls that come late, or again --------------------------------------------

    def repeats(self, state: State) -> Iterator[tuple[str, Command[Any], tuple[Any, ...]]]:
        """Calls that must change nothing in a state: a name, the call, the answers that it may have."""
        yield from self._late(state)
        holder, fence = state.minds.holder, int(state.run(PARENT).get("lease", 0))
        for child in holder.invoked if holder else ():
            yield f"invoke {child}, again", self._invoke(child, fence), ((ScriptStatus.ALREADY, self._nothing),)
        for child in state.minds.lost if holder else ():
            yield f"lose {child}, again", self._lose(child, fence), (ScriptStatus.DONE,)
        for child in self.children:
            if state.is_live(child) or child not in self._unseen(state):
                yield f"wake {child}, again", self._wake(child), (None,)
        for run in (PARENT, *self.children):
            if not state.is_live(run):
                yield f"cancel {run}, again", self._cancel(run), (ScriptStatus.ALREADY, ScriptStatus.NO_RUN)
            if state.run(run).get("continuation") != "queued":
                yield f"claim {run}, again", self._claim(run), (job_claims.ClaimedJobs([]),)
        yield "reclaim, again", reclaim_leases(PARTITION), ([],)

    def _unseen(self, state: State) -> set[str]:
        """The children that have left a finished event."""
        entries, _ = state.held.content(_KEYS("FINISHED"), ([], []))
        return {fields["run"] for _, fields in entries}

    def _late(self, state: State) -> Iterator[tuple[str, Command[Any], tuple[Any, ...]]]:
        """The calls of those who have lost their leases, or have given them up."""
        fence = _last_fence(state.run(PARENT))
        for child in self.children:
            answers = tuple((code, self._nothing) for code in _REFUSED)
            yield f"invoke {child}, late", self._invoke(child, fence), answers
            yield f"lose {child}, late", self._lose(child, fence), _REFUSED
        yield "park, late", self._park(fence, 0), _REFUSED
        for run in (PARENT, *self.children):
            call = self._finish(run, _last_fence(state.run(run)), dumps("something else"))
            yield f"finish {run}, late", call, _NOTHING

    # -- calls -------------------------------------------------------------------

    @staticmethod
    def _config(run: str) -> FunctionConfig:
        """Each run waits in a queue of its own, so that they can be claimed in every order."""
        return FunctionConfig("shop", run, run, retention_ms=RETENTION_MS)

    @staticmethod
    def _expire(kind: str, member: str) -> tuple[Command[Any], ...]:
        """Time passes, for this one alone: the others renew their leases, or have longer timeouts."""
        return (command(int, "ZADD", _KEYS(kind), "XX", _NOW_MS - 1, member),)

    @staticmethod
    def _claim(run: str) -> Command[Any]:
        lists = job_claims.queue_lists([run])
        return job_claims.claim_jobs(PARTITION, lists=lists, worker="w", limit=1, lease_ms=_LEASE_MS)

    @property
    def _nothing(self) -> list[Any] | None:
        """What an invoke that changes nothing answers beside its status."""
        return [] if self._handles else None

    def _invoke(self, child: str, fence: int) -> Command[Any]:
        start = ChildStart(
            key=self._key(child),
            step_id=child,
            child=child,
            event=_event(child),
            detail=dumps({"id": child})[1:],
            timeout_ms=_TIMEOUT_MS,
            timeout_memo=memo_of_failure(Failure("InvokeTimeoutError", "too late"), {"outcome": "timeout"}),
            refusal=b"",
            config=self._config(child),
            depth=1,
        )
        if self._handles:
            handle = HandleStart(step_key(child), memo_of_data(b"null", {"id": child}), start, ParentClose.CANCEL)
            return invokes.start_child(PARTITION, handle, run_id=PARENT, fence=fence, version=0)
        return invokes.invoke_child(PARTITION, start, run_id=PARENT, fence=fence, version=0)

    def _lose(self, child: str, fence: int) -> Command[Any]:
        """The parent's code cancels the step that waits for the child, as that of the loser of a race."""
        keys = [self._key(child)]
        return cancel_steps(PARTITION, run_id=PARENT, fence=fence, keys=keys, retention_ms=RETENTION_MS)

    @staticmethod
    def _park(fence: int, applied: int) -> Command[Any]:
        return continuations.park_run(PARTITION, run_id=PARENT, fence=fence, applied=applied)

    @staticmethod
    def _finish(run: str, fence: int, output: bytes) -> Command[Any]:
        return run_ends.finish_run(
            PARTITION,
            run_id=run,
            fence=fence,
            status=RunStatus.COMPLETED,
            payload=output,
            retention_ms=RETENTION_MS,
        )

    @staticmethod
    def _wake(child: str) -> Command[Any]:
        return invokes.wake_parent(PARTITION, child, worker="w")

    @staticmethod
    def _cancel(run: str, *, children: bool = True) -> Command[Any]:
        return run_control.cancel_run(
            PARTITION, run_id=run, failure=_CANCELLED, retention_ms=RETENTION_MS, children=children
        )


def _event(run: str) -> bytes:
    return dumps({"name": "e", "id": run, "ts": 1, "data": {}})


def _last_fence(run: dict[str, str]) -> int:
    """The last fence of a run that is no lease any more."""
    return int(run.get("fence", 0)) - (1 if run.get("continuation") == "leased" else 0)
