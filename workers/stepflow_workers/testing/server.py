"""The server of the tests of a process: started once, or that of ``STEPFLOW_TEST_REDIS_URL``."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock

import redis

from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.redis_client.connection import safe_url
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import NAME, variable

__all__ = ["SERVER_URL", "TestServer", "own_server", "server_at"]

SERVER_URL = variable("TEST_REDIS_URL")


@dataclass
class TestServer:
    """A server with one database for tests. One harness at a time uses it.

    Attributes:
        url: the URL of the database.
        is_own: whether this process has started it. Only such a server may have data that is deleted.
    """

    __test__ = False  # it is no class of tests

    url: str
    is_own: bool
    client: redis.Redis = field(init=False, repr=False)
    _in_use: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.client = redis.Redis.from_url(self.url)

    def take(self) -> None:
        """Take the database for a harness, and empty it.

        Raises:
            ConfigurationError: another harness has it, or it has data and is not ours.
        """
        if not self._in_use.acquire(blocking=False):
            raise ConfigurationError("a harness is in use in this process: leave it before another one is entered")
        try:
            if not self.is_own and self.client.dbsize():
                raise ConfigurationError(
                    f"the database at {safe_url(self.url)} is not empty: tests delete all its data, so {SERVER_URL} "
                    "must name an empty one that no other test run uses"
                )
            self.client.flushdb()
        except BaseException:
            self._in_use.release()
            raise

    def leave(self) -> None:
        """Delete the data of the harness."""
        try:
            self.client.flushdb()
        finally:
            self._in_use.release()


@cache
def own_server() -> TestServer:
    """The server of this process: that of the variable, or one that is started now and ends with the process.

    Raises:
        ConfigurationError: no server program was found.
        BackendUnavailableError: the server did not start.
    """
    if url := os.environ.get(SERVER_URL):
        return server_at(url)
    folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-tests-"))
    server = EmbeddedServer(folder, fsync="no")

    def end() -> None:
        if server.process is not None and server.process.pid and os.getpid() == owner:
            server.kill()
            shutil.rmtree(folder, ignore_errors=True)

    owner = os.getpid()
    server.start()
    atexit.register(end)
    return TestServer(server.url, is_own=True)


@cache
def server_at(url: str) -> TestServer:
    """A server that this process has not started. Its database must be empty."""
    return TestServer(url, is_own=False)
