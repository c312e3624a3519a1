"""stepflow: ``python -m benchmarks.stepflow [--workload seq10 --in-flight 200]`` prints JSON, a line a sample.

Runs are queued first, while RQ's suspension holds the worker back; then the worker is let go, and the time counts
until the last run has ended (see `benchmarks.rig`). The first 20 % are the warm-up, and are runs of their own.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace

from benchmarks import command, depth, drains, growth, idle, producers, roundtrip
from benchmarks.command import Case
from benchmarks.sample import Sample
from stepflow_workers.state.settings import WorkerSettings

__all__ = ["CASES"]

CASES = (
    Case("rtt", 1, "call", 20_000),
    Case("seq10", 1, "step", 15_000),
    Case("seq10", 200, "step", 40_000),
    Case("seq1000", 1, "step", 15_000),
    Case("fan1000", 200, "step", 20_000),
    Case("map1000", 200, "step", 20_000),
    Case("invoke", 1, "child", 5_000),
    Case("invoke", 200, "child", 10_000),
    Case("invoke_fan1000", 200, "child", 10_000),
    Case("invoke_map1000", 200, "child", 10_000),
    Case("start", 1, "start", 12_500),
    Case("start", 1000, "start", 50_000),
    Case("send", 1000, "event", 100_000),
    Case("seq10000", 1, "step", 60_000, long=True),
    Case("map100000", 200, "step", 500_000, long=True),
    Case("idle", 0, "command", 20, long=True),
    *(Case("processes", 20 * count, "step", 5_000 * count, long=True) for count in (1, 2, 4)),
    Case("backlog", 200, "step", depth.DEPTH, long=True),
    Case("waiting", 200, "step", depth.DEPTH, long=True),
)
_PRODUCERS: dict[str, Callable[[Case], Sample]] = {
    "rtt": roundtrip.round_trip,
    "start": producers.start,
    "send": producers.send,
}
_WORKERS: dict[str, Callable[[Case, int], Sample | tuple[Sample, ...]]] = {
    **{workload: drains.drain for workload, _ in drains.LOADS},
    "seq10000": growth.growth,
    "idle": idle.idle,
    "processes": drains.processes,
    "backlog": depth.backlog,
    "waiting": depth.waiting,
}


def measure(case: Case, *, sticky: int) -> Sample | tuple[Sample, ...]:
    """Measure a case, with workers in which a run may execute so many steps in a row."""
    if case.workload in _PRODUCERS:
        return _PRODUCERS[case.workload](case)
    if sticky != WorkerSettings("").sticky:
        case = replace(case, settings=f"sticky {sticky}")
    return _WORKERS[case.workload](case, sticky)


def main() -> None:
    """The command line."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument(
        "--sticky",
        type=int,
        default=WorkerSettings("").sticky,
        help="steps in a row that a run may execute; 0: it goes back to its queue after each",
    )
    sticky = own.parse_known_args()[0].sticky
    command.run(__doc__, CASES, functools.partial(measure, sticky=sticky), more=own)


if __name__ == "__main__":
    main()
