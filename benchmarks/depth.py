"""Depth: what it costs the runs of stepflow under way that very many others are queued behind them, or are parked."""

from __future__ import annotations

from benchmarks import flows
from benchmarks.command import Case
from benchmarks.drains import SEQ10, drain_load
from benchmarks.ours import sampled
from benchmarks.rig import Rig, rig
from benchmarks.sample import Sample

__all__ = ["DEPTH", "FEW", "backlog", "behind", "parked", "waiting"]

DEPTH = 100_000
"""How many runs that are; a case does as many steps, so that both scale."""
_TIMES = 100
FEW = DEPTH // _TIMES
"""How many are behind those that are measured when there are few."""


def behind(depth: int) -> str:
    """The settings of a sample with so many runs queued behind it."""
    return f"{depth:,} behind"


def parked(depth: int) -> str:
    """The settings of a sample with so many runs parked."""
    return f"{depth:,} parked"


def backlog(case: Case, sticky: int) -> tuple[Sample, Sample]:
    """`seq10` with few runs queued behind those that are measured, and with many.

    There are always some behind: the time ends while all slots are in use, so that both samples end alike.
    """
    shallow, deep = (_with_behind(case, sticky, depth) for depth in (case.count // _TIMES, case.count))
    return shallow, deep


def waiting(case: Case, sticky: int) -> tuple[Sample, Sample]:
    """`seq10` alone, and while many runs are parked that wait for children which do not end."""
    shallow, deep = (_with_parked(case, sticky, depth) for depth in (0, case.count))
    return shallow, deep


def _with_behind(case: Case, sticky: int, depth: int) -> Sample:
    with rig(concurrency=case.in_flight, sticky=sticky) as bench:
        drain_load(bench, SEQ10, case.warm_up)
        runs = _queue(bench, case)
        bench.queue(SEQ10.function, SEQ10.units, depth)
        bench.settle()
        return sampled(case, bench.drain(runs * SEQ10.units, left=depth), bench.server, behind(depth))


def _with_parked(case: Case, sticky: int, depth: int) -> Sample:
    with rig(concurrency=case.in_flight, sticky=sticky) as bench:
        drain_load(bench, SEQ10, case.warm_up)
        live = _park(bench, depth)
        runs = _queue(bench, case)
        bench.settle()
        return sampled(case, bench.drain(runs * SEQ10.units, left=live), bench.server, parked(depth))


def _queue(bench: Rig, case: Case) -> int:
    """Queue the runs that are measured; how many they are."""
    return len(bench.queue(SEQ10.function, SEQ10.units, (case.count - case.warm_up) // SEQ10.units))


def _park(bench: Rig, depth: int) -> int:
    """Have runs wait for children that do not end; how many runs are live then."""
    bench.queue(flows.parked, None, depth)
    bench.let_go()
    bench.wait(
        lambda: bench.length(flows.UNSERVED) == depth and not bench.leases(),
        f"{depth} runs were not parked",
        pause_s=0.1,
    )
    bench.hold()
    return 2 * depth
