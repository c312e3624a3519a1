"""Two databases of a server have the same channels. Their runs have the same ids, and their workers the same names."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from stepflow import RunCancelledError, RunStatus, Stepflow
from stepflow.client.run import Run
from tests.chaos.health import check_health
from tests.support.partition_merging_client import whole_client
from tests.support.processes import WorkerProcess, until

APP = "tests.chaos.databases_app:app"


class Database:
    """One of the databases, with its workers."""

    def __init__(self, url: str, folder: Path, number: int) -> None:
        self.url = f"{url.rpartition('/')[0]}/{number}"
        self.app = Stepflow("databases", redis_url=self.url)
        self.number = str(number)
        self._folder = folder
        self._starts = 0
        self.workers = [self._start(name) for name in ("one", "two")]

    def _start(self, name: str) -> WorkerProcess:
        self._starts += 1
        log = self._folder / f"worker-{self.number}-{self._starts}.log"
        return WorkerProcess(self.url, APP, log=log, name=name, lease_ms=1_000, env={"DATABASE": self.number})

    def kill_one(self) -> None:
        """Kill the first worker, and start another with its name."""
        self.workers.pop(0).kill()
        self.workers.append(self._start("one"))

    def start_runs(self, function: str, count: int) -> list[Run[object]]:
        """Start runs whose ids are the same in each database."""
        return [self.app.start(function, {}, id=f"{function}-{n}") for n in range(count)]

    def close(self) -> None:
        """Kill the workers."""
        for worker in self.workers:
            worker.kill()
        self.app.close()


@pytest.mark.timeout(900)
def test_two_databases_of_a_server_never_take_results_ends_or_cancels_from_each_other(
    url: str, client: redis.Redis, tmp_path: Path, long: bool
) -> None:
    chance, count = random.Random(), 300 if long else 40
    databases = [Database(url, tmp_path, number) for number in (0, 1)]
    first, second = databases
    try:
        with whole_client(second.url) as other:
            until(lambda: all(one.hexists("stepflow:functions", "databases/visit") for one in (client, other)))
        visits = [one.start_runs("visit", count) for one in databases]
        stays = [one.start_runs("stay", count) for one in databases]
        assert [run.id for run in visits[0]] == [run.id for run in visits[1]]
        waiting = (RunStatus.WAITING, RunStatus.RUNNING)
        until(lambda: all(run.status() in waiting for runs in stays for run in runs), what="the waits")
        cancelled = [chance.random() < 0.5 for _ in range(count)]
        for run, is_cancelled in zip(stays[0], cancelled, strict=True):
            if is_cancelled:
                run.cancel()
        for one in databases if long else ():  # an event that a killed worker has read is late by ten seconds
            one.kill_one()
        with ThreadPoolExecutor(16) as pool:
            for one, runs in zip(databases, visits, strict=True):
                outputs = list(pool.map(lambda run: run.result(60), runs))
                assert outputs == [[one.number] * 5] * count
        ended = [run.status().ended for run in stays[0]]
        assert ended == cancelled
        assert not any(run.status().ended for run in stays[1])
        for run in stays[1]:
            run.cancel()
            with pytest.raises(RunCancelledError):
                run.result(1)
        assert [run.status().ended for run in stays[0]] == cancelled
        first.app.cancel_many("stay")
    finally:
        for one in databases:
            one.close()
    check_health(first.url, client)
    with whole_client(second.url) as other:
        check_health(second.url, other)
