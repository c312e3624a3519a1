"""Limits of live runs: a run has its slot from its start to its end."""

from __future__ import annotations

import random

import pytest

from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.cancellation import CancellationConfig
from stepflow_broker.registry.flow_control import RUNS, ConcurrencyConfig, FlowConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.pauses import pause, resume
from stepflow_broker.transitions.runs.run_starts import start_run, start_runs_later
from stepflow_engine.codec import dumps
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import LEASE_MS, RETENTION_MS, Driver

ONE = ConcurrencyConfig(1, of=RUNS)
TWO = ConcurrencyConfig(2, of=RUNS)
NAME = "runs shop/buy"


def function(*limits: ConcurrencyConfig, **options: object) -> FunctionConfig:
    flow = FlowConfig(concurrency=limits, priority="event.data.seconds")
    return FunctionConfig("shop", "buy", "shop", flow=flow, retention_ms=RETENTION_MS, **options)  # type: ignore[arg-type]


def text(run: str, **data: object) -> bytes:
    return dumps({"name": "e", "id": run, "ts": 1, "data": {"seconds": 0, **data}})


def start(driver: Driver, run: str, config: FunctionConfig, **data: object) -> None:
    call = start_run(driver.partition, config, run_id=run, event=text(run, **data), dedupe=False)
    assert driver.send(call) is ScriptStatus.DONE
    driver.advance(1)


def claimed(driver: Driver) -> list[Lease]:
    return driver.claim() or []


def jobs(driver: Driver) -> list[str]:
    return [lease.job for lease in claimed(driver)]


def slots(driver: Driver, name: str = NAME) -> set[str]:
    return set(driver.client.zrange(driver.keys("CONCURRENCY_SLOTS", name), 0, -1))


