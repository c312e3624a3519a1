"""Samples for tests."""

from __future__ import annotations

from typing import Any

from benchmarks.results import Machine, Results
from benchmarks.sample import Sample


def sample(system: str = "rq", **facts: Any) -> Sample:
    """A sample of 1,000 jobs in 2 s, unless told otherwise."""
    given = {"version": "1.0", "workload": "jobs", "in_flight": 1, "unit": "job", "count": 1000, "seconds": 2.0} | facts
    return Sample(system, **given)


def results(*samples: Sample) -> Results:
    """Results with these samples."""
    machine = Machine(cores=2, cpu="<fast> & cheap", memory_gb=8, kernel="6.1", python="3.11", load=0.1)
    return Results("2030-01-02 03:04 UTC", "python -m benchmarks.peers", machine, list(samples))
