"""The life of a parent and of its child in another partition, in every order, over the real scripts and a server.

As `tests.support.invoke_model`, for what no script does at once. Those who deliver messages have in mind which, and
what they have been answered so far; each call is a move, and before each they may die. Any entry of a stream may be
taken by another at any time, so a message may be under way twice.

=====  =============================================================================================
``A1``   the step has one memo, for good
``A2``   the child starts once, also when it has been forgotten after its retention
``A3``   when all is let run, nothing lives, and no message is left; a parent that is cancelled ends its child, and
         so does one that cancels the step
=====  =============================================================================================

The invariants of `tests.support.invariants` hold in both partitions in every state too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys, without_tag
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes.invokes import ChildStart
from stepflow_broker.transitions.invokes.outbox import (
    ChildCancelled,
    Message,
    RemoteChildFinished,
    StartChild,
    _try_to_read,
)
from stepflow_broker.transitions.invokes.remote_invokes import deliver, invoke_remote_child
from stepflow_broker.transitions.jobs import continuations, job_claims, timers
from stepflow_broker.transitions.jobs.leases import reclaim_leases
from stepflow_broker.transitions.runs import run_control, run_ends, run_starts
from stepflow_broker.transitions.runs.run_control import forget_runs
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from stepflow_engine.memo import memo_of_failure
from stepflow_engine.state_machine import RunStatus
from tests.support.invariants import Part, check_invariants
from tests.support.plain import plain_at
from tests.support.snapshots import Snapshot

__all__ = ["AwayModel", "Minds", "Move", "State"]

PARENT, CHILD, KEY = "0000parent", "0001child", step_key("call")
_NOW_MS = 1_763_200_000_000
HERE, THERE = plain_at(Keys.over(2), _NOW_MS).all
_LEASE_MS, _TIMEOUT_MS, _RETENTION_MS = 10_000, 60_000, 3_600_000
_CANCELLED = dumps(Failure("RunCancelled", "the run was cancelled").to_json())
_ENTRY = re.compile(r"\d{13}-\d+")
_RECORDS = tuple(Keys()(name) for name in ("ATTEMPTS", "AUDIT", "EVENTS"))
_COUNTS = {"fence", "lease", "deaths", "ended_by", "attempt_started_at", "leased_at"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that somebody delivers, and what the calls for it have been answered so far."""

    message: Message
    answers: tuple[Any, ...] = ()

    def call(self) -> Command[Any] | None:
        """The next call; ``None``: it is done."""
        partition = THERE if isinstance(self.message, RemoteChildFinished) else HERE
        dialogue = deliver(partition, self.message, worker="w")
        try:
            asked = next(dialogue)
            for answer in self.answers:
                asked = dialogue.send([answer])
        except StopIteration:
            return None
        return asked[0]


