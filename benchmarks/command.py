"""The command line that every system has: ``python -m benchmarks.<system> [--workload W --in-flight N …]``.

A line of JSON a sample on standard output (see `benchmarks.sample`); all else goes to standard error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.sample import Sample

__all__ = ["Case", "run"]


@dataclass(frozen=True, slots=True)
class Case:
    """Something to measure.

    Attributes:
        workload, in_flight, unit: as in `Sample`.
        count: how many units to do, warm-up included.
        settings: which of the system's configurations, where it has several; ``""`` otherwise.
        long: whether it is left out unless it is asked for.
    """

    workload: str
    in_flight: int
    unit: str
    count: int
    settings: str = ""
    long: bool = False

    @property
    def warm_up(self) -> int:
        """How many of the units are the warm-up: the first 20 %."""
        return self.count // 5


def run(
    doc: str | None,
    cases: Sequence[Case],
    measure: Callable[[Case], Sample | tuple[Sample, ...]],
    *,
    more: argparse.ArgumentParser | None = None,
) -> None:
    """Read the command line, measure what it asks for, and print the samples.

    Args:
        doc: what the system's file says of itself; its first line is shown with ``--help``.
        cases: what the system can measure.
        measure: takes one sample, or several that belong together, with a server of its own.
        more: options that only this system has, and reads itself.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0], parents=[more] if more else [])
    parser.add_argument("--workload", choices=sorted({case.workload for case in cases}), help="only this one")
    parser.add_argument("--in-flight", type=int, help="only with this many at once")
    parser.add_argument("--long", action="store_true", help="the workloads that take long, and only those")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="do this share of the count, to see that it works")
    options = parser.parse_args()
    chosen = [
        replace(case, count=max(10, int(case.count * options.scale)))
        for case in cases
        if (case.workload == options.workload if options.workload else case.long == options.long)
        and options.in_flight in (None, case.in_flight)
    ]
    if not chosen:
        parser.error(f"nothing is measured with {_asked(options)}")
    for _ in range(options.repetitions):
        for case in chosen:
            taken = measure(case)
            for sample in taken if isinstance(taken, tuple) else (taken,):
                print(sample.to_json(), flush=True)


def _asked(options: argparse.Namespace) -> str:
    names = ("workload", "in_flight", "long")
    return " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in names if getattr(options, name))
