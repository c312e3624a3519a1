"""What is measured of stepflow, and the parts of it that need no server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from benchmarks import flows, stepflow
from benchmarks.command import Case
from benchmarks.drains import CONCURRENCY, LOADS
from benchmarks.idle import lines_within
from benchmarks.meter import Note
from benchmarks.rig import joined
from benchmarks.sample import Sample
from benchmarks.stepflow import CASES, measure
from stepflow_workers.state.settings import WorkerSettings
from tests.unit.benchmarks.samples import sample


def test_no_case_is_there_twice():
    assert len({(case.workload, case.in_flight) for case in CASES}) == len(CASES)


def test_each_queue_that_is_drained_is_a_case_and_is_long_enough_for_a_warm_up():
    counts = {(case.workload, case.in_flight): case.count for case in CASES}
    for case, load in LOADS.items():
        assert counts[case] >= 5 * load.units * max(load.at_once, 1)


def test_processes_have_as_many_slots_each():
    assert [case.in_flight / CONCURRENCY for case in CASES if case.workload == "processes"] == [1, 2, 4]


@pytest.mark.parametrize(("sticky", "settings"), [(0, "sticky 0"), (WorkerSettings("").sticky, "")])
def test_other_than_the_default_is_in_the_settings(sticky: int, settings: str, monkeypatch: pytest.MonkeyPatch):
    def taken(case: Case, sticky: int) -> Sample:
        return sample(settings=case.settings, count=sticky)

    monkeypatch.setitem(stepflow._WORKERS, "seq10", taken)
    one = measure(CASES[1], sticky=sticky)
    assert isinstance(one, Sample)
    assert (one.settings, one.count) == (settings, sticky)


def test_producers_have_no_sticky_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(stepflow._PRODUCERS, "start", lambda case: sample(settings=case.settings))
    one = measure(Case("start", 1, "start", 10), sticky=0)
    assert isinstance(one, Sample)
    assert one.settings == ""


def test_spans_are_joined_without_the_time_between_them():
    first = note(10.0, 0, 1.0), note(12.0, 100, 2.0)
    second = note(50.0, 0, 9.0), note(53.0, 300, 9.5)
    assert joined([first]) == first
    assert joined([first, second]) == (first[0], note(15.0, 400, 2.5))
    assert joined([first, second, second])[1] == note(18.0, 700, 3.0)


def test_a_joined_span_ends_with_the_memory_at_its_end():
    first = note(10.0, 0, 1.0, rss_mb=30.0), note(12.0, 100, 2.0, rss_mb=40.0)
    second = note(50.0, 0, 9.0, rss_mb=45.0), note(53.0, 300, 9.5, rss_mb=50.0)
    assert joined([first, second])[1].worker_rss_mb == 50.0


def note(at_s: float, count: int, cpu_s: float, rss_mb: float = 40.0) -> Note:
    return Note(at_s, count, cpu_s, cpu_s / 2, rss_mb, rss_mb, 0.0)


def test_a_line_that_comes_in_parts_is_one_line():
    near, far = socket.socketpair()
    with near:
        far.sendall(b"first\r\nsec")
        far.sendall(b"ond\r\nunfinished")
        far.close()
        assert list(lines_within(near, 60)) == [b"first\r", b"second\r"]


def test_there_are_no_lines_when_the_time_is_over():
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"first\r\n")
        assert list(lines_within(near, 0)) == []


async def test_a_run_says_what_its_first_and_its_last_100_steps_took():
    async def squared(id: str, handler: Callable[..., object]) -> float:
        return float(id[1:]) ** 2

    ctx = SimpleNamespace(event=SimpleNamespace(data=1_000), step=SimpleNamespace(run=squared))
    assert await flows.timed.handler(ctx) == (100**2, 999**2 - 899**2)