@dataclass(frozen=True, slots=True)
class Minds:
    """What the workers have in mind.

    Attributes:
        holder: how far the parent's holder is: ``""`` (there is none, or it is dead), fresh, asked, knows.
        has_child: whether the child's holder lives.
        under_way: the messages that are being delivered.
        started: whether the child was ever started.
        unwanted: whether the parent was cancelled with its child, or its code has cancelled the step.
    """

    holder: str = ""
    has_child: bool = False
    under_way: tuple[Delivery, ...] = ()
    started: bool = False
    unwanted: bool = False

    def taking(self, message: Message) -> Minds:
        return replace(self, under_way=(*self.under_way, Delivery(message)))


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the server holds, and what the workers have in mind."""

    held: Snapshot
    minds: Minds

    def run(self, run: str) -> dict[str, str]:
        content: dict[str, str] = self.held.content(HERE.run_key("RUN", run), {})
        return content

    def is_live(self, run: str) -> bool:
        return self.run(run).get("status") in ("queued", "running", "waiting")

    def memos(self) -> dict[str, str]:
        return self.held.hgetall(HERE.keys("MEMOS", PARENT))

    def waits(self) -> bool:
        return f"{KEY}:child" in self.held.hgetall(HERE.keys("STEPS", PARENT))

    def messages(self) -> list[Message]:
        """All that is on the streams."""
        found = []
        for partition in (HERE, THERE):
            for entry, fields in self.held.content(partition.keys("FINISHED"), ([], []))[0]:
                flat = [word.encode() for pair in fields.items() for word in pair]
                found.append(_try_to_read(entry.encode(), flat))
        return found  # type: ignore[return-value]

    def id(self) -> str:
        """What it is known by: entries by their order, and without counts."""
        parts = [
            f"{name} {value.expires} {_shape(value.content)}"
            for name, value in sorted(self.held.items())
            if not _is_record(name)
        ]
        text = f"{parts} {self.minds}"
        order = {entry: f"e{n}" for n, entry in enumerate(sorted(set(_ENTRY.findall(text))))}
        return _ENTRY.sub(lambda entry: order[entry[0]], text)


def _is_record(name: str) -> bool:
    """Whether a key, of any partition, is a record of what was: it only grows, and no script decides by it."""
    return without_tag(name).startswith(_RECORDS)


def _shape(content: Any) -> str:
    if isinstance(content, dict):
        content = sorted((field, text) for field, text in content.items() if field not in _COUNTS)
    return re.sub(r":\d+'", "'", repr(content))


@dataclass(frozen=True, slots=True)
class Move:
    """Something that can happen.

    Attributes:
        calls: what is sent; the answer to the last counts.
        minds: what the workers have in mind then, unless the answer says otherwise.
        kind: ``step`` (it happens in time, if nothing else does), ``event`` (it may happen) or ``fault``.
        delivery: whose next call it is.
    """

    name: str
    calls: tuple[Command[Any], ...]
    minds: Minds
    kind: str = "step"
    delivery: Delivery | None = None


class AwayModel:
    """What can happen in a state, and what must be true of what comes of it.

    Args:
        without: moves that never happen.
        most: how many messages are under way at once.
    """

    def __init__(self, *, without: frozenset[str] = frozenset(), most: int = 1) -> None:
        self._without = without
        self._most = most

    def beginning(self) -> list[Command[Any]]:
        """What makes the first state: the parent is on its queue."""
        event = _event(PARENT)
        start = run_starts.start_run(HERE, _config(PARENT), run_id=PARENT, event=event, dedupe=False)
        groups = [create_group(side.keys, stream) for side in (HERE, THERE) for stream in ("FINISHED", "EVENTS")]
        return [*groups, start]

    # -- moves -------------------------------------------------------------------

    def moves(self, state: State) -> Iterator[Move]:
        """All that can happen in a state."""
        for move in (*self._of_parent(state), *self._of_child(state), *self._of_messages(state)):
            if move.name not in self._without:
                yield move

    def _of_parent(self, state: State) -> Iterator[Move]:
        run, minds = state.run(PARENT), state.minds
        dead = replace(minds, holder="")
        if run.get("continuation") == "queued":
            holder = "knows" if state.memos() or minds.unwanted else "fresh"  # every pass cancels the step again
            yield Move("claim parent", (_claim(HERE, PARENT),), replace(minds, holder=holder))
        elif run.get("continuation") == "leased" and minds.holder:
            yield Move(*self._by_holder(minds, int(run["lease"])))
            if minds.holder == "asked" and state.waits():
                lost = replace(minds, holder="knows", unwanted=True)
                yield Move("lose child", (_lose(int(run["lease"])),), lost, "event")
            yield Move("die parent", (), dead, "fault")
        elif run.get("continuation") == "leased":
            yield Move("reclaim parent", _reclaim(HERE, PARENT), minds)
        if state.is_live(PARENT):
            unwanted = replace(dead, unwanted=state.waits())
            yield Move("cancel parent", (_cancel(PARENT),), unwanted, "event")
            yield Move("cancel parent alone", (_cancel(PARENT, children=False),), dead, "event")
        if state.waits():
            fire = timers.fire_timers(HERE)
            yield Move("timeout", (*_expire(HERE, "TIMEOUTS", f"wait:{PARENT}:{KEY}"), fire), minds, "event")

    @staticmethod
    def _by_holder(minds: Minds, fence: int) -> tuple[str, tuple[Command[Any], ...], Minds]:
        match minds.holder:
            case "fresh":
                return "ask", (_ask(fence),), replace(minds, holder="asked")
            case "asked":
                park = continuations.park_run(HERE, run_id=PARENT, fence=fence, applied=0)
                return "park", (park,), replace(minds, holder="")
        return "finish parent", (_finish(PARENT, fence),), replace(minds, holder="")

    @staticmethod
    def _of_child(state: State) -> Iterator[Move]:
        run, minds = state.run(CHILD), state.minds
        kind = "event" if minds.unwanted else "step"
        gone = replace(minds, has_child=False)
        if run.get("continuation") == "queued":
            yield Move("claim child", (_claim(THERE, CHILD),), replace(minds, has_child=True), kind)
        elif run.get("continuation") == "leased" and minds.has_child:
            yield Move(
                "finish child", (_finish(CHILD, int(run["lease"])),), gone.taking(RemoteChildFinished(CHILD)), kind
            )
            yield Move("die child", (), gone, "fault")
        elif run.get("continuation") == "leased":
            yield Move("reclaim child", _reclaim(THERE, CHILD), minds, kind)
        if state.is_live(CHILD):
            yield Move("cancel child", (_cancel(CHILD),), gone, "event")
        delayed = any(isinstance(one.message, StartChild) and not one.answers for one in minds.under_way)
        if THERE.keys("RUN", CHILD) in state.held and state.held[THERE.keys("RUN", CHILD)].expires and not delayed:
            forget = command(int, "DEL", THERE.keys("RUN", CHILD), THERE.keys("RQ_JOB", CHILD))
            listed = forget_runs(THERE, limit=10)
            yield Move("forget child", (forget, listed), minds, "event")

    def _of_messages(self, state: State) -> Iterator[Move]:
        minds = state.minds
        for n, one in enumerate(minds.under_way):
            rest = replace(minds, under_way=(*minds.under_way[:n], *minds.under_way[n + 1 :]))
            call = one.call()
            assert call is not None
            yield Move(f"call {len(one.answers)} for {_name(one.message)}", (call,), rest, "step", one)
            yield Move(f"die with {_name(one.message)}", (), rest, "fault")
        messages = state.messages()
        under_way = [one.message for one in minds.under_way]
        for message in messages:
            if len(under_way) < self._most:
                again = message in under_way
                early = isinstance(message, ChildCancelled) and any(isinstance(one, StartChild) for one in messages)
                kind = "event" if again or early else "step"
                yield Move(f"take {_name(message)}", (), minds.taking(message), kind)

    # -- what comes of a move ----------------------------------------------------

    def minds_after(self, move: Move, answer: Any) -> Minds:
        """What the workers have in mind when the answer has come."""
        minds = move.minds
        match move.name, answer:
            case "ask", (code, message):
                assert code in (ScriptStatus.DONE, ScriptStatus.ALREADY), f"the holder was not obeyed: {code!r}"
                if message is not None and len(minds.under_way) < self._most:
                    return minds.taking(message)
            case "park", ScriptStatus.MORE:
                return replace(minds, holder="knows")
            case (("park" | "finish parent" | "finish child" | "lose child"), code):
                assert code is ScriptStatus.DONE, f"the holder was not obeyed: {move.name} was answered {code!r}"
            case _:
                pass
        if move.delivery is not None:
            following = replace(move.delivery, answers=(*move.delivery.answers, answer))
            return replace(minds, under_way=(*minds.under_way, following)) if following.call() else minds
        return minds

    def check(self, before: State, move: Move, after: State) -> Minds:
        """Fail if a move did what it must not do, or led to a state that must not be."""
        assert before.memos().items() <= after.memos().items(), f"A1: {move.name} changed a memo"
        is_new = bool(after.run(CHILD)) and not before.run(CHILD)
        assert not (is_new and before.minds.started), f"A2: {move.name} started the child again"
        for partition in (HERE, THERE):
            check_invariants(Part(after.held, partition.tag))  # type: ignore[arg-type]
        return replace(after.minds, started=before.minds.started or is_new)

    def check_rest(self, state: State) -> None:
        """Fail if a state in which nothing more happens by itself is not the end."""
        for run in (PARENT, CHILD):
            assert not state.is_live(run), f"A3: {run} stays {state.run(run)}"
        assert not state.messages(), f"A3: messages are left: {state.messages()}"
        for partition in (HERE, THERE):
            for kind in ("TIMEOUTS", "LEASES", "LIVE"):
                assert partition.keys(kind) not in state.held, f"A3: {kind} is left"


# -- calls -----------------------------------------------------------------------


def _config(run: str) -> FunctionConfig:
    return FunctionConfig("shop", run, run, retention_ms=_RETENTION_MS)


def _event(run: str) -> bytes:
    return dumps({"name": "e", "id": run, "ts": 1, "data": {}})


def _name(message: Message) -> str:
    return type(message).__name__


def _expire(partition: Partition, kind: str, member: str) -> tuple[Command[Any], ...]:
    return (command(int, "ZADD", partition.keys(kind), "XX", _NOW_MS - 1, member),)


def _claim(partition: Partition, run: str) -> Command[Any]:
    lists = job_claims.queue_lists([run])
    return job_claims.claim_jobs(partition, lists=lists, worker="w", limit=1, lease_ms=_LEASE_MS)


def _reclaim(partition: Partition, run: str) -> tuple[Command[Any], ...]:
    looked = command(bytes, "SET", partition.keys("LAST_LEASE_SCAN"), f"{_NOW_MS} 0")
    return (looked, *_expire(partition, "LEASES", run), reclaim_leases(partition))


def _ask(fence: int) -> Command[Any]:
    start = ChildStart(
        key=KEY,
        step_id="call",
        child=CHILD,
        event=_event(CHILD),
        detail=dumps({"id": "call"})[1:],
        timeout_ms=_TIMEOUT_MS,
        timeout_memo=memo_of_failure(Failure("InvokeTimeoutError", "too late"), {"outcome": "timeout"}),
        refusal=b"",
        config=_config(CHILD),
        depth=1,
    )
    return invoke_remote_child(HERE, start, run_id=PARENT, fence=fence, version=0)


def _lose(fence: int) -> Command[Any]:
    """The parent's code cancels the step, as that of the loser of a race."""
    return cancel_steps(HERE, run_id=PARENT, fence=fence, keys=[KEY], retention_ms=_RETENTION_MS)


def _finish(run: str, fence: int) -> Command[Any]:
    return run_ends.finish_run(
        HERE,
        run_id=run,
        fence=fence,
        status=RunStatus.COMPLETED,
        payload=b'"done"',
        retention_ms=_RETENTION_MS,
    )


def _cancel(run: str, *, children: bool = True) -> Command[Any]:
    return run_control.cancel_run(HERE, run_id=run, failure=_CANCELLED, retention_ms=_RETENTION_MS, children=children)
