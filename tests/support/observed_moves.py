"""The moves that transitions really make, compared with those that the table of the state machine allows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import redis

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys
from stepflow_engine.state_machine import NONE, TRANSITIONS, ContinuationState, Machine, Move, RunStatus, StepState

__all__ = ["MoveRecorder", "SendsCommands", "States", "moves_between", "read_states"]

T = TypeVar("T")
_KEYS = Keys()
_STATE_FIELD = re.compile(r"(\w+):state")
States = dict[tuple[Machine, str, str], str]
"""The states by machine, run and step key (``""``: none)."""


class SendsCommands(Protocol):
    """A broker, as the tests use it."""

    def execute(self, call: Command[T]) -> T: ...

    def execute_all(self, calls: Sequence[Command[T]]) -> list[T]: ...

    def close(self) -> None: ...


class MoveRecorder:
    """A broker that reads the states before and after each script, and fails when a script has made an unnamed move.

    Args:
        broker: sends the commands.
        client: reads the states; a client of the same server that decodes replies.

    Attributes:
        made: the moves that each transition has made, by its name.
    """

    def __init__(self, broker: SendsCommands, client: redis.Redis) -> None:
        self._broker = broker
        self._client = client
        self.made: dict[str, set[Move]] = defaultdict(set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def execute(self, call: Command[T]) -> T:
        """Send a command. If it is a script, check its moves."""
        if call.script is None:
            return self._broker.execute(call)
        before = read_states(self._client)
        answer = self._broker.execute(call)
        self._check([call.script.name], before)
        return answer

    def execute_all(self, calls: Sequence[Command[T]]) -> list[T]:
        """Send commands in one round trip, and check the moves of all scripts together."""
        names = [call.script.name for call in calls if call.script is not None]
        if not names:
            return self._broker.execute_all(calls)
        before = read_states(self._client)
        answers = self._broker.execute_all(calls)
        self._check(names, before)
        return answers

    def lines(self) -> Iterator[tuple[str, Machine, str, str]]:
        """The moves that were made: the transition, the machine, and its state before and after."""
        for name, moves in sorted(self.made.items()):
            for move in sorted(moves, key=str):
                yield name, move.machine, move.before, move.after

    def _check(self, names: Sequence[str], before: States) -> None:
        made = set(moves_between(before, read_states(self._client)))
        allowed = frozenset[Move]().union(*(TRANSITIONS[name].all_moves for name in names))
        for move in made:
            assert move.after in _reachable(allowed, move), f"{', '.join(names)}: MOVES does not name {move}"
        if len(set(names)) == 1:
            self.made[names[0]] |= made & allowed


def moves_between(before: States, after: States) -> Iterator[Move]:
    """The moves from some states to others. A run that has expired makes none."""
    expired = {run for machine, run, _ in before.keys() - after.keys() if machine is Machine.RUN}
    for subject in before.keys() | after.keys():
        machine, run, _ = subject
        old, new = before.get(subject, NONE), after.get(subject, NONE)
        if old != new and run not in expired:
            yield Move(machine, old, new)


def _reachable(moves: Iterable[Move], made: Move) -> set[str]:
    """The states that a machine can reach by one or several moves: a script may make them one after the other."""
    found, of_machine = {made.before}, [move for move in moves if move.machine is made.machine]
    while more := {move.after for move in of_machine if move.before in found} - found:
        found |= more
    return found


def read_states(client: redis.Redis) -> States:
    """The states of all runs and steps in all partitions of a server, in two round trips."""
    prefix = _KEYS("RUN")
    names = client.keys(f"*{prefix}*")
    pipeline = client.pipeline(transaction=False)
    for name in names:
        tag, _, run = name.partition(prefix)
        pipeline.hmget(name, "status", "continuation")
        pipeline.hgetall(tag + _KEYS("STEPS", run))
        pipeline.hkeys(tag + _KEYS("MEMOS", run))
    replies = iter(pipeline.execute() if names else ())
    return dict(
        state
        for name, fields, steps, memos in zip(names, replies, replies, replies, strict=True)
        for state in _states(name.partition(prefix)[2], fields, steps, memos)
    )


def _states(
    run: str, fields: Sequence[str | None], steps: Mapping[str, str], memos: Sequence[str]
) -> Iterator[tuple[tuple[Machine, str, str], str]]:
    status, continuation = fields
    if status not in set(RunStatus):  # a test has damaged it
        return
    yield (Machine.RUN, run, ""), status
    parked = NONE if RunStatus(status).ended else ContinuationState.PARKED
    yield (Machine.CONTINUATION, run, ""), continuation or parked
    for field, state in steps.items():
        if found := _STATE_FIELD.fullmatch(field):
            yield (Machine.STEP, run, found[1]), state
    for key in memos:
        yield (Machine.STEP, run, key), StepState.MEMO
