"""Every contract test runs on fakeredis and on a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.backends import Store, fake_store, real_store
from tests.support.driver import Driver


@pytest.fixture(params=["fakeredis", "real"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty server."""
    store = fake_store() if request.param == "fakeredis" else real_store(request.getfixturevalue("url"))
    yield store
    if (file := request.config.getoption("--moves")) is not None:
        with file.open("a") as lines:
            lines.writelines(f"{json.dumps([request.node.nodeid, *line])}\n" for line in store.broker.lines())
    store.client.close()
    store.broker.close()


@pytest.fixture
def driver(store: Store) -> Driver:
    """Drives the scripts on the server."""
    return Driver(store)
