"""Every order in which a parent, its children, timeouts, cancels and dying workers can meet, over the real scripts.

pytestmark = pytest.mark.slow

Of one and of two children, all that can happen is tried. ``STEPFLOW_INTERLEAVINGS=long`` adds three children, in two
parts: with cancels, and with workers that forget what they were about to see to. That takes some minutes more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepflow_broker.embedded_server import EmbeddedServer
from tests.property.mutations import MUTATIONS, UNDO_MUTATIONS, Mutation, mutated
from tests.support.explorer import Violation, explore
from tests.support.invoke_model import InvokeModel
from tests.support.snapshots import SnapshotServer
from tests.support.undo_model import UndoModel

_SIZES = [
    pytest.param(1, (), 150, False, id="one-child"),
    pytest.param(1, (), 100, True, id="one-handle"),
    pytest.param(2, (), 5_000, False, id="two-children", marks=pytest.mark.slow),
    pytest.param(2, (), 2_000, True, id="two-handles", marks=pytest.mark.slow),
]
_LONG_SIZES = [
    pytest.param(3, ("cancel-alone", "die", "forget"), 25_000, False, id="three-children-and-cancels"),
    pytest.param(3, ("cancel-alone", "die", "cancel"), 20_000, False, id="three-children-and-forgetting"),
]
if os.environ.get("STEPFLOW_INTERLEAVINGS") == "long":
    _SIZES += _LONG_SIZES


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that holds nothing for longer than a test."""
    with EmbeddedServer(tmp_path_factory.mktemp("interleavings"), appendonly="no") as running:
        yield running


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("children", "without", "states_at_least", "handles"), _SIZES)
def test_in_every_order_the_parent_is_woken_once_with_one_outcome(
    own_server: EmbeddedServer,
    children: int,
    without: tuple[str, ...],
    states_at_least: int,
    handles: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with contextlib.closing(SnapshotServer(own_server.url)) as server:
        found = explore(server, InvokeModel(children=children, without=frozenset(without), handles=handles))
    with capsys.disabled():
        print(f"\na parent and {children} child(ren){' with handles' if handles else ''}: {found}")
    assert found.states >= states_at_least, "the model has shrunk"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_every_order_what_has_completed_is_undone_before_the_end(
    own_server: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(SnapshotServer(own_server.url)) as server:
        explored = explore(server, UndoModel(children=1))
    with capsys.disabled():
        print(f"\na parent and a child that undo their steps: {explored}")
    assert explored.states >= 500, "the model has shrunk"


@pytest.mark.parametrize(
    ("mutation", "model"),
    [
        *(pytest.param(mutation, InvokeModel(), id=str(mutation)) for mutation in MUTATIONS),
        *(pytest.param(mutation, UndoModel(children=1), id=str(mutation)) for mutation in UNDO_MUTATIONS),
    ],
)
def test_a_deliberate_bug_is_found(
    own_server: EmbeddedServer, tmp_path: Path, mutation: Mutation, model: InvokeModel
) -> None:
    with (
        mutated(mutation, tmp_path),
        contextlib.closing(SnapshotServer(own_server.url)) as server,
        pytest.raises(Violation) as found,
    ):
        explore(server, model)
    print(f"{mutation.name}: {found.value}")
