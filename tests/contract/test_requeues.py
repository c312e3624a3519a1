"""Jobs of failed runs that RQ's tools have requeued: noted when they are claimed, and settled once."""

from __future__ import annotations

import pytest

from stepflow_broker.transitions.runs.requeues import read_requeued, settle_requeue
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, START_MS, Driver


def requeued(driver: Driver, run: str = "run1", status: RunStatus = RunStatus.FAILED) -> None:
    """A run that has ended, whose job is on its queue, as RQ's tools leave it."""
    driver.finish(driver.started(run), status)
    driver.client.zrem(driver.keys("RQ_FAILED", "shop"), run)
    driver.client.hset(driver.keys("RQ_JOB", run), mapping={"status": "queued", "exc_info": ""})
    driver.client.rpush(driver.keys("RQ_QUEUE", "shop"), run)


def claim(driver: Driver) -> None:
    """A claim, without the invariants: RQ's tools have changed what they say of a failed run."""
    check, driver.check = driver.check, lambda: None
    assert driver.claim() == []
    driver.check = check


def noted(driver: Driver) -> dict[str, int]:
    return driver.store.broker.execute(read_requeued(driver.partition, limit=10))


def settle(driver: Driver, noted_at: int, *, is_retried: bool) -> bool:
    return driver.store.broker.execute(settle_requeue(driver.partition, "run1", noted_at, is_retried=is_retried))


def test_a_requeued_job_is_noted_once(driver: Driver) -> None:
    requeued(driver)
    claim(driver)
    assert noted(driver) == {"run1": START_MS}
    driver.advance(1_000)
    driver.client.rpush(driver.keys("RQ_QUEUE", "shop"), "run1")
    claim(driver)
    assert noted(driver) == {"run1": START_MS}
    assert driver.queued("shop") == []


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.COMPLETED])
def test_a_job_that_was_left_on_its_list_is_dropped(driver: Driver, status: RunStatus) -> None:
    driver.finish(driver.started(), status)
    driver.client.rpush(driver.keys("RQ_QUEUE", "shop"), "run1")
    claim(driver)
    assert noted(driver) == {}


@pytest.mark.parametrize("is_retried", [True, False])
def test_a_note_is_settled_once_and_only_if_it_is_the_same(driver: Driver, is_retried: bool) -> None:
    requeued(driver)
    claim(driver)
    assert not settle(driver, START_MS - 1, is_retried=is_retried), "another requeue"
    assert settle(driver, START_MS, is_retried=is_retried)
    assert noted(driver) == {}
    after = driver.snapshot()
    assert not settle(driver, START_MS, is_retried=is_retried)
    assert driver.snapshot() == after
    assert driver.client.exists(driver.keys("RQ_JOB", "run1")) == (not is_retried)


def test_a_run_that_is_not_retried_is_a_failed_job_again(driver: Driver) -> None:
    requeued(driver)
    claim(driver)
    settle(driver, START_MS, is_retried=False)
    driver.check()
    assert driver.client.hget(driver.keys("RQ_JOB", "run1"), "status") == "failed"
    assert driver.client.zrange(driver.keys("RQ_FAILED", "shop"), 0, -1) == ["run1"]
    assert 0 < driver.client.pttl(driver.keys("RQ_JOB", "run1")) <= RETENTION_MS


def test_a_run_that_is_gone_leaves_no_job(driver: Driver) -> None:
    requeued(driver)
    claim(driver)
    for kind in ("RUN", "MEMOS", "MEMO_ORDER"):
        driver.client.delete(driver.keys(kind, "run1"))
    assert settle(driver, START_MS, is_retried=False)
    assert not driver.client.exists(driver.keys("RQ_JOB", "run1"))
