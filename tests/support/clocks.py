"""Wrong clocks, by libfaketime: of processes that are started with one, and of a server whose clock is moved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.support.redis_server import FaultyServer
from tests.support.requirements import libfaketime, missing

__all__ = ["MovedServer", "find_faketime", "shifted"]


def find_faketime() -> Path:
    """The library. A test that uses it is marked ``needs("libfaketime")``."""
    found = libfaketime()
    assert found is not None, missing(("libfaketime",))
    return found


def shifted(seconds: int) -> dict[str, str]:
    """The variables of a process whose clock is this much ahead. The time that only grows is right."""
    return _faked() | {"FAKETIME": f"{seconds:+d}"}


def _faked() -> dict[str, str]:
    """The C library comes before jemalloc, which asks for the time before libfaketime is ready to tell it."""
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so" in line)
    return {"LD_PRELOAD": f"{find_faketime()}:{libc}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class MovedServer(FaultyServer):
    """A server whose clock can be moved while it runs.

    Attributes:
        moves: how often it was.
    """

    moves = 0

    def start(self) -> MovedServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(0)
        variables = {"FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1"}
        with _environment(_faked() | variables):
            super().start()
        return self

    @property
    def _file(self) -> Path:
        return self.folder / "clock"

    def _write(self, seconds: int) -> None:
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self._file)

    def move(self, seconds: int) -> None:
        """Set its clock this much ahead of the right one."""
        self._write(seconds)
        self.moves += 1

    def now(self) -> float:
        """Its time, in seconds since the epoch."""
        with redis.Redis(port=self.port) as client:
            seconds, micros = client.time()
            return float(seconds) + float(micros) / 1e6


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
