"""The demo's worker processes: two ``stepflow-worker``, as they would run on any machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker

__all__ = ["DemoError", "Worker", "started_workers"]

_ROOT = Path(__file__).parents[2]
_CONCURRENCY = 2
_START_S = 60.0
_STOP_S = 40.0


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Worker:
    """A worker process that serves the census.

    Args:
        name: the worker's name.
        url: the server's.
        folder: where its log is written.
    """

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        words = ["examples.census.flow:app", "--name", name, "--concurrency", str(_CONCURRENCY), "--redis-url", url]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stepflow_cli.commands.worker", *words], cwd=_ROOT, stdout=log, stderr=log
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it as a crash would: SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def started_workers(names: Sequence[str], url: str, folder: Path) -> Iterator[list[Worker]]:
    """Workers that have registered; they are stopped at the end.

    Raises:
        DemoError: one of them does not start.
    """
    workers = [Worker(name, url, folder) for name in names]
    try:
        _await_registration(workers, url)
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _await_registration(workers: Sequence[Worker], url: str) -> None:
    broker, deadline = Broker(url), time.monotonic() + _START_S
    count = command(int, "SCARD", Keys()("RQ_WORKERS"))
    while broker.execute(count) < len(workers):
        for worker in workers:
            if not worker.alive:
                raise DemoError(f"{worker.name} ended before it began:\n{worker.log.read_text()}")
        if time.monotonic() > deadline:
            raise DemoError(f"the workers did not start within {_START_S:.0f} s")
        time.sleep(0.05)
    broker.close()
