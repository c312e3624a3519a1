"""The moves that a transition really makes, compared with those that the table of the state machine allows."""

from __future__ import annotations

import re
from collections.abc import Iterator

import redis

from stepflow_broker.protocol.keys import Keys
from stepflow_engine.state_machine import NONE, TRANSITIONS, ContinuationState, Machine, Move, RunStatus, StepState
from tests.support.invariants import Part

__all__ = ["States", "check_moves", "read_states"]

_KEYS = Keys()
States = dict[tuple[Machine, str], str]
"""The machines, by the run or step that they belong to, and their states."""


def read_states(client: redis.Redis, keys: Keys) -> States:
    """The states of everything on the server. ``client`` decodes replies."""
    return dict(state for one in keys.all for state in _states(Part(client, one.partition)))


def _states(client: Part) -> Iterator[tuple[tuple[Machine, str], str]]:
    prefix = _KEYS("RUN")
    for name in client.scan_iter(f"{prefix}*", count=1000):
        run = name.removeprefix(prefix)
        status, continuation = client.hmget(name, "status", "continuation")
        if status is None:
            continue
        yield (Machine.RUN, run), status
        parked = NONE if RunStatus(status).ended else ContinuationState.PARKED
        yield (Machine.CONTINUATION, run), continuation or parked
        for field, state in client.hgetall(_KEYS("STEPS", run)).items():
            if found := re.fullmatch(r"(\w+):state", field):
                yield (Machine.STEP, f"{run}-{found[1]}"), state
        for key in client.hkeys(_KEYS("MEMOS", run)):
            yield (Machine.STEP, f"{run}-{key}"), StepState.MEMO


def check_moves(transition: str, before: States, after: States) -> None:
    """Fail if a transition has made a move that the table does not allow, even by several moves one after the other."""
    allowed = TRANSITIONS[transition].all_moves
    gone = {run for machine, run in before.keys() - after.keys() if machine is Machine.RUN}  # expired
    for machine, subject in before.keys() | after.keys():
        if subject.partition("-")[0] in gone:
            continue
        old, new = before.get((machine, subject), NONE), after.get((machine, subject), NONE)
        if old != new:
            made = Move(machine, old, new)
            assert new in _reachable(allowed, machine, old), (
                f"{transition} makes a move that is not in its table: {made}"
            )


def _reachable(moves: frozenset[Move], machine: Machine, start: str) -> set[str]:
    found = {start}
    while more := {m.after for m in moves if m.machine is machine and m.before in found} - found:
        found |= more
    return found