@pytest.mark.parametrize("end", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
def test_a_run_waits_in_line_until_another_has_ended(driver: Driver, end: RunStatus) -> None:
    for run in ("run1", "run2", "run3"):
        start(driver, run, function(ONE))
    [lease] = claimed(driver)
    assert [driver.run(run).continuation for run in ("run1", "run2", "run3")] == ["leased", "waitlisted", "waitlisted"]
    driver.cancel("run1") if end is RunStatus.CANCELLED else driver.finish(lease, end)
    assert jobs(driver) == ["run2"]
    assert slots(driver) == {"run2"}


def test_a_run_keeps_its_slot_while_it_waits_retries_and_changes_workers(driver: Driver) -> None:
    start(driver, "run1", function(ONE))
    start(driver, "run2", function(ONE))
    [lease] = claimed(driver)
    driver.plan(lease, "a", "b")
    driver.park(lease)
    steps = claimed(driver)
    assert [step.step_id for step in steps] == ["a", "b"]
    driver.commit(steps[0])
    [lease] = claimed(driver)
    driver.advance(LEASE_MS + 1)
    driver.reclaim()
    again = claimed(driver)
    assert {one.job for one in again} == {"run1", steps[1].job}
    assert driver.release(*again) == 2
    lease = next(one for one in claimed(driver) if not one.key)
    driver.retry(lease)
    assert (slots(driver), jobs(driver)) == ({"run1"}, [])


def test_those_in_line_start_in_order_of_their_creation_less_their_priority(driver: Driver) -> None:
    start(driver, "run1", function(ONE))
    start(driver, "run2", function(ONE))
    start(driver, "urgent", function(ONE), seconds=60)
    order = []
    for _ in range(3):
        [lease] = claimed(driver)
        order.append(lease.job)
        driver.finish(lease)
    assert order == ["run1", "urgent", "run2"]


def test_each_value_of_a_key_has_its_own_limit(driver: Driver) -> None:
    keyed = function(ConcurrencyConfig(1, "event.data.shop", of=RUNS))
    for run, shop in (("run1", 1), ("run2", 1), ("run3", 2)):
        start(driver, run, keyed, shop=shop)
    assert jobs(driver) == ["run1", "run3"]


def test_a_limit_of_runs_and_one_of_steps_hold_together(driver: Driver) -> None:
    both = function(TWO, ConcurrencyConfig(1))
    for run in ("run1", "run2", "run3"):
        start(driver, run, both)
    [first] = claimed(driver)
    assert slots(driver) == {"run1", "run2"}
    driver.plan(first, "a")
    driver.park(first)
    [step] = claimed(driver)
    assert step.step_id == "a"
    driver.commit(step)
    [second] = claimed(driver)
    assert second.job == "run2"
    driver.finish(second)
    assert jobs(driver) == ["run1"]
    assert slots(driver) == {"run1", "run3"}


def test_a_run_that_is_cancelled_in_line_or_on_the_queue_leaves_no_slot(driver: Driver) -> None:
    for run in ("run1", "run2", "run3"):
        start(driver, run, function(ONE))
    driver.cancel("run2")
    driver.cancel("run1")
    assert jobs(driver) == ["run3"]
    assert slots(driver) == {"run3"}


def test_a_delayed_start_takes_its_slot_when_it_is_due(driver: Driver) -> None:
    later = [("late", text("late"))]
    call = start_runs_later(driver.partition, function(ONE), later, due_ms=0, delay_ms=1_000, dedupe_ms=0)
    driver.send(call)
    start(driver, "run1", function(ONE))
    [lease] = claimed(driver)
    driver.advance(1_000)
    driver.fire()
    assert driver.run("late").continuation == "waitlisted"
    driver.finish(lease)
    assert jobs(driver) == ["late"]


def test_a_run_that_misses_its_start_in_line_is_cancelled(driver: Driver) -> None:
    config = function(ONE, cancellation=CancellationConfig(start_ms=1_000))
    start(driver, "run1", config)
    start(driver, "run2", config)
    [lease] = claimed(driver)
    driver.advance(1_001)
    driver.fire()
    assert driver.run("run2").status is RunStatus.CANCELLED
    driver.finish(lease)
    assert slots(driver) == set()


def test_ready_runs_of_a_paused_function_take_no_slots_from_those_of_others(driver: Driver) -> None:
    shared = ConcurrencyConfig(1, scope="app", of=RUNS)
    start(driver, "run1", function(shared))
    other = FunctionConfig("shop", "sell", "shop", flow=FlowConfig(concurrency=(shared,)), retention_ms=RETENTION_MS)
    start(driver, "run2", other)
    driver.send(pause(driver.partition, "function", "shop/buy", reason=""))
    [lease] = claimed(driver)
    assert lease.job == "run2"
    driver.send(resume(driver.partition, "function", "shop/buy"))
    driver.fire()
    assert jobs(driver) == []
    driver.finish(lease)
    assert jobs(driver) == ["run1"]


def errors(driver: Driver, *, repair: bool = False) -> list[str]:
    found = examine(driver.store.broker, driver.partition, repair=repair)
    return [one.code for one in found if one.where == "concurrency_slots"]


def test_the_doctor_restores_the_slot_of_a_live_run(driver: Driver) -> None:
    start(driver, "run1", function(ONE))
    start(driver, "run2", function(ONE))
    claimed(driver)
    driver.client.delete(driver.keys("CONCURRENCY_SLOTS", NAME))
    assert errors(driver, repair=True) == ["missing"]
    assert errors(driver) == []
    assert (slots(driver), jobs(driver)) == ({"run1"}, [])


def test_the_doctor_takes_the_slot_of_a_run_that_is_gone_and_starts_the_next(driver: Driver) -> None:
    start(driver, "run1", function(ONE))
    start(driver, "run2", function(ONE))
    [lease] = claimed(driver)
    driver.finish(lease)
    slot = driver.keys("CONCURRENCY_SLOTS", NAME)
    driver.client.zadd(slot, {"gone": "+inf"})
    driver.client.zrem(slot, "run2")
    driver.client.lrem(driver.keys("RQ_QUEUE", "shop"), 0, "run2")
    driver.client.hset(driver.partition.run_key("RUN", "run2"), "continuation", "waitlisted")
    driver.client.zadd(driver.keys("WAIT_LIST", NAME), {"run2": 1})
    assert errors(driver, repair=True) == ["orphaned"]
    assert jobs(driver) == ["run2"]


@pytest.mark.parametrize("seed", range(2))
def test_no_more_runs_live_than_the_limit_and_all_end(driver: Driver, seed: int) -> None:
    chance, held, ended = random.Random(seed), list[Lease](), set[str]()
    for number in range(12):
        start(driver, f"run{number}", function(TWO, ConcurrencyConfig(3)), seconds=chance.choice((0, 5)))
    for _ in range(120):
        match chance.choice(("claim", "plan", "commit", "finish", "die", "cancel", "fire")):
            case "claim":
                held += driver.claim(chance.randint(1, 3)) or []
            case "fire":
                driver.advance(1_001)
                driver.fire()
            case "die":
                driver.advance(LEASE_MS + 1)
                driver.reclaim()
                held.clear()
            case "cancel" if chance.random() < 0.1:
                run = f"run{chance.randrange(12)}"
                if driver.cancel(run) is ScriptStatus.DONE:
                    ended.add(run)
            case what if held:
                lease = held.pop(chance.randrange(len(held)))
                if lease.key:
                    driver.commit(lease) if what == "commit" else driver.fail(lease, lease.step_id)
                elif what == "finish" and driver.finish(lease) is ScriptStatus.DONE:
                    ended.add(lease.run_id)
                elif what == "plan":
                    driver.plan(lease, "a", "b")
                    driver.park(lease, lease.applied)
                else:
                    driver.release(lease)
        started = {run for run in (f"run{n}" for n in range(12)) if driver.run(run).started_at}
        assert len(started - ended) <= 2
        assert len(slots(driver)) <= 2
    while len(ended) < 12:
        driver.advance(LEASE_MS + 1)
        driver.fire()
        driver.reclaim()
        for lease in claimed(driver):
            if lease.key:
                driver.commit(lease)
            elif driver.finish(lease) is ScriptStatus.DONE:
                ended.add(lease.run_id)
    assert slots(driver) == set()
