"""The job that does nothing, and counts: the worker itself notes when the warm-up and the last job are done.

Standard library only: it runs in the workers of the peers. What to count comes in environment variables.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.meter import add_note, take_note

__all__ = ["Plan", "count_job", "count_job_of_child"]

_PREFIX = "STEPFLOW_BENCH_"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is to count.

    Attributes:
        notes: the file that the two notes go to.
        warm_up: after how many jobs the first note is taken.
        count: after how many the last is.
        server: the id of the server's process.
    """

    notes: str
    warm_up: int
    count: int
    server: int

    def to_env(self) -> dict[str, str]:
        """As environment variables."""
        return {_PREFIX + name.upper(): str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Plan:
        """Read what `to_env` has written."""
        warm_up, count, server = (int(env[_PREFIX + name]) for name in ("WARM_UP", "COUNT", "SERVER"))
        return cls(env[_PREFIX + "NOTES"], warm_up, count, server)


def count_job() -> None:
    """One more job of this process; any of its threads may call it."""
    plan, numbers = _counted()
    _note(plan, next(numbers), os.getpid())


def count_job_of_child() -> None:
    """One more job of the parent process, for workers that fork a child for each job."""
    plan, _ = _counted()
    _note(plan, _next_of_all(Path(plan.notes + ".jobs")), os.getppid())


@functools.cache
def _counted() -> tuple[Plan, Iterator[int]]:
    return Plan.from_env(os.environ), itertools.count(1)


def _note(plan: Plan, number: int, worker: int) -> None:
    if number in (plan.warm_up, plan.count):
        add_note(Path(plan.notes), take_note(number, workers=[worker], servers=[plan.server]))


def _next_of_all(path: Path) -> int:
    """A number that counts over processes: the size of a file that each makes a byte longer."""
    with path.open("ab") as jobs:
        jobs.write(b".")
        jobs.flush()
        return jobs.tell()
