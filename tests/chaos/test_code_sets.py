"""Workers with different parts of an app come and go: no run is lost, and each ends once a worker has its code."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import redis

from stepflow import RunCancelledError, Stepflow
from stepflow.client.run import Run
from tests.chaos.code_sets_app import FUNCTIONS
from tests.chaos.health import check_health
from tests.support.processes import WorkerProcess, until

APP = "tests.chaos.code_sets_app:app"
NAMES = [*FUNCTIONS]
MOST_WORKERS = 3
PAUSED = [name for name in NAMES if name != "fan"]
"""Functions that may be paused: an invoke of a paused function fails."""


class Fleet:
    """Workers with random parts of the app, and faults that hit them."""

    def __init__(self, url: str, folder: Path, chance: random.Random) -> None:
        self._url, self._folder, self._chance = url, folder, chance
        self._started = 0
        self._members: list[WorkerProcess] = []
        self._stopped: set[WorkerProcess] = set()

    def start(self, names: list[str] | None = None) -> WorkerProcess:
        """Start a worker with these functions, or with some."""
        self._started += 1
        chance = self._chance
        names = names or chance.sample(NAMES, chance.randint(1, len(NAMES) - 1))
        moved = chance.sample(names, chance.randint(0, min(2, len(names))))
        worker = WorkerProcess(
            self._url,
            APP,
            log=self._folder / f"part-{self._started}.log",
            env={"FUNCTIONS": ",".join(names), "MOVED": ",".join(moved)},
            lease_ms=1_000,
            concurrency=chance.choice([1, 10]),
            sticky=chance.choice([0, 100]),
        )
        self._members.append(worker)
        return worker

    def fault(self) -> None:
        """Start, kill, terminate, stop or continue a worker."""
        member = self._chance.choice(self._members) if self._members else None
        match self._chance.choice(["start", "kill", "terminate", "stop"]):
            case "start":
                if len(self._members) < MOST_WORKERS:
                    self.start()
            case "kill" if member is not None:
                self._members.remove(member)
                self._stopped.discard(member)
                member.kill()
            case "terminate" if member is not None:
                self._continue(member)
                self._members.remove(member)
                member.send(signal.SIGTERM)
            case "stop" if member is not None:
                if member in self._stopped:
                    self._continue(member)
                else:
                    self._stopped.add(member)
                    member.send(signal.SIGSTOP)

    def _continue(self, member: WorkerProcess) -> None:
        self._stopped.discard(member)
        member.send(signal.SIGCONT)

    def kill_all(self) -> None:
        """Kill all workers."""
        for member in self._members:
            member.kill()
        self._members.clear()

    def logs(self) -> str:
        """What all workers have logged."""
        return "".join(path.read_text() for path in self._folder.glob("part-*.log"))


@pytest.mark.timeout(900)
def test_runs_end_however_the_parts_of_an_app_are_spread_over_workers_that_come_and_go(
    url: str, client: redis.Redis, tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1_000_000)
    chance, producer = random.Random(seed), Stepflow("parts", redis_url=url)
    fleet = Fleet(url, tmp_path, chance)
    runs: list[Run[object]] = []
    cancelled, paused = set[str](), set[str]()
    try:
        first = fleet.start(NAMES)  # every function is known from now on
        until(lambda: client.hlen("stepflow:functions") == len(NAMES))
        first.send(signal.SIGKILL)
        end = time.monotonic() + (300 if long else 8)
        while time.monotonic() < end:
            runs += [producer.start(chance.choice(NAMES), {"key": chance.randint(0, 2)}) for _ in range(5)]
            fleet.fault()
            if chance.random() < 0.1:
                name = chance.choice(PAUSED)
                (producer.resume if name in paused else producer.pause)(name)
                paused ^= {name}
            if chance.random() < 0.1:
                victim = chance.choice(runs)
                victim.cancel()
                cancelled.add(victim.id)
            time.sleep(chance.uniform(0.1, 0.4))
        fleet.kill_all()
        for name in paused:
            producer.resume(name)
        fleet.start(NAMES)
        check_ends(runs, cancelled)
        assert "Traceback" not in fleet.logs()
    finally:
        fleet.kill_all()
        with capsys.disabled():
            print(f"\n{len(runs)} runs over parts of an app (seed {seed})")
    check_health(url, client)
    assert not client.exists("stepflow:code-waits")


def check_ends(runs: list[Run[object]], cancelled: set[str]) -> None:
    """Each run has returned 3, or was cancelled."""
    for run in runs:
        try:
            assert run.result(60) == 3, run.id
        except RunCancelledError:
            assert run.id in cancelled
