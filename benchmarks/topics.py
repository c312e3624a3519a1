"""Topics: what can be compared with what, and how stepflow stands in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.results import Spread
from benchmarks.sample import Sample

__all__ = ["OURS", "Topic", "topics"]

OURS = "stepflow"


@dataclass(frozen=True, slots=True)
class Topic:
    """Cases that answer the same question.

    Attributes:
        title: the question.
        slow: whether the figure is the time of one, in ms, so that less is better; otherwise it is how many a second.
        spreads: the cases, the best first.
    """

    title: str
    slow: bool
    spreads: tuple[Spread, ...]

    def figure(self, sample: Sample) -> float:
        """The figure that is compared."""
        return sample.ms_each if self.slow else sample.per_s

    @property
    def compares(self) -> bool:
        """Whether stepflow and another system answer."""
        systems = {spread.median.system for spread in self.spreads}
        return OURS in systems and len(systems) > 1

    def ratio(self, spread: Spread) -> float | None:
        """How many times as good as this case stepflow is; None when stepflow is not compared with others."""
        if not self.compares:
            return None
        ours = [self.figure(other.median) for other in self.spreads if other.median.system == OURS]
        theirs = self.figure(spread.median)
        return theirs / min(ours) if self.slow else max(ours) / theirs


@dataclass(frozen=True, slots=True)
class _Question:
    title: str
    slow: bool
    answers: Callable[[Sample], bool]


_QUESTIONS = (
    _Question(
        "Jobs or durable steps a second, one worker process (stepflow and engines: `seq10`, many runs in flight)",
        False,
        lambda sample: sample.workload == "jobs" or (sample.workload == "seq10" and sample.in_flight > 1),
    ),
    _Question(
        "One run at a time: ms a sequential step (`seq10`, 1 in flight)",
        True,
        lambda sample: (sample.workload, sample.in_flight) == ("seq10", 1),
    ),
    _Question(
        "Children a second (`invoke`, many runs in flight)",
        False,
        lambda sample: sample.workload == "invoke" and sample.in_flight > 1,
    ),
    _Question(
        "One child at a time: ms from invoke to result (`invoke`, 1 in flight)",
        True,
        lambda sample: (sample.workload, sample.in_flight) == ("invoke", 1),
    ),
    _Question(
        "Jobs or runs started a second by one producer, one a round trip (`start`)",
        False,
        lambda sample: (sample.workload, sample.in_flight) == ("start", 1),
    ),
    _Question(
        "Jobs or runs started a second by one producer, in batches (`start`)",
        False,
        lambda sample: sample.workload == "start" and sample.in_flight > 1,
    ),
    _Question(
        "A bare round trip of stepflow's asyncio client: ms (`rtt`)",
        True,
        lambda sample: sample.workload == "rtt",
    ),
    _Question(
        "One run of 10,000 steps: ms a step, at its start and at its end (`seq10000`)",
        True,
        lambda sample: sample.workload == "seq10000",
    ),
    _Question(
        "Handlers that wait 20 ms: steps a second of 1, 2 and 4 workers with 20 slots each (`processes`)",
        False,
        lambda sample: sample.workload == "processes",
    ),
    _Question(
        "Commands a second of an idle worker (`idle`)",
        False,
        lambda sample: sample.workload == "idle",
    ),
)


def topics(spreads: Iterable[Spread]) -> list[Topic]:
    """The cases by topic; a workload that belongs to no question is a topic of its own."""
    left, found = list(spreads), []
    for question in _QUESTIONS:
        answers = [spread for spread in left if question.answers(spread.median)]
        left = [spread for spread in left if spread not in answers]
        found.append(_topic(question.title, question.slow, answers))
    for workload, in_flight in dict.fromkeys((spread.median.workload, spread.median.in_flight) for spread in left):
        same = [spread for spread in left if (spread.median.workload, spread.median.in_flight) == (workload, in_flight)]
        found.append(_topic(f"{_plural(same)} a second (`{workload}`, {in_flight} in flight)", False, same))
    return [topic for topic in found if topic.spreads]


def _topic(title: str, slow: bool, spreads: Iterable[Spread]) -> Topic:
    best_first = sorted(spreads, key=lambda spread: spread.median.per_s, reverse=True)
    if slow:
        best_first.sort(key=lambda spread: spread.median.ms_each)
    return Topic(title, slow, tuple(best_first))


def _plural(spreads: list[Spread]) -> str:
    unit = spreads[0].median.unit
    return {"child": "Children"}.get(unit, f"{unit}s".capitalize())
