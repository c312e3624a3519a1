"""Clients of a server that moves: where their connections lead afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.redis_client.locator import Address, LocatedServer, Search

pytestmark = pytest.mark.single_server("two servers of its own")


class MovableLocator:
    """Returns the address of the server that the test names."""

    options: Mapping[str, Any] = {}
    address: Address | None = None

    def __init__(self) -> None:
        self.port = 0
        self.searches = 0

    def search(self) -> Search:
        self.searches += 1
        yield from ()
        return "127.0.0.1", self.port


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    with ExitStack() as stack:
        servers = [EmbeddedServer(Path(tmp_path_factory.mktemp(name))) for name in ("old", "new")]
        for server in servers:
            server.start()
            stack.callback(server.stop)
        yield [server.port for server in servers]


def test_idle_connections_to_the_old_address_are_left_once_one_connection_has_found_the_new_one(
    ports: list[int],
) -> None:
    locator = MovableLocator()
    locator.port = ports[0]
    client = LocatedServer(locator, {"protocol": 2}).client()
    pool = client.connection_pool
    first, second = pool.get_connection(), pool.get_connection()
    assert [first.port, second.port] == [ports[0]] * 2
    locator.port = ports[1]
    for connection in (first, second):
        pool.release(connection)
    second.disconnect()  # the pool hands it out first
    taken = [pool.get_connection(), pool.get_connection()]
    assert {connection.port for connection in taken} == {ports[1]}
    for connection in taken:
        pool.release(connection)
    searches = locator.searches
    assert client.ping()
    assert locator.searches == searches
    client.close()


async def test_an_asyncio_client_searches_for_each_connection(ports: list[int]) -> None:
    locator = MovableLocator()
    client = LocatedServer(locator, {"protocol": 2}).async_client()
    for port in ports:
        locator.port = port
        assert (await client.config_get("port"))["port"] == str(port)
        await client.connection_pool.disconnect()
    assert locator.searches == 2
    await client.aclose()
