"""Targets: what stepflow is to reach, and whether it does, by the medians of one run of `benchmarks.peers`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.depth import DEPTH, FEW, behind, parked
from benchmarks.growth import FIRST, LAST
from benchmarks.sample import Sample
from benchmarks.topics import OURS

__all__ = ["TARGETS", "Measure", "Pick", "Reached", "Target", "reached"]


@dataclass(frozen=True, slots=True)
class Pick:
    """Which sample is looked at: of those that fit, the one with the most a second.

    Attributes:
        workload, system, in_flight, settings: as in `Sample`; None: any.
    """

    workload: str
    in_flight: int | None = None
    system: str | None = OURS
    settings: str | None = ""

    def best(self, medians: Iterable[Sample]) -> Sample | None:
        """The sample, if there is one."""
        return max(filter(self._fits, medians), key=lambda sample: sample.per_s, default=None)

    def _fits(self, sample: Sample) -> bool:
        return (
            sample.workload == self.workload
            and self.in_flight in (None, sample.in_flight)
            and self.system in (None, sample.system)
            and (self.settings is None or self.settings == sample.settings.partition(": ")[0])
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """What is looked at in a sample, and its unit."""

    unit: str
    of: Callable[[Sample], float]


RATE = Measure("a second", lambda sample: sample.per_s)
TIME = Measure("ms", lambda sample: sample.ms_each)
COST = Measure("µs", lambda sample: 1e6 / sample.per_s)
WORKER = Measure("µs", lambda sample: sample.worker_us)
SERVER = Measure("µs", lambda sample: sample.server_us)
CORE = Measure("% of a core", lambda sample: sample.worker_cpu_s / sample.seconds * 100)
MEMORY = Measure("KiB", lambda sample: sample.server_rss_mb * 1024 / DEPTH)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to reach.

    Attributes:
        what: in words.
        sign, limit: ``>=`` or ``<=``, and what; without a sign it is only told.
        measure: what is looked at.
        ours: in which sample.
        than: in which other sample too; None: in no other.
        compare: makes the figure of the two; otherwise the figure is ours.
    """

    what: str
    sign: str
    limit: float
    measure: Measure
    ours: Pick
    than: Pick | None = None
    compare: Callable[[float, float], float] = operator.truediv

    @property
    def unit(self) -> str:
        """The unit of the figure."""
        return "×" if self.than and self.compare is operator.truediv else self.measure.unit


@dataclass(frozen=True, slots=True)
class Reached:
    """How a target stands.

    Attributes:
        target: the target.
        values: ours, and the other if there is one; empty: at least one of them was not measured.
    """

    target: Target
    values: tuple[float, ...]

    @property
    def figure(self) -> float | None:
        """What is compared with the limit; None: not measured."""
        if len(self.values) == 2:
            return self.target.compare(*self.values)
        return self.values[0] if self.values else None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None: not measured, or there is no limit."""
        if self.figure is None or not self.target.sign:
            return None
        return self.figure >= self.target.limit if self.target.sign == ">=" else self.figure <= self.target.limit


def reached(medians: Iterable[Sample]) -> list[Reached]:
    """How all targets stand."""
    found = list(medians)
    return [_reached(target, found) for target in TARGETS]


def _reached(target: Target, medians: list[Sample]) -> Reached:
    samples = [pick.best(medians) for pick in (target.ours, target.than) if pick]
    if None in samples:
        return Reached(target, ())
    return Reached(target, tuple(target.measure.of(sample) for sample in samples if sample))


_MANY, _ONE = Pick("seq10", 200), Pick("seq10", 1)
_RQ = Pick("jobs", system="rq", settings="SimpleWorker")
_RQ_STARTS = Pick("start", 1000, system="rq", settings=None)
_FEW_BEHIND, _BEHIND = (Pick("backlog", settings=behind(depth)) for depth in (FEW, DEPTH))
_NONE_PARKED, _PARKED = (Pick("waiting", settings=parked(depth)) for depth in (0, DEPTH))
_FIRST, _LAST = (Pick("seq10000", settings=which) for which in (FIRST, LAST))
_CHILDREN = Pick("invoke", 200)
_IDLE = Pick("idle", settings="sent")


def _restate(workload: str, in_flight: int, *, tuned: bool = False) -> Pick:
    kind = "tuned" if tuned else "as documented"
    return Pick(workload, in_flight, system="restate", settings=kind)


TARGETS = (
    Target("Steps, 200 in flight: to the jobs of RQ's SimpleWorker", ">=", 25, RATE, _MANY, _RQ),
    Target(
        "Steps, 200 in flight: to the jobs of the fastest plain queue",
        ">=",
        2,
        RATE,
        _MANY,
        Pick("jobs", system=None, settings=None),
    ),
    Target("Steps, 200 in flight: to Restate's as documented", ">=", 4, RATE, _MANY, _restate("seq10", 200)),
    Target("Steps, 200 in flight: to Restate's tuned", ">=", 4, RATE, _MANY, _restate("seq10", 200, tuned=True)),
    Target("A step of `seq1000`: to a bare round trip", "<=", 2.5, TIME, Pick("seq1000"), Pick("rtt")),
    Target("A step of `seq10`, with its run's start and end: to a bare round trip", "<=", 2.5, TIME, _ONE, Pick("rtt")),
    Target("A step, 1 in flight: to Restate's as documented", "<=", 0.25, TIME, _ONE, _restate("seq10", 1)),
    Target("The last 100 of 10,000 steps: to the first 100", "<=", 1.2, TIME, _LAST, _FIRST),
    Target("A step of `fan1000`: to one of `seq10`, 200 in flight", "<=", 2, COST, Pick("fan1000"), _MANY),
    Target("A child of `invoke_fan1000`: to a step of `seq10`", "<=", 2, COST, Pick("invoke_fan1000"), _MANY),
    Target("A child, 1 in flight: to a step", "<=", 6, TIME, Pick("invoke", 1), _ONE),
    Target("Children, 200 in flight: to Restate's as documented", ">=", 6, RATE, _CHILDREN, _restate("invoke", 200)),
    Target(
        "Children, 200 in flight: to Restate's tuned", ">=", 6, RATE, _CHILDREN, _restate("invoke", 200, tuned=True)
    ),
    Target("Runs started in batches: to RQ's `enqueue_many`", ">=", 2, RATE, Pick("start", 1000), _RQ_STARTS),
    Target("Events sent in batches: to RQ's `enqueue_many`", ">=", 4, RATE, Pick("send", 1000), _RQ_STARTS),
    Target("Processor time of the worker for a step", "<=", 90, WORKER, _MANY),
    Target("Processor time of the server for a step", "<=", 30, SERVER, _MANY),
    Target("Processor time of an idle worker", "<=", 1, CORE, _IDLE),
    Target("Commands of an idle worker", "<=", 3, RATE, _IDLE),
    Target(f"Steps with {DEPTH:,} runs queued: to those with few", ">=", 0.9, RATE, _BEHIND, _FEW_BEHIND),
    Target(f"Steps with {DEPTH:,} runs parked: to those with none", ">=", 0.9, RATE, _PARKED, _NONE_PARKED),
    Target(
        "4 worker processes, handlers of 20 ms: to 1", ">=", 3.6, RATE, Pick("processes", 80), Pick("processes", 20)
    ),
    Target("Memory of the server for a queued run", "", 0, MEMORY, _BEHIND, _FEW_BEHIND, operator.sub),
    Target("Memory of the server for a parked run and its child", "", 0, MEMORY, _PARKED, _NONE_PARKED, operator.sub),
)
