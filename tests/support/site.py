"""A site: a server of its own, the worker processes that it has, and what a test wants to know of them."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
import redis

from tests.support.ledgers import EffectLedger
from tests.support.processes import WorkerProcess, until
from tests.support.redis_server import FaultyServer

__all__ = ["Site"]

APP = "tests.chaos.faults_app:app"
CONSUMING_S = 20.0
"""How long a worker may take to execute a step again after a fault before it counts as deaf."""


class Site:
    """Owns a server and workers for one test.

    Args:
        folder: of the server's data and the workers' logs.
        capsys: of the test, to print the seed and the figures.
        kind: the server's class.
        fsync, options: of the server; see `EmbeddedServer`.

    Attributes:
        server: it runs while the site is entered.
        client: decodes replies.
        workers: those that were started, also the dead.
        seed, chance: whatever the test does at random, it does by these.
    """

    def __init__(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        *,
        kind: type[FaultyServer] = FaultyServer,
        fsync: str = "everysec",
        **options: str,
    ) -> None:
        self._folder = folder
        self._capsys = capsys
        self.seed = random.randrange(1_000_000)
        self.chance = random.Random(self.seed)
        self.server = kind(folder / "server", fsync=fsync, **options)
        self.workers: list[WorkerProcess] = []

    def __enter__(self) -> Site:
        self.server.start()
        self.client = redis.Redis.from_url(self.server.url, decode_responses=True)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.alive:
            worker.kill()
        self.client.close()
        self.server.stop()
        for worker in self.workers:
            print(f"--- {worker.log.name}\n{worker.log.read_text()[-20_000:]}")
        print(f"--- server.log\n{(self._folder / 'server' / 'server.log').read_text()[-5_000:]}")

    def say(self, line: str) -> None:
        """Print a line that is seen also when the test passes."""
        with self._capsys.disabled():
            print(f"\n{line} (seed {self.seed})", end="")

    @property
    def alive(self) -> list[WorkerProcess]:
        """The workers that run."""
        return [worker for worker in self.workers if worker.process.poll() is None]

    def start_workers(self, count: int, *, url: str = "", **settings: object) -> list[WorkerProcess]:
        """Start workers, and wait until they have: before that, one whose server is away ends, as it should.

        Args:
            url: the server as they see it; by default directly.
        """
        started = [self._start_worker(url or self.server.url, settings) for _ in range(count)]
        until(lambda: all(" worker_started " in worker.log.read_text() for worker in started), what="the workers")
        return started

    def _start_worker(self, url: str, settings: dict[str, object]) -> WorkerProcess:
        log = self._folder / f"worker-{len(self.workers) + 1}.log"
        self.workers.append(WorkerProcess(url, APP, log=log, **settings))
        return self.workers[-1]

    def kill_workers(self) -> None:
        """Kill all workers."""
        for worker in self.alive:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()

    def await_work(self, effects: EffectLedger) -> float:
        """Wait until each worker that runs has executed a step from now on; how many seconds that took."""
        began, began_ns = time.monotonic(), time.monotonic_ns()
        wanted = {worker.pid for worker in self.alive}
        assert wanted, "no worker runs"
        until(lambda: wanted <= pids_since(effects, began_ns), seconds=CONSUMING_S, what=f"work by all of {wanted}")
        return time.monotonic() - began

    @property
    def reclaimed(self) -> int:
        """How many jobs the workers say that they have reclaimed, because their leases ran out."""
        logs = "".join(worker.log.read_text() for worker in self.workers)
        return sum(int(count) for count in re.findall(r"jobs_reclaimed .*?count=(\d+)", logs))


def pids_since(effects: EffectLedger, moment_ns: int) -> set[int]:
    """The processes that have executed handlers since a moment of `time.monotonic_ns`."""
    return {effect.pid for effect in effects.effects() if effect.at_ns >= moment_ns}
