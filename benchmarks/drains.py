"""Workloads of stepflow that are measured by draining a queue of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import flows
from benchmarks.command import Case
from benchmarks.ours import sampled
from benchmarks.rig import Rig, Span, joined, rig
from benchmarks.sample import Sample
from stepflow import Function

__all__ = ["CONCURRENCY", "LOADS", "SEQ10", "Load", "drain", "drain_load", "processes"]

CONCURRENCY = 20
"""How many jobs each worker has at once where processes are compared."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is queued.

    Attributes:
        function: what is run.
        units: steps or children in a run.
        at_once: how many runs are queued at once; 0: all. A parent that waits gives its slot back, so all parents that
            are queued are in flight, whatever the worker's concurrency.
    """

    function: Function[Any, Any]
    units: int
    at_once: int = 0


SEQ10 = Load(flows.seq, 10)
LOADS = {
    ("seq10", 1): SEQ10,
    ("seq10", 200): SEQ10,
    ("seq1000", 1): Load(flows.seq, 1000),
    ("fan1000", 200): Load(flows.fan, 1000, at_once=1),
    ("map1000", 200): Load(flows.mapped, 1000, at_once=1),
    ("map100000", 200): Load(flows.mapped, 100_000, at_once=1),
    ("invoke", 1): Load(flows.invoke, 1000, at_once=1),
    ("invoke", 200): Load(flows.invoke, 10, at_once=200),
    ("invoke_fan1000", 200): Load(flows.invoke_fan, 1000, at_once=1),
    ("invoke_map1000", 200): Load(flows.invoke_map, 1000, at_once=1),
}


def drain(case: Case, sticky: int) -> Sample:
    """One worker, with as many slots as runs are to be in flight."""
    load = LOADS[case.workload, case.in_flight]
    with rig(concurrency=case.in_flight, sticky=sticky) as bench:
        return sampled(case, _after_warm_up(bench, load, case), bench.server)


def processes(case: Case, sticky: int) -> Sample:
    """As many workers as fit the runs in flight, each with as many slots."""
    count = case.in_flight // CONCURRENCY
    with rig(concurrency=CONCURRENCY, sticky=sticky, processes=count) as bench:
        return sampled(case, _after_warm_up(bench, Load(flows.pauses, 10), case), bench.server)


def drain_load(bench: Rig, load: Load, units: int) -> Span:
    """Queue runs and let the workers go, until so many units are done; at least one run."""
    runs = max(units // load.units, 1)
    at_once = min(load.at_once or runs, runs)
    spans = []
    for _ in range(runs // at_once):
        bench.queue(load.function, load.units, at_once)
        spans.append(bench.drain(at_once * load.units))
    return joined(spans)


def _after_warm_up(bench: Rig, load: Load, case: Case) -> Span:
    """What is done after the warm-up."""
    drain_load(bench, load, case.warm_up)
    return drain_load(bench, load, case.count - case.warm_up)
