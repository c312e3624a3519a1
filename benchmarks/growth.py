"""Growth: what the first and the last 100 steps of a run of stepflow with 10,000 steps cost."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import flows
from benchmarks.command import Case
from benchmarks.meter import Note
from benchmarks.ours import sampled
from benchmarks.rig import rig
from benchmarks.sample import Sample

__all__ = ["FIRST", "LAST", "growth"]

_STEPS = 10_000
_EDGE = 100
FIRST, LAST = f"first {_EDGE}", f"last {_EDGE}"
"""The settings of the two samples."""


def growth(case: Case, sticky: int) -> tuple[Sample, Sample]:
    """One run after the other; the steps note their own times. Processor time is not known of so short a time."""
    with rig(concurrency=case.in_flight, sticky=sticky) as bench:
        bench.queue(flows.timed, _STEPS, max(case.warm_up // _STEPS, 1))
        bench.drain(0)
        runs = bench.queue(flows.timed, _STEPS, max((case.count - case.warm_up) // _STEPS, 1))
        bench.drain(0)
        note = bench.note(0)
        times = zip(*[run.result() for run in runs], strict=True)
        first, last = (
            sampled(case, (note, _later(note, sum(seconds), _EDGE * len(runs))), bench.server, which)
            for seconds, which in zip(times, (FIRST, LAST), strict=True)
        )
    return first, last


def _later(note: Note, seconds: float, count: int) -> Note:
    return replace(note, at_s=note.at_s + seconds, count=count)
