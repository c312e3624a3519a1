"""The explorer: visits every state of the invoke model, and says by which moves it came to one that must not be."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stepflow_broker.protocol.keys import Keys
from stepflow_engine.errors import StepflowError
from tests.support.invoke_model import InvokeModel, Minds, Move, State
from tests.support.snapshots import Snapshot, SnapshotServer, Value

__all__ = ["Explored", "Violation", "explore"]

_KEYS = Keys()
_RECORDS = tuple(_KEYS(name) for name in ("RQ_QUEUES", "ATTEMPTS", "AUDIT", "EVENTS"))
"""Records of what was. They only grow, and no script decides by them: they do not make states different."""
_COUNTS = {"fence", "lease", "deaths", "finished", "ended_by", "attempt_started_at", "leased_at"}
_Id = tuple[frozenset[str], Minds]


class Violation(AssertionError):
    """A state that must not be, or a move that must not be possible, and the moves that lead there."""


@dataclass(slots=True)
class Explored:
    """What was visited.

    Attributes:
        states, transitions, repeats: how many states, moves between them, and calls sent again in them.
        ends: states in which nothing more happens.
    """

    states: int = 0
    transitions: int = 0
    repeats: int = 0
    ends: int = 0

    def __str__(self) -> str:
        return (
            f"{self.states} states, {self.transitions} transitions, {self.ends} ends, "
            f"{self.repeats} calls that came late or again"
        )


@dataclass(slots=True)
class _Node:
    """A state that was visited: how it was reached, and where it leads to by itself."""

    number: int
    came_from: _Node | None
    by: str
    leads_to: list[int] = field(default_factory=list)

    def path(self) -> list[str]:
        return [*self.came_from.path(), self.by] if self.came_from else []


def explore(server: SnapshotServer, model: InvokeModel) -> Explored:
    """Visit every state, depth first.

    Raises:
        Violation: the first one that is found.
    """
    return _Search(server, model).run()


class _Search:
    def __init__(self, server: SnapshotServer, model: InvokeModel) -> None:
        self._server = server
        self._model = model
        self._nodes: dict[_Id, _Node] = {}
        self._twins = model.twins()
        self._shapes: dict[tuple[str, Value, int], str] = {}
        self._found = Explored()

    def run(self) -> Explored:
        _, snapshot = self._server.send(Snapshot(), *self._model.beginning())
        first = State(snapshot, Minds())
        open_states = [(first, self._enter(first, None, "")[0])]
        while open_states:
            state, node = open_states.pop()
            open_states.extend(self._visit(state, node))
        self._check_progress()
        self._found.states = len(self._nodes)
        return self._found

    def _visit(self, state: State, node: _Node) -> Iterator[tuple[State, _Node]]:
        """Try all that can happen in a state; gives the states that are new."""
        self._send_again(state, node)
        for move in self._model.moves(state):
            after, following, new = self._make(state, node, move)
            self._found.transitions += 1
            if move.kind == "step":
                node.leads_to.append(following.number)
            if new:
                yield after, following
        if not node.leads_to:
            self._found.ends += 1
            with _led_by(node.path):
                self._model.check_rest(state)

    def _make(self, state: State, node: _Node, move: Move) -> tuple[State, _Node, bool]:
        """Let a move happen: the state after it, its node, and whether it is new."""
        with _led_by(lambda: [*node.path(), move.name]):
            answers, snapshot = self._server.send(state.held, *move.calls) if move.calls else ([None], state.held)
            after = State(snapshot, self._model.minds_after(move, answers[-1], snapshot))
            self._model.check(state, move, after)
            following, new = self._enter(after, node, move.name)
            if new:
                self._model.check_state(after)
        return after, following, new

    def _send_again(self, state: State, node: _Node) -> None:
        """Send what was sent before: nothing changes."""
        repeats = list(self._model.repeats(state))
        self._found.repeats += len(repeats)
        with _led_by(node.path):
            answers, after = self._server.send(state.held, *[call for _, call, _ in repeats])
            for (name, _, expected), answer in zip(repeats, answers, strict=True):
                assert answer in expected, f"M3: {name}: answered {answer!r}"
            changed = after.changed_from(state.held)
            assert not changed, f"M3: {[name for name, _, _ in repeats]} changed {changed}"

    def _enter(self, state: State, came_from: _Node | None, by: str) -> tuple[_Node, bool]:
        """The node of a state, and whether it is new."""
        ids = [self._id(state, number) for number in range(len(self._twins))]
        known = next((self._nodes[id] for id in ids if id in self._nodes), None)
        if known is not None:
            return known, False
        node = self._nodes[ids[0]] = _Node(len(self._nodes), came_from, by)
        return node, True

    def _id(self, state: State, twin: int) -> _Id:
        """What a state is known by, with the children's names changed in one of all ways."""
        shapes = frozenset(
            self._shape(name, value, twin) for name, value in state.held.items() if not name.startswith(_RECORDS)
        )
        return shapes, state.minds.renamed(self._twins[twin])

    def _shape(self, name: str, value: Value, twin: int) -> str:
        """A key's value without what does not make states different."""
        found = self._shapes.get((name, value, twin))
        if found is None:
            found = self._shapes[name, value, twin] = _shape_of(name, value, self._twins[twin])
        return found

    def _check_progress(self) -> None:
        """What happens by itself comes to an end: no state leads back to itself."""
        nodes = list(self._nodes.values())
        waits_for = [len(node.leads_to) for node in nodes]
        before: list[list[int]] = [[] for _ in nodes]
        for node in nodes:
            for following in node.leads_to:
                before[following].append(node.number)
        settled = [node.number for node in nodes if not node.leads_to]
        for number in settled:
            for earlier in before[number]:
                waits_for[earlier] -= 1
                if not waits_for[earlier]:
                    settled.append(earlier)
        if len(settled) < len(nodes):
            endless = next(node for node in nodes if waits_for[node.number])
            with _led_by(endless.path):
                raise AssertionError("M4: there is no end to what follows")


def _shape_of(name: str, value: Value, names: dict[str, str]) -> str:
    content = value.content
    match value.type:
        case "hash":
            parts: list[object] = [(field, text) for field, text in content.items() if field not in _COUNTS]
        case "zset" if name.startswith(_KEYS("RQ_WIP")):
            parts = [re.sub(r":\d+$", "", member) for member in content]
        case "zset":
            parts = list(content.items())
        case "stream":
            entries, pending = content
            parts = [(n, fields["run"], entry in pending) for n, (entry, fields) in enumerate(entries)]
        case "list":
            parts = list(enumerate(content))
        case "set":
            parts = content
        case _:
            parts = [content]
    pattern = "|".join(names)
    return " ".join(sorted(re.sub(pattern, lambda found: names[found[0]], repr(part)) for part in [name, *parts]))


@contextlib.contextmanager
def _led_by(path: Callable[[], list[str]]) -> Iterator[None]:
    """Say by which moves what is found wrong came to be."""
    try:
        yield
    except (AssertionError, StepflowError) as error:
        raise Violation(f"{error}\nafter: {', '.join(path())}") from error
