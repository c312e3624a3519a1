"""plan_steps, fail_attempt: steps with jobs of their own, and their next attempts."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.ids import job_id, step_key
from tests.support.driver import LEASE_MS, NOBODY, Driver


def names(driver: Driver) -> list[str]:
    return [lease.step_id for lease in driver.claim(worker="w2") or ()]


def taken_over(driver: Driver) -> Lease:
    """A lease that is over, of a run that another worker has."""
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    return stale


def test_planned_steps_are_jobs_that_are_claimed_in_the_order_of_the_code(driver: Driver) -> None:
    lease = driver.started()
    assert driver.plan(lease, "c", "a", "b") is ScriptStatus.DONE
    assert names(driver) == ["c", "a", "b"]
    assert driver.run().continuation == "leased"


def test_steps_that_are_planned_twice_have_one_job_each(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a", "b")
    before = driver.snapshot()
    assert driver.plan(lease, "a", "b") is ScriptStatus.DONE
    assert driver.snapshot() == before


def test_steps_that_were_claimed_meanwhile_are_not_planned_again(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.claim(worker="w2")
    driver.plan(lease, "a", "b")
    assert names(driver) == ["b"]


def test_a_step_that_has_a_memo_is_not_planned(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    assert driver.plan(lease, "a") is ScriptStatus.DONE
    assert driver.steps() == {}


def test_a_step_that_waits_for_its_next_attempt_is_not_planned(driver: Driver) -> None:
    lease = driver.started()
    driver.fail(lease, "a")
    driver.plan(lease, "a")
    assert driver.steps()["a"].state == "delayed"


def test_planning_with_a_stale_fence_is_refused(driver: Driver) -> None:
    stale = taken_over(driver)
    before = driver.snapshot()
    assert driver.plan(stale, "a") is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before


def test_planning_for_a_run_that_does_not_exist_or_has_ended_is_refused(driver: Driver) -> None:
    assert driver.plan(NOBODY, "a") is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.cancel()
    assert driver.plan(lease, "a") is ScriptStatus.NO_RUN


def test_odd_ids_are_kept_as_they_are(driver: Driver) -> None:
    odd = ["ü ☃", "two words", "a:b:state", "-", "x" * 10_000, "новый\nшаг"]
    driver.plan(driver.started(), *odd)
    assert names(driver) == odd


def test_a_failed_attempt_of_the_continuations_step_becomes_a_delayed_job(driver: Driver) -> None:
    lease = driver.started()
    assert driver.fail(lease, "a", delay_ms=1_000) is ScriptStatus.DONE
    step = driver.steps()["a"]
    assert (step.state, step.attempts, step.due_at) == ("delayed", 1, driver.now_ms + 1_000)
    assert step.failure is not None
    assert (step.failure.name, step.failure.message) == ("ValueError", "no")
    assert driver.run().continuation == "leased"


def test_a_failed_attempt_of_a_planned_step_gives_up_its_lease(driver: Driver) -> None:
    driver.plan(driver.started(), "a")
    (step,) = driver.claim(worker="w2") or []
    assert driver.fail(step) is ScriptStatus.DONE
    assert driver.extend(step) == [step.job]
    driver.advance(1_000)
    driver.fire()
    (again,) = driver.claim(worker="w2") or []
    assert (again.step_id, again.step_attempt) == ("a", 1)
    assert again.fence > step.fence


def test_a_failed_attempt_that_is_recorded_twice_counts_once(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "planned")
    (step,) = driver.claim(worker="w2") or []
    for failed, step_id in ((lease, "own"), (step, "planned")):
        driver.fail(failed, step_id)
        before = driver.snapshot()
        assert driver.fail(failed, step_id) is ScriptStatus.ALREADY
        assert driver.snapshot() == before
        assert driver.steps()[step_id].attempts == 1


def test_a_failed_attempt_sent_again_after_the_next_was_claimed_changes_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.fail(lease, "a")
    driver.advance(1_000)
    driver.fire()
    driver.claim(worker="w2")
    before = driver.snapshot()
    assert driver.fail(lease, "a") is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_failed_attempt_with_a_stale_fence_is_refused(driver: Driver) -> None:
    stale = taken_over(driver)
    before = driver.snapshot()
    assert driver.fail(stale, "a") is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before


def test_a_failed_attempt_of_a_planned_step_with_a_stale_fence_is_refused(driver: Driver) -> None:
    driver.plan(driver.started(), "a")
    (stale,) = driver.claim(worker="w2") or []
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim(worker="w3")
    before = driver.snapshot()
    assert driver.fail(stale) is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before


def test_a_failed_attempt_of_a_run_that_does_not_exist_or_has_ended_is_refused(driver: Driver) -> None:
    assert driver.fail(NOBODY, "a") is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.cancel()
    assert driver.fail(lease, "a") is ScriptStatus.NO_RUN


def test_a_step_that_is_put_off_keeps_its_number_of_attempts(driver: Driver) -> None:
    driver.plan(driver.started(), "a")
    (step,) = driver.claim(worker="w2") or []
    assert driver.fail(step, attempts=0) is ScriptStatus.DONE
    driver.advance(1_000)
    driver.fire()
    (again,) = driver.claim(worker="w2") or []
    assert again.step_attempt == 0


def test_the_job_of_a_step_has_the_id_of_its_run_and_its_key(driver: Driver) -> None:
    driver.plan(driver.started(), "a")
    assert driver.queued("shop:steps") == [job_id("run1", step_key("a"))]
