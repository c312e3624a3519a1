"""Every order in which a parent and its child in another partition, messages and dying workers can meet.

One message is under way at a time. ``STEPFLOW_INTERLEAVINGS=long`` adds cancels and deaths of the child.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stepflow_broker.embedded_server import EmbeddedServer
from tests.property.mutations import AWAY_MUTATIONS, Mutation, mutated
from tests.support.remote_model import AwayModel, Minds, Move, State
from tests.support.snapshots import Snapshot, SnapshotServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that holds nothing for longer than a test."""
    with EmbeddedServer(tmp_path_factory.mktemp("away"), appendonly="no") as running:
        yield running


class Visits:
    """The states that were visited, how each was reached, and where each leads by itself."""

    def __init__(self, server: SnapshotServer, model: AwayModel) -> None:
        self._server = server
        self._model = model
        self.came_from: dict[str, tuple[str, str]] = {}
        self.leads_to: dict[str, set[str]] = {}
        self.transitions = 0

    def run(self) -> None:
        """Visit every state."""
        _, held = self._server.send(Snapshot(), *self._model.beginning())
        first = State(held, Minds())
        self.came_from[first.id()] = ("", "")
        open_states = [first]
        while open_states:
            state = open_states.pop()
            open_states += self._visit(state)
        self._check_progress()

    def _visit(self, state: State) -> Iterator[State]:
        number, steps = state.id(), set[str]()
        for move in self._model.moves(state):
            with self._led_by(number, move.name):
                after = self._make(state, move)
            self.transitions += 1
            known = after.id()
            if move.kind == "step":
                steps.add(known)
            if known not in self.came_from:
                self.came_from[known] = (number, move.name)
                yield after
        self.leads_to[number] = steps
        if not steps:
            with self._led_by(number, "rest"):
                self._model.check_rest(state)

    def _make(self, state: State, move: Move) -> State:
        answers, held = self._server.send(state.held, *move.calls) if move.calls else ([None], state.held)
        after = State(held, self._model.minds_after(move, answers[-1]))
        return replace(after, minds=self._model.check(state, move, after))

    def _check_progress(self) -> None:
        """What happens by itself comes to an end: no state leads back to itself."""
        left = {number: set(steps) for number, steps in self.leads_to.items()}
        before: dict[str, list[str]] = {number: [] for number in left}
        for number, steps in left.items():
            for following in steps:
                before[following].append(number)
        settled = [number for number, steps in left.items() if not steps]
        for number in settled:
            for earlier in before[number]:
                left[earlier].discard(number)
                if not left[earlier]:
                    settled.append(earlier)
        endless = set(left) - set(settled)
        assert not endless, f"there is no end to what follows: {self._path(min(endless, key=len))}"

    @contextlib.contextmanager
    def _led_by(self, number: str, move: str) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{error}\nafter: {', '.join([*self._path(number), move])}") from error

    def _path(self, number: str) -> list[str]:
        moves = list[str]()
        while number:
            number, move = self.came_from[number]
            moves.insert(0, move)
        return moves[1:]


_SIZES = [pytest.param(("cancel child", "cancel parent alone", "die child"), 1, 1_000, id="one-delivers")]
if os.environ.get("STEPFLOW_INTERLEAVINGS") == "long":
    _SIZES.append(pytest.param((), 1, 10_000, id="one-delivers-and-all-happens"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("without", "most", "states_at_least"), _SIZES)
def test_in_every_order_the_child_starts_once_and_the_parent_is_told_once(
    own_server: EmbeddedServer,
    without: tuple[str, ...],
    most: int,
    states_at_least: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with contextlib.closing(SnapshotServer(own_server.url)) as server:
        visits = Visits(server, AwayModel(without=frozenset(without), most=most))
        visits.run()
    with capsys.disabled():
        print(f"\na child in another partition: {len(visits.came_from)} states, {visits.transitions} transitions")
    assert len(visits.came_from) >= states_at_least, "the model has shrunk"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutation", AWAY_MUTATIONS, ids=str)
def test_a_deliberate_bug_is_found(own_server: EmbeddedServer, tmp_path: Path, mutation: Mutation) -> None:
    with (
        mutated(mutation, tmp_path),
        contextlib.closing(SnapshotServer(own_server.url)) as server,
        pytest.raises(AssertionError) as found,
    ):
        Visits(server, AwayModel()).run()
    print(f"{mutation.name}: {found.value}")
