"""Every order in which a parent, its children, timeouts, cancels and dying workers can meet, over the real scripts.

``STEPFLOW_INTERLEAVINGS=long`` does the same with three children; that takes long.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepflow_broker.server import EmbeddedServer
from tests.property.mutations import MUTATIONS, Mutation, mutated
from tests.support.explorer import Violation, explore
from tests.support.invoke_model import InvokeModel
from tests.support.snapshots import SnapshotServer

_CHILDREN = [1, 2, 3] if os.environ.get("STEPFLOW_INTERLEAVINGS") == "long" else [1, 2]
_STATES_AT_LEAST = {1: 150, 2: 5_000, 3: 50_000}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that holds nothing for longer than a test."""
    with EmbeddedServer(tmp_path_factory.mktemp("interleavings"), appendonly="no") as running:
        yield running


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("children", _CHILDREN)
def test_in_every_order_the_parent_is_woken_once_with_one_outcome(
    own_server: EmbeddedServer, children: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(SnapshotServer(own_server.url)) as server:
        found = explore(server, InvokeModel(children=children))
    with capsys.disabled():
        print(f"\na parent and {children} child(ren): {found}")
    assert found.states >= _STATES_AT_LEAST[children], "the model has shrunk"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_deliberate_bug_is_found(own_server: EmbeddedServer, tmp_path: Path, mutation: Mutation) -> None:
    with (
        mutated(mutation, tmp_path),
        contextlib.closing(SnapshotServer(own_server.url)) as server,
        pytest.raises(Violation) as found,
    ):
        explore(server, InvokeModel())
    print(f"{mutation.name}: {found.value}")
