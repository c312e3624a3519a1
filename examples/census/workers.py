"""The worker processes of the demo: ``stepflow-worker``, as in production."""

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
    """The demo cannot continue; the message says why."""


class Worker:
    """A worker process that executes the census.

    Args:
        name: the name of the worker.
        url: the URL of the server.
        folder: the folder of its log.
    """

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        arguments = ["examples.census.flow:app", "--name", name, "--concurrency", str(_CONCURRENCY), "--redis-url", url]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stepflow_cli.commands.worker", *arguments], cwd=_ROOT, stdout=log, stderr=log
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it like a crash, with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop it with SIGTERM and wait until it has ended."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def started_workers(names: Sequence[str], url: str, folder: Path) -> Iterator[list[Worker]]:
    """Start workers and wait until they have registered; stop them at the end.

    Raises:
        DemoError: a worker does not start.
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
                raise DemoError(f"{worker.name} ended before it registered:\n{worker.log.read_text()}")
        if time.monotonic() > deadline:
            raise DemoError(f"the workers did not start within {_START_S:.0f} s")
        time.sleep(0.05)
    broker.close()
