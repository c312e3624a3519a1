"""The results of `benchmarks.peers`: all samples, and where and how they were taken. A JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.sample import Sample, median

__all__ = ["RESULTS", "Machine", "Results", "Spread"]

RESULTS = Path(__file__).parents[1] / ".peers" / "results.json"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured.

    Attributes:
        cores, cpu, memory_gb: the hardware.
        kernel, python: the software.
        load: processes that wanted a core when the measuring began; over about 0.5, others took part.
    """

    cores: int
    cpu: str
    memory_gb: float
    kernel: str
    python: str
    load: float

    @classmethod
    def this(cls) -> Machine:
        """The machine that this runs on."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        cores = len(os.sched_getaffinity(0))
        return cls(
            cores, _cpu(), round(memory, 1), platform.release(), platform.python_version(), round(os.getloadavg()[0], 2)
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """The repetitions of one case: their median, and their slowest and fastest figure a second."""

    median: Sample
    slowest: float
    fastest: float
    repetitions: int


@dataclass(slots=True)
class Results:
    """What was measured.

    Attributes:
        date: when it began, in UTC.
        command: what measures it again.
        machine: where.
        samples: all of them, in the order in which they were taken.
        failures: systems that could not be measured, and why.
    """

    date: str
    command: str
    machine: Machine
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, command: str) -> Results:
        """No samples yet."""
        return cls(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), command, Machine.this())

    def spreads(self) -> list[Spread]:
        """A case each, in the order of their first samples."""
        cases: dict[tuple[str, str, int, str], list[Sample]] = {}
        for sample in self.samples:
            cases.setdefault(sample.case, []).append(sample)
        return [_spread(samples) for samples in cases.values()]

    def save(self, path: Path) -> None:
        """Write the file; whoever reads it sees all of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` has written."""
        data: dict[str, Any] = json.loads(path.read_text())
        machine, samples = Machine(**data.pop("machine")), [Sample(**sample) for sample in data.pop("samples")]
        return cls(machine=machine, samples=samples, **data)


def _spread(samples: Iterable[Sample]) -> Spread:
    found = list(samples)
    rates = [sample.per_s for sample in found]
    return Spread(median(found), min(rates), max(rates), len(found))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
