"""How a durable engine is measured, the same for each: its worker counts steps, and notes the time itself.

A step is counted when the workflow has its result, which is when the engine has made it durable. The first 20 % are the
warm-up: whole runs, because the steps of a `fan` end all together. Those runs go one after the other, for the same
reason. A measurement counts only when every run has ended well.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command
from benchmarks.command import Case
from benchmarks.counter import Plan
from benchmarks.meter import add_note, between, family, read_notes, take_note
from benchmarks.servers import wait_until

if TYPE_CHECKING:
    import subprocess

    from benchmarks.sample import Sample

__all__ = ["DEADLINE_S", "Load", "Setup", "count_step", "run"]

DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run does: so many units, named ``unit``, in the workflow ``function``."""

    function: str
    size: int
    unit: str


WORKLOADS = {
    "seq10": Workload("seq", 10, "step"),
    "fan1000": Workload("fan", 1000, "step"),
    "invoke": Workload("invoke", 10, "child"),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What is done in one measurement.

    Attributes:
        function: the workflow: ``seq``, ``fan`` or ``invoke``.
        size: how many steps or children a run has.
        runs: how many runs.
        in_flight: how many of them at once.
        folder: where the server and the worker may keep files.
    """

    function: str
    size: int
    runs: int
    in_flight: int
    folder: Path

    @property
    def log(self) -> Path:
        """Where the worker's output goes."""
        return self.folder / "worker.log"

    @property
    def notes(self) -> Path:
        """Where the worker's notes go."""
        return self.folder / "notes"

    def env(self, server: int | None) -> dict[str, str]:
        """The variables that tell a worker what to count; with the server's first process, if it has processes."""
        warm_up = max(1, self.runs // 5) * self.size
        return Plan(str(self.notes), warm_up, self.runs * self.size, server or 0).to_env()

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the worker has counted everything.

        Raises:
            ProcessError: it has ended before, or takes too long.
        """
        wait_until(
            lambda: len(read_notes(self.notes)) == 2,
            process=process,
            log=self.log,
            what=f"{self.runs} runs of {self.function}",
            deadline_s=DEADLINE_S,
            pause_s=0.1,
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """A configuration of an engine.

    Attributes:
        settings: what it is, in a few words.
        execute: does a load with a fresh server and worker, checks that every run has ended well, and gives the
            server's name and version.
        counts: how many units are measured, by workload and how many runs are in flight.
    """

    settings: str
    execute: Callable[[Load], str]
    counts: Mapping[tuple[str, int], int]

    def cases(self) -> list[Case]:
        """What is measured with it."""
        return [
            Case(workload, in_flight, WORKLOADS[workload].unit, count, self.settings)
            for (workload, in_flight), count in self.counts.items()
        ]

    def measures(self, case: Case) -> bool:
        """Whether a case is of this setup."""
        return case.settings == self.settings and (case.workload, case.in_flight) in self.counts


def run(doc: str | None, system: str, package: str, setups: Sequence[Setup]) -> None:
    """The command line of an engine.

    Args:
        doc: what its file says of itself.
        system, package: its name, and that of its package on PyPI.
        setups: the configurations that are measured.
    """

    def measure(case: Case) -> Sample:
        setup = next(setup for setup in setups if setup.measures(case))
        workload = WORKLOADS[case.workload]
        with tempfile.TemporaryDirectory(prefix=f"bench-{system}-") as name:
            runs = max(2, case.count // workload.size)
            load = Load(workload.function, workload.size, runs, case.in_flight, Path(name))
            server = setup.execute(load)
            first, last = read_notes(load.notes)
        return between(
            first,
            last,
            system=system,
            version=importlib.metadata.version(package),
            workload=case.workload,
            in_flight=case.in_flight,
            unit=case.unit,
            settings=case.settings,
            server=server,
        )

    command.run(doc, [case for setup in setups for case in setup.cases()], measure)


def count_step() -> None:
    """One more step of this process; any of its threads may call it."""
    plan, numbers = _counted()
    number = next(numbers)
    if number in (plan.warm_up, plan.count):
        note = take_note(number, workers=[os.getpid()], servers=family(plan.server) if plan.server else [])
        add_note(Path(plan.notes), note)


@functools.cache
def _counted() -> tuple[Plan, Iterator[int]]:
    return Plan.from_env(os.environ), itertools.count(1)
