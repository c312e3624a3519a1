"""repair_jobs: the truth gives back the ready jobs that another tool has taken away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stepflow_broker.transitions.jobs.leases import repair_jobs
from stepflow_engine.ids import job_id, step_key
from tests.support.driver import Driver

STEP = job_id("run1", step_key("a"))


def repair(driver: Driver, cursor: int = 0, count: int = 500) -> tuple[int, list[str]]:
    return driver.send(repair_jobs(driver.partition, cursor=cursor, count=count))


def take_away(driver: Driver, name: str, job: str) -> None:
    """As ``rq empty`` does it."""
    driver.client.lrem(driver.keys("RQ_QUEUE", name), 0, job)
    driver.client.delete(driver.keys("RQ_JOB", job))


def new_run(driver: Driver) -> tuple[str, str]:
    driver.start()
    return "shop", "run1"


def started_run(driver: Driver) -> tuple[str, str]:
    driver.yield_run(driver.started())
    return "shop:steps", "run1"


def planned_step(driver: Driver) -> tuple[str, str]:
    driver.plan(driver.started(), "a")
    return "shop:steps", STEP


@pytest.mark.parametrize("arrange", [new_run, started_run, planned_step])
def test_a_ready_job_that_was_deleted_comes_back(driver: Driver, arrange: Callable[[Driver], tuple[str, str]]) -> None:
    name, job = arrange(driver)
    take_away(driver, name, job)
    assert repair(driver)[1] == [job]
    assert driver.queued(name) == [job]
    assert driver.claim_one().job == job


def test_a_ready_job_that_a_plain_worker_took_comes_back(driver: Driver) -> None:
    driver.start()
    driver.client.lpop(driver.keys("RQ_QUEUE", "shop"))
    driver.client.hset(driver.keys("RQ_JOB", "run1"), "status", "failed")
    assert repair(driver)[1] == ["run1"]
    assert driver.claim_one().job == "run1"


def test_repairing_twice_repairs_once(driver: Driver) -> None:
    take_away(driver, *planned_step(driver))
    repair(driver)
    before = driver.snapshot()
    assert repair(driver)[1] == []
    assert driver.snapshot() == before


def test_what_needs_no_repair_is_left_as_it_is(driver: Driver) -> None:
    driver.start("run1")
    driver.finish(driver.claim_one())
    lease = driver.started("run2")
    driver.plan(lease, "leased", "queued")
    driver.claim(1, worker="w2")
    driver.fail(lease, "delayed")
    driver.retry(driver.started("run3"))
    driver.start("run4")
    before = driver.snapshot()
    assert repair(driver)[1] == []
    assert driver.snapshot() == before


def test_many_runs_are_looked_at_in_parts(driver: Driver) -> None:
    runs = [f"run{n}" for n in range(300)]
    driver.store.broker.execute_all([driver.starting(run) for run in runs])
    driver.client.delete(driver.keys("RQ_QUEUE", "shop"), *[driver.keys("RQ_JOB", run) for run in runs])
    repaired: list[str] = []
    cursor = -1
    while cursor != 0:
        cursor, part = driver.store.broker.execute(repair_jobs(driver.partition, cursor=max(cursor, 0), count=50))
        repaired += part
    assert sorted(repaired) == sorted(runs)
    assert sorted(driver.queued("shop")) == sorted(runs)
