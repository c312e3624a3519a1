"""A crew of worker processes of which members are killed, or stopped and replaced, at random."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import WorkerProcess, until

__all__ = ["Crew", "Death"]


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that was killed or has died, and when that was noticed, by `time.monotonic_ns`."""

    pid: int
    at_ns: int


class Crew:
    """Workers of one app. Members that leave are replaced at once.

    Args:
        url: the server's.
        app: the app's name, ``module:app``.
        folder: where the logs go.
        size: how many.
        seed: of the chance by which members are chosen.
        settings: of each worker.
    """

    def __init__(self, url: str, app: str, *, folder: Path, size: int, seed: int, **settings: object) -> None:
        self.app = app
        self.deaths: list[Death] = []
        self.restarts = 0
        self._url = url
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._chance = random.Random(seed)
        self._settings = settings
        self._all: list[WorkerProcess] = []
        self._seasoned: set[int] = set()
        self._members: list[WorkerProcess] = [self._start() for _ in range(size)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._members:
            worker.kill()

    # -- faults ------------------------------------------------------------------

    def kill_one(self) -> None:
        """Kill a member, as a crash would, and start another in its place.

        Only one that worked already at the last call; nobody, if there is none. Who has just started takes what the
        last death has left, and a job that is hit by three kills is taken for their cause.
        """
        ready = [member for member in self._members if _has_started(member)]
        candidates = [member for member in ready if member.pid in self._seasoned]
        self._seasoned = {member.pid for member in ready}
        if not candidates:
            return
        member = self._chance.choice(candidates)
        member.process.kill()
        self.deaths.append(Death(member.pid, time.monotonic_ns()))
        member.process.wait()
        self._replace(member)

    def restart_one(self) -> None:
        """Start another in place of the oldest member, and then have that one stop after the steps at hand."""
        member = self._members[0]
        until(lambda: _has_started(member), what="the start of the oldest member")
        new = self._replace(member)
        until(lambda: _has_started(new), what="the start of a worker")
        member.send(signal.SIGTERM)
        assert member.process.wait(60) == 0, f"the worker did not end well: {member.log}"
        self.restarts += 1

    def replace_dead(self) -> None:
        """Start others in place of members that have died by themselves."""
        for member in list(self._members):
            if member.process.poll() is not None:
                self.deaths.append(Death(member.pid, time.monotonic_ns()))
                self._replace(member)

    def kill_until(self, done: Callable[[], bool], *, every_s: float, within_s: float, most: int = 1_000_000) -> None:
        """Kill a member again and again until all is done; fail when it is not within a time."""
        deadline = time.monotonic() + within_s
        while not self._is_done_within(done, every_s * self._chance.uniform(0.5, 1.5)):
            assert time.monotonic() < deadline, f"it is not done after {within_s} s"
            if len(self.deaths) < most:
                self.kill_one()

    @staticmethod
    def _is_done_within(done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    # -- members -----------------------------------------------------------------

    @property
    def pids(self) -> set[int]:
        """Of those that work now."""
        return {member.pid for member in self._members}

    @property
    def killed(self) -> set[int]:
        """The process ids of all that were killed."""
        return {death.pid for death in self.deaths}

    def logged(self, event: str) -> list[str]:
        """The lines of one event in the logs of all that ever worked."""
        return [line for worker in self._all for line in worker.log.read_text().splitlines() if f" {event} " in line]

    def reclaimed(self) -> int:
        """How many leases ran out, as those say that reclaimed the jobs."""
        return sum(int(re.search(r"count=(\d+)", line)[1]) for line in self.logged("jobs_reclaimed"))  # type: ignore[index]

    def _replace(self, member: WorkerProcess) -> WorkerProcess:
        self._members.remove(member)
        self._members.append(self._start())
        return self._members[-1]

    def _start(self) -> WorkerProcess:
        log = self._folder / f"crew-{len(self._all) + 1}.log"
        worker = WorkerProcess(self._url, self.app, log=log, **self._settings)
        self._all.append(worker)
        return worker


def _has_started(member: WorkerProcess) -> bool:
    return " worker_started " in member.log.read_text()
