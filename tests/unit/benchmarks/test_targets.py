"""What is to be reached, and how it is seen from samples."""

from __future__ import annotations

import pytest

from benchmarks.report import measured
from benchmarks.sample import Sample
from benchmarks.stepflow import CASES
from benchmarks.tables import target_table
from benchmarks.targets import TARGETS, Reached, Target, reached
from benchmarks.topics import OURS, topics
from tests.unit.benchmarks.samples import results, sample

MANY = sample(OURS, workload="seq10", in_flight=200, unit="step", count=20_000, worker_cpu_s=1.8, server_cpu_s=0.602)
QUEUES = (
    sample("rq", settings="SimpleWorker", count=800),
    sample("rq", settings="forking worker", count=100),
    sample("huey", count=12_000),
)


def stands(what: str, *medians: Sample) -> Reached:
    """How the target that begins so stands."""
    (found,) = [one for one in reached(medians) if one.target.what.startswith(what)]
    return found


def test_a_target_is_a_ratio_of_two_medians():
    one = stands("Steps, 200 in flight: to the jobs of RQ's", MANY, *QUEUES)
    assert (one.figure, one.met) == (25, True)
    assert one.values == (10_000, 400)


def test_the_fastest_queue_is_the_one_that_counts():
    one = stands("Steps, 200 in flight: to the jobs of the fastest", MANY, *QUEUES)
    assert (one.figure, one.met) == (pytest.approx(10_000 / 6_000), False)


def test_a_step_of_a_single_run_is_compared_with_a_bare_round_trip():
    step = sample(OURS, workload="seq10", in_flight=1, count=10_000, seconds=1.0)
    call = sample(OURS, workload="rtt", in_flight=1, count=10_000, seconds=0.5)
    one = stands("A step of `seq10`, with its run", step, call)
    assert (one.figure, one.met) == (pytest.approx(2), True)


def test_a_fan_is_judged_by_its_cost_and_not_by_how_much_is_in_flight():
    fan = sample(OURS, workload="fan1000", in_flight=100, unit="step", count=1_000, seconds=0.25)
    one = stands("A step of `fan1000`", MANY, fan)
    assert (one.figure, one.met) == (pytest.approx(2.5), False)
    assert one.values == pytest.approx((250, 100))


def test_processor_time_stands_alone():
    worker, server = (stands(f"Processor time of the {who} for a step", MANY) for who in ("worker", "server"))
    assert (worker.figure, worker.met) == (pytest.approx(90), True)
    assert (server.figure, server.met) == (pytest.approx(30.1), False)


def test_an_idle_worker_is_judged_by_what_it_sends_and_by_its_share_of_a_core():
    facts = {"workload": "idle", "in_flight": 0, "unit": "command", "seconds": 20.0, "worker_cpu_s": 0.1}
    taken = [
        sample(OURS, count=60, settings="sent", **facts),
        sample(OURS, count=90, settings="sent, and called by scripts", **facts),
    ]
    assert stands("Commands of an idle worker", *taken).figure == 3
    assert stands("Processor time of an idle worker", *taken).figure == pytest.approx(0.5)


def test_depth_is_compared_with_few_and_tells_the_memory_of_each():
    few, many = (
        sample(OURS, workload="backlog", in_flight=200, settings=f"{behind} behind", seconds=seconds, server_rss_mb=mb)
        for behind, seconds, mb in (("1,000", 1.8, 100), ("100,000", 2.0, 300))
    )
    assert stands("Steps with 100,000 runs queued", few, many).met
    memory = stands("Memory of the server for a queued run", few, many)
    assert memory.figure == pytest.approx(200 * 1024 / 100_000)
    assert (memory.target.unit, memory.met) == ("KiB", None)


def test_four_processes_are_compared_with_one():
    taken = [sample(OURS, workload="processes", in_flight=20 * n, count=900 * n) for n in (1, 2, 4)]
    assert stands("4 worker processes", *taken).figure == 4


def test_other_settings_of_stepflow_are_not_judged():
    unsticky = sample(OURS, workload="seq10", in_flight=200, settings="sticky 0")
    assert stands("Steps, 200 in flight: to the jobs of RQ's", unsticky, *QUEUES).figure is None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.what)
def test_a_target_without_samples_is_not_measured(target: Target):
    one = Reached(target, ())
    assert one in reached([])
    assert (one.figure, one.met) == (None, None)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.what)
def test_each_target_is_about_cases_that_are_measured(target: Target):
    for pick in (target.ours, target.than):
        if pick and pick.system == OURS:
            cases = [case for case in CASES if case.workload == pick.workload]
            assert [case for case in cases if pick.in_flight in (None, case.in_flight)]


def test_the_table_has_the_limit_the_figure_and_what_it_was_made_of():
    lines = {line.split("|")[1].strip(): line for line in target_table(reached([MANY, *QUEUES])).splitlines()}
    assert len({line.count("|") for line in lines.values()}) == 1
    cells = [cell.strip() for cell in lines["Steps, 200 in flight: to the jobs of RQ's SimpleWorker"].split("|")[2:-1]]
    assert cells == ["≥ 25 ×", "25.0 ×", "yes", "10,000 and 400 a second"]
    assert "| not measured |" in lines["Steps, 200 in flight: to Restate's tuned"]


def test_the_page_counts_what_is_reached():
    taken = results(MANY, *QUEUES)
    assert "Reached: 2; not reached: 2; not measured: 18." in measured(taken, topics(taken.spreads()))
