"""finish_run, cancel_run, retry_run, park_run: how a worker gives a run up."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.run_control import forget_runs
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import ERROR, LEASE_MS, NOBODY, RETENTION_MS, Driver
from tests.support.found_runs import ENDED, found_runs


def taken_over(driver: Driver) -> Lease:
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    return stale


def with_steps_in_every_state(driver: Driver) -> Lease:
    """A held run with a step that is queued, one that is leased, one that is delayed and one that has ended."""
    lease = driver.started()
    driver.plan(lease, "done", "leased")
    done, _ = driver.claim(worker="w2") or []
    driver.commit(done, worker="w2")
    driver.fail(lease, "delayed")
    driver.plan(lease, "queued")
    return lease


# -- finish ------------------------------------------------------------------------


def test_a_finished_run_keeps_its_output_and_its_memos(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    driver.advance(5)
    assert driver.finish(lease) is ScriptStatus.DONE
    run = driver.run()
    assert (run.status, run.output, run.failure) == (RunStatus.COMPLETED, "done", None)
    assert (run.ended_at, run.continuation, run.owner) == (driver.now_ms, "", "")
    assert len(driver.memos()) == 1


def test_a_failed_run_keeps_its_error(driver: Driver) -> None:
    assert driver.finish(driver.started(), RunStatus.FAILED) is ScriptStatus.DONE
    run = driver.run()
    assert run.status is RunStatus.FAILED
    assert run.failure is not None
    assert (run.failure.name, run.failure.message) == ("ValueError", "no")


def test_a_run_that_is_not_kept_leaves_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    driver.fail(lease, "b")
    driver.finish(lease, retention_ms=0, version="2.0")
    assert driver.client.keys("*run1*") == []
    assert driver.send(forget_runs(driver.partition, limit=10)) == (1, 1)
    assert found_runs(driver.store.broker, driver.partition) == []


def test_the_list_of_failed_jobs_forgets_those_that_are_gone(driver: Driver) -> None:
    driver.finish(driver.started("kept"), RunStatus.FAILED)
    lease, failed = driver.started(), driver.keys("RQ_FAILED", "shop")
    driver.client.zadd(failed, {"gone": driver.now_ms // 1_000 - 1})
    driver.finish(lease, RunStatus.FAILED)
    assert set(driver.client.zrange(failed, 0, -1)) == {"kept", "run1"}


def test_a_run_that_is_finished_twice_ends_once(driver: Driver) -> None:
    for status in (RunStatus.COMPLETED, RunStatus.FAILED):
        lease = driver.started(f"run{status}")
        driver.finish(lease, status)
        before = driver.snapshot()
        assert driver.finish(lease, status) is ScriptStatus.ALREADY
        assert driver.snapshot() == before


def test_steps_that_have_not_ended_go_with_their_run(driver: Driver) -> None:
    lease = with_steps_in_every_state(driver)
    assert driver.finish(lease) is ScriptStatus.DONE
    assert len(driver.memos()) == 1
    assert driver.claim() == []


def test_finishing_with_a_stale_fence_is_refused(driver: Driver) -> None:
    stale = taken_over(driver)
    before = driver.snapshot()
    assert driver.finish(stale) is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before


def test_finishing_a_run_that_does_not_exist_or_was_cancelled_is_refused(driver: Driver) -> None:
    assert driver.finish(NOBODY) is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.cancel()
    assert driver.finish(lease) is ScriptStatus.NO_RUN
    assert driver.run().status is RunStatus.CANCELLED


def test_who_waits_for_the_end_of_a_run_is_told_of_it(driver: Driver) -> None:
    lease = driver.started()
    heard = driver.listen("RUN_ENDED", "run1")
    driver.finish(lease)
    driver.finish(lease)
    assert heard() == ["completed"]


def test_ended_runs_are_listed_until_their_retention_is_over(driver: Driver) -> None:
    driver.finish(driver.started())

    def listed() -> list[str]:
        return [run.id for run in found_runs(driver.store.broker, driver.partition, statuses=ENDED)]

    forget = forget_runs(driver.partition, limit=10)
    assert listed() == ["run1"]
    driver.advance(RETENTION_MS - 1)
    assert driver.store.broker.execute(forget) == (0, 0)
    driver.advance(1)
    forget = forget_runs(driver.partition, limit=10)
    assert driver.store.broker.execute(forget) == (1, 0)  # it is still there
    assert listed() == ["run1"]
    driver.client.delete(driver.keys("RUN", "run1"))
    assert listed() == []
    driver.advance(RETENTION_MS)
    assert driver.send(forget_runs(driver.partition, limit=10)) == (1, 1)
    left = [driver.client.keys(f"{driver.keys(kind)}*") for kind in ("INDEX", "EXPIRY", "RUN_FUNCTIONS")]
    assert left == [[], [], []]


# -- cancel ------------------------------------------------------------------------


def queued(driver: Driver) -> None:
    driver.start()


def queued_again(driver: Driver) -> None:
    driver.commit(driver.started(), "a", keep=False)


def leased(driver: Driver) -> None:
    driver.started()


def delayed(driver: Driver) -> None:
    driver.retry(driver.started())


def parked(driver: Driver) -> None:
    driver.park(with_steps_in_every_state(driver), applied=1)


@pytest.mark.parametrize("arrange", [queued, queued_again, leased, delayed, parked, with_steps_in_every_state])
def test_a_run_can_be_cancelled_in_every_state(driver: Driver, arrange) -> None:
    arrange(driver)
    assert driver.cancel() is ScriptStatus.DONE
    run = driver.run()
    assert run.status is RunStatus.CANCELLED
    assert run.failure is not None
    assert driver.claim() == []


@pytest.mark.parametrize("arrange", [queued, leased, delayed, parked])
def test_a_run_that_is_cancelled_twice_ends_once(driver: Driver, arrange) -> None:
    arrange(driver)
    driver.cancel()
    before = driver.snapshot()
    assert driver.cancel() is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_the_holder_of_a_run_is_told_that_it_is_cancelled(driver: Driver) -> None:
    driver.started(worker="w7")
    heard = driver.listen("NOTIFICATIONS", "w7")
    driver.cancel()
    assert heard() == ["cancel run1"]


def test_a_run_that_has_ended_cannot_be_cancelled(driver: Driver) -> None:
    driver.finish(driver.started())
    assert driver.cancel() is ScriptStatus.ALREADY
    assert driver.run().status is RunStatus.COMPLETED


# -- retry -------------------------------------------------------------------------


def test_a_run_that_is_retried_waits_for_its_time_and_counts_the_attempt(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    assert driver.retry(lease, attempts=1, delay_ms=1_000) is ScriptStatus.DONE
    run = driver.run()
    assert (run.status, run.continuation, run.due_at) == (RunStatus.WAITING, "delayed", driver.now_ms + 1_000)
    assert run.failure is not None
    driver.advance(1_000)
    driver.fire()
    again = driver.claim_one()
    assert (again.attempt, again.applied) == (1, 1)
    assert again.fence > lease.fence


def test_a_run_that_no_worker_can_run_says_why_until_one_can(driver: Driver) -> None:
    lease = driver.started()
    driver.retry(lease, attempts=0, reason="no code")
    assert driver.run().blocked == "no code"
    assert driver.run().failure is None
    driver.advance(1_000)
    driver.fire()
    driver.finish(driver.claim_one())
    assert driver.run().blocked == ""


@pytest.mark.parametrize("kind", ["run", "step"])
def test_the_delay_of_a_job_that_no_worker_can_execute_doubles_up_to_an_hour(driver: Driver, kind: str) -> None:
    lease = driver.started()
    if kind == "step":
        driver.plan(lease, "a")
        driver.park(lease)
        lease = driver.claim_one()
    delays = []
    for _ in range(14):
        assert driver.defer(lease) is ScriptStatus.DONE
        due_at = driver.run().due_at if kind == "run" else driver.steps()["a"].due_at
        assert due_at is not None
        delays.append(due_at - driver.now_ms)
        driver.now_ms = due_at
        driver.fire()
        lease = driver.claim_one()
    assert delays == [1_000 * 2**n for n in range(12)] + [3_600_000, 3_600_000]
    if kind == "run":
        driver.retry(lease)  # the code ran
    else:
        driver.fail(lease)
    driver.advance(1_000)
    driver.fire()
    driver.defer(driver.claim_one())
    due_at = driver.run().due_at if kind == "run" else driver.steps()["a"].due_at
    assert due_at == driver.now_ms + 1_000


def test_deferrals_of_long_ago_do_not_count(driver: Driver) -> None:
    lease = driver.started()
    for _ in range(5):
        driver.defer(lease)
        driver.advance(60_000)
        driver.fire()
        lease = driver.claim_one()
    driver.yield_run(lease)  # a worker could execute it
    driver.advance(7_200_000)
    driver.defer(driver.claim_one())
    assert driver.run().due_at == driver.now_ms + 1_000


def test_a_retry_that_is_sent_twice_is_refused_and_changes_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.retry(lease)
    before = driver.snapshot()
    assert driver.retry(lease) in (ScriptStatus.ALREADY, ScriptStatus.STALE_FENCE)
    assert driver.snapshot() == before


def test_retrying_with_a_stale_fence_is_refused(driver: Driver) -> None:
    stale = taken_over(driver)
    before = driver.snapshot()
    assert driver.retry(stale) is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before


def test_retrying_a_run_that_does_not_exist_or_has_ended_is_refused(driver: Driver) -> None:
    assert driver.retry(NOBODY) is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.cancel()
    assert driver.retry(lease) is ScriptStatus.NO_RUN


# -- park --------------------------------------------------------------------------


def test_a_parked_run_has_no_job_until_a_step_of_it_ends(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    assert driver.park(lease) is ScriptStatus.DONE
    assert (driver.run().status, driver.run().continuation) == (RunStatus.WAITING, "")
    (step,) = driver.claim(worker="w2") or []
    driver.commit(step, worker="w2")
    assert driver.claim_one().run_id == "run1"


def test_a_run_is_not_parked_when_a_memo_came_meanwhile(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a", "b")
    driver.commit((driver.claim(worker="w2") or [])[0], worker="w2")
    before = driver.snapshot()
    assert driver.park(lease, applied=0) is ScriptStatus.MORE
    assert driver.snapshot() == before
    assert driver.park(lease, applied=1) is ScriptStatus.DONE


def test_a_park_that_is_sent_twice_changes_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.park(lease)
    before = driver.snapshot()
    assert driver.park(lease) in (ScriptStatus.ALREADY, ScriptStatus.STALE_FENCE)
    assert driver.snapshot() == before


def test_a_park_that_comes_again_after_the_wake_does_not_undo_it(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.park(lease)
    driver.commit((driver.claim(worker="w2") or [])[0], worker="w2")
    driver.park(lease)
    assert driver.queued("shop:steps") == ["run1"]


def test_a_run_that_waits_for_nothing_is_not_parked(driver: Driver) -> None:
    lease = driver.started()
    before = driver.snapshot()
    assert driver.park(lease) is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_run_is_not_parked_by_who_knows_of_more_memos_than_there_are(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    before = driver.snapshot()
    assert driver.park(lease, applied=1) is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_parking_with_a_stale_fence_is_refused(driver: Driver) -> None:
    stale = taken_over(driver)
    before = driver.snapshot()
    assert driver.park(stale) is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before


def test_parking_a_run_that_does_not_exist_or_has_ended_is_refused(driver: Driver) -> None:
    assert driver.park(NOBODY) is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.cancel()
    assert driver.park(lease) is ScriptStatus.NO_RUN


def test_a_failure_is_stored_as_it_was_sent(driver: Driver) -> None:
    driver.finish(driver.started(), RunStatus.FAILED)
    assert driver.client.hget(driver.keys("RUN", "run1"), "error") == ERROR.decode()


# -- continue ----------------------------------------------------------------------


def test_a_parked_run_whose_code_continues_is_queued_once(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.park(lease)
    assert driver.continue_run(lease.run_id) in (ScriptStatus.DONE, ScriptStatus.ALREADY)
    assert driver.continue_run(lease.run_id) is ScriptStatus.ALREADY
    assert driver.run().status is RunStatus.QUEUED
    jobs = [claimed.job for claimed in driver.claim() or []]
    assert jobs.count(lease.run_id) == 1


@pytest.mark.parametrize("arrange", [queued, leased, delayed])
def test_a_run_that_is_not_parked_is_not_queued_again(driver: Driver, arrange) -> None:
    arrange(driver)
    before = driver.snapshot()
    assert driver.continue_run("run1") is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_run_that_has_ended_or_does_not_exist_does_not_continue(driver: Driver) -> None:
    assert driver.continue_run("nobody") is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.finish(lease)
    assert driver.continue_run(lease.run_id) is ScriptStatus.NO_RUN
