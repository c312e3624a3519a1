"""extend_leases, release_jobs, reclaim_leases, fire_timers: what time does to jobs."""

from __future__ import annotations

from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.jobs.leases import reclaim_leases
from stepflow_engine.ids import job_id, step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import LEASE_MS, NOBODY, Driver


def run_and_step(driver: Driver) -> tuple[Lease, Lease]:
    """A held run, and a planned step of it, held by another worker."""
    lease = driver.started()
    driver.plan(lease, "a")
    return lease, driver.claim_one(worker="w2")


# -- extend ------------------------------------------------------------------------


def test_a_lease_that_is_extended_is_not_reclaimed(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    driver.advance(LEASE_MS - 1)
    assert driver.extend(lease, step) == []
    driver.advance(LEASE_MS - 1)
    assert driver.reclaim() == []
    driver.advance(1)
    assert sorted(driver.reclaim()) == sorted([lease.job, step.job])


def test_extending_names_the_leases_that_are_lost(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    driver.advance(LEASE_MS)
    driver.reclaim()
    before = driver.snapshot()
    assert driver.extend(lease, step, NOBODY) == [lease.job, step.job, "nobody"]
    assert driver.snapshot() == before


def test_a_lease_that_is_over_but_not_reclaimed_can_still_be_extended(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    driver.advance(LEASE_MS * 2)
    assert driver.extend(lease, step) == []
    assert driver.reclaim() == []


def test_a_lease_that_another_worker_has_now_is_lost(driver: Driver) -> None:
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    assert driver.extend(stale) == ["run1"]


def test_extending_a_lease_extends_what_rq_is_shown_of_it(driver: Driver) -> None:
    """RQ fails a job whose entry in its registry of started jobs is over."""
    lease, step = run_and_step(driver)
    wip = driver.keys("RQ_WIP", "shop"), driver.keys("RQ_WIP", "shop:steps")
    before = [score for name in wip for _, score in driver.client.zrange(name, 0, -1, withscores=True)]
    driver.advance(5_000)
    driver.extend(lease, step)
    after = [score for name in wip for _, score in driver.client.zrange(name, 0, -1, withscores=True)]
    assert after == [score + 5 for score in before]


# -- release -----------------------------------------------------------------------


def test_jobs_that_are_handed_back_can_be_claimed_at_once(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    assert driver.release(lease, step) == 2
    again = {found.job: found for found in driver.claim(worker="w3") or ()}
    assert set(again) == {lease.job, step.job}
    assert all(again[old.job].fence > old.fence and again[old.job].deaths == () for old in (lease, step))


def test_jobs_that_are_handed_back_twice_are_queued_once(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    driver.release(lease, step)
    before = driver.snapshot()
    assert driver.release(lease, step) == 0
    assert driver.snapshot() == before


def test_a_job_whose_lease_is_lost_is_not_handed_back(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim(worker="w3")
    before = driver.snapshot()
    assert driver.release(lease, step, NOBODY) == 0
    assert driver.snapshot() == before


def test_a_job_of_a_run_that_has_ended_is_not_handed_back(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    driver.cancel()
    assert driver.release(lease, step) == 0


# -- reclaim -----------------------------------------------------------------------


def test_the_jobs_of_a_dead_worker_are_queued_again_and_the_death_is_counted(driver: Driver) -> None:
    lease, step = run_and_step(driver)
    driver.advance(LEASE_MS)
    assert sorted(driver.reclaim()) == sorted([lease.job, step.job])
    again = driver.claim(worker="w3") or []
    assert sorted((found.job, len(found.deaths)) for found in again) == sorted([(lease.job, 1), (step.job, 1)])


def test_a_lease_is_not_reclaimed_before_it_is_over(driver: Driver) -> None:
    run_and_step(driver)
    driver.advance(LEASE_MS - 1)
    driver.reclaim()
    before = driver.snapshot()
    assert driver.reclaim() == []
    assert driver.snapshot() == before


def test_reclaiming_twice_reclaims_once(driver: Driver) -> None:
    run_and_step(driver)
    driver.advance(LEASE_MS)
    driver.reclaim()
    before = driver.snapshot()
    assert driver.reclaim() == []
    assert driver.snapshot() == before


def test_no_more_leases_are_reclaimed_at_once_than_asked_for(driver: Driver) -> None:
    for n in range(5):
        driver.start(f"run{n}")
    driver.claim()
    driver.advance(LEASE_MS)
    assert [len(driver.reclaim(limit=2)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_lease_without_a_run_is_forgotten(driver: Driver) -> None:
    driver.client.zadd(driver.keys("LEASES"), {"nobody": 1, job_id("nobody", step_key("a")): 1})
    driver.reclaim()
    assert set(driver.snapshot()) == {driver.keys("LAST_LEASE_SCAN")}


# -- timers ------------------------------------------------------------------------


def test_a_delayed_run_and_a_delayed_step_are_queued_when_they_are_due(driver: Driver) -> None:
    driver.retry(driver.started("run1"), delay_ms=1_000)
    driver.fail(driver.started("run2"), "a", delay_ms=2_000)
    assert driver.fire() == (0, 1_000)
    driver.advance(1_000)
    assert driver.fire() == (1, 1_000)
    assert driver.queued("shop:steps") == ["run1"]
    driver.advance(1_000)
    assert driver.fire() == (1, -1)
    assert driver.queued("shop:steps") == ["run1", job_id("run2", step_key("a"))]


def test_timers_that_fire_twice_queue_once(driver: Driver) -> None:
    driver.retry(driver.started(), delay_ms=1_000)
    driver.advance(1_000)
    driver.fire()
    before = driver.snapshot()
    assert driver.fire() == (0, -1)
    assert driver.snapshot() == before


def test_no_more_timers_fire_at_once_than_asked_for(driver: Driver) -> None:
    for n in range(5):
        driver.retry(driver.started(f"run{n}"), delay_ms=1_000)
    driver.advance(3_000)
    assert [driver.fire(limit=2) for _ in range(3)] == [(2, 0), (2, 0), (1, -1)]


def test_a_timer_of_a_run_that_has_ended_does_nothing(driver: Driver) -> None:
    driver.retry(driver.started())
    driver.cancel()
    driver.client.zadd(driver.keys("TIMEOUTS"), {"job:run1": 1, f"job:run1-{step_key('a')}": 1, "job:nobody": 1})
    assert driver.fire() == (3, -1)
    assert driver.run().status is RunStatus.CANCELLED
    assert driver.claim() == []


def test_a_first_look_after_a_while_leaves_workers_the_time_to_extend(driver: Driver) -> None:
    """The server was away, and so were the extensions: nobody has died."""
    lease, step = run_and_step(driver)
    driver.reclaim()
    driver.advance(60_000)
    assert driver.send(reclaim_leases(driver.partition)) == []
    driver.extend(lease)
    driver.advance(4_000)
    assert driver.send(reclaim_leases(driver.partition)) == [], "another worker looks soon after it"
    driver.advance(2_000)
    assert driver.send(reclaim_leases(driver.partition)) == [step.job]


def test_a_clock_that_is_set_back_puts_no_job_off_for_longer_than_half_a_lease(driver: Driver) -> None:
    lease, _ = run_and_step(driver)
    driver.reclaim()
    driver.advance(60_000)
    assert driver.send(reclaim_leases(driver.partition)) == []
    driver.advance(-40_000)
    assert driver.send(reclaim_leases(driver.partition)) == []
    driver.advance(6_000)
    assert lease.job in driver.send(reclaim_leases(driver.partition))


def test_a_clock_that_is_set_ahead_and_far_back_takes_no_lease_that_is_not_over(driver: Driver) -> None:
    lease, _ = run_and_step(driver)
    driver.reclaim()
    driver.advance(60_000)
    driver.send(reclaim_leases(driver.partition))
    driver.advance(-120_000)
    driver.extend(lease)
    assert lease.job not in driver.send(reclaim_leases(driver.partition))


def test_a_lease_that_was_over_at_the_last_look_is_reclaimed_however_long_ago_that_was(driver: Driver) -> None:
    """Workers that only come now and then, each for a moment, take over from one another."""
    lease = driver.started()
    driver.reclaim()
    for expected in ([], [lease.job]):
        driver.advance(60_000)
        assert driver.send(reclaim_leases(driver.partition)) == expected
