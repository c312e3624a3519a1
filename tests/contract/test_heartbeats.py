"""record_heartbeat: the detail that the next attempt of a step reads."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.heartbeats import forget_heartbeat, read_heartbeat, record_heartbeat
from stepflow_engine.ids import step_key
from tests.support.driver import LEASE_MS, RETENTION_MS, Driver

A = step_key("a")


def beat(driver: Driver, lease: Lease, detail: bytes = b"7") -> ScriptStatus:
    call = record_heartbeat(
        driver.partition, run_id=lease.run_id, job_key=lease.key, fence=lease.fence, key=lease.key or A, detail=detail
    )
    return driver.send(call)


def stored(driver: Driver) -> bytes | None:
    return driver.store.broker.execute(read_heartbeat(driver.partition, "run1", A))


def test_the_last_detail_is_kept_and_the_next_claim_says_that_there_is_one(driver: Driver) -> None:
    lease = driver.started()
    assert not lease.has_heartbeats
    assert stored(driver) is None
    assert [beat(driver, lease, detail) for detail in (b"7", b"8")] == [ScriptStatus.DONE] * 2
    assert stored(driver) == b"8"
    driver.advance(LEASE_MS)
    driver.reclaim()
    assert driver.claim_one(worker="w2").has_heartbeats


def test_the_job_of_a_planned_step_has_heartbeats_of_its_own(driver: Driver) -> None:
    driver.plan(driver.started(), "a")
    (planned,) = driver.claim(worker="w2") or ()
    assert beat(driver, planned) is ScriptStatus.DONE
    driver.fail(planned)
    driver.advance(1_000)
    driver.fire()
    (again,) = driver.claim(worker="w3") or ()
    assert again.has_heartbeats
    assert stored(driver) == b"7"


def test_a_worker_that_has_lost_the_lease_does_not_overwrite_the_heartbeat(driver: Driver) -> None:
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    assert beat(driver, driver.claim_one(worker="w2"), b"new") is ScriptStatus.DONE
    assert beat(driver, stale, b"old") is ScriptStatus.STALE_FENCE
    assert stored(driver) == b"new"


def test_a_run_that_has_ended_has_no_further_heartbeats(driver: Driver) -> None:
    lease = driver.started()
    driver.cancel()
    assert beat(driver, lease) is ScriptStatus.NO_RUN
    assert stored(driver) is None


def test_heartbeats_expire_with_their_run_and_are_no_attempts(driver: Driver) -> None:
    lease = driver.started()
    beat(driver, lease)
    assert driver.attempts() == []
    driver.finish(lease)
    assert 0 < driver.client.pttl(driver.keys("ATTEMPTS", "run1")) <= RETENTION_MS


def test_the_detail_of_a_step_that_has_ended_is_deleted(driver: Driver) -> None:
    beat(driver, driver.started())
    driver.store.broker.execute(forget_heartbeat(driver.partition, "run1", A))
    assert stored(driver) is None
    assert not driver.client.exists(driver.keys("ATTEMPTS", "run1"))
