"""commit_step, commit_planned_step, yield_run: a memo is stored once, and the run goes on."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import LEASE_MS, NOBODY, Driver, memo


def planned(driver: Driver, *step_ids: str) -> tuple[Lease, list[Lease]]:
    """A run whose continuation is leased to w1, and its planned steps, leased to w2."""
    lease = driver.started()
    driver.plan(lease, *step_ids)
    return lease, driver.claim(worker="w2") or []


def test_a_commit_stores_the_memo_and_leaves_the_continuation_with_its_worker(driver: Driver) -> None:
    lease = driver.started()
    assert driver.commit(lease, "a", text=memo("x")) == (ScriptStatus.DONE, 1)
    assert driver.commit(lease, "b", text=memo("y")) == (ScriptStatus.DONE, 2)
    assert driver.memos() == [(step_key("a"), memo("x")), (step_key("b"), memo("y"))]
    assert driver.run().continuation == "leased"
    assert driver.queued("shop:steps") == []


def test_a_run_that_yields_queues_the_continuation_among_those_of_started_runs(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    assert driver.yield_run(lease) is ScriptStatus.DONE
    assert driver.queued("shop:steps") == ["run1"]
    assert driver.run().status is RunStatus.QUEUED


def test_a_commit_that_is_sent_twice_stores_one_memo_and_queues_one_continuation(driver: Driver) -> None:
    for keep in (True, False):
        run = f"run{keep}"
        lease = driver.started(run)
        driver.commit(lease, "a", keep=keep)
        before = driver.snapshot()
        assert driver.commit(lease, "a", keep=keep) == (ScriptStatus.ALREADY, 1)
        assert driver.snapshot() == before


def test_a_yield_that_is_sent_twice_queues_one_continuation(driver: Driver) -> None:
    lease = driver.started()
    driver.yield_run(lease)
    before = driver.snapshot()
    assert driver.yield_run(lease) in (ScriptStatus.ALREADY, ScriptStatus.STALE_FENCE)
    assert driver.snapshot() == before


def test_a_yield_with_a_stale_fence_or_of_a_run_that_has_ended_or_does_not_exist_is_refused(driver: Driver) -> None:
    lease = driver.started()
    driver.release(lease)
    fresh = driver.claim_one(worker="w2")
    assert driver.yield_run(lease) is ScriptStatus.STALE_FENCE
    assert driver.run().owner == "w2"
    driver.finish(fresh)
    assert driver.yield_run(fresh) is ScriptStatus.NO_RUN
    assert driver.yield_run(NOBODY) is ScriptStatus.NO_RUN


def test_a_commit_sent_again_after_another_took_over_changes_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a", keep=False)
    driver.claim_one(worker="w2")
    before = driver.snapshot()
    assert driver.commit(lease, "a", keep=False) == (ScriptStatus.ALREADY, 1)
    assert driver.snapshot() == before


def test_a_commit_with_a_stale_fence_is_refused(driver: Driver) -> None:
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    before = driver.snapshot()
    assert driver.commit(stale, "a") == (ScriptStatus.STALE_FENCE, 0)
    assert driver.snapshot() == before


def test_a_commit_with_a_stale_fence_is_refused_when_another_has_recorded_the_step(driver: Driver) -> None:
    """A worker that is told ALREADY goes on with the result that it has in hand, so that has to be the recorded one."""
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    fresh = driver.claim_one(worker="w2")
    driver.commit(fresh, "a", text=memo("recorded", worker="w2"), worker="w2")
    assert driver.commit(stale, "a", text=memo("another result"))[0] is ScriptStatus.STALE_FENCE
    assert driver.memos() == [(step_key("a"), memo("recorded", worker="w2"))]


def test_a_planned_step_with_a_stale_fence_is_refused_when_another_has_recorded_it(driver: Driver) -> None:
    lease, (stale,) = planned(driver, "a")
    driver.advance(LEASE_MS)
    driver.extend(lease)
    driver.now_ms += 1
    driver.reclaim()
    fresh = next(found for found in driver.claim(worker="w3") or () if found.key)
    driver.commit(fresh, text=memo("recorded", worker="w3"), worker="w3")
    assert driver.commit(stale, text=memo("another result"))[0] is ScriptStatus.STALE_FENCE
    assert driver.memos() == [(step_key("a"), memo("recorded", worker="w3"))]


def test_a_commit_to_a_run_that_does_not_exist_is_refused(driver: Driver) -> None:
    assert driver.commit(NOBODY, "a") == (ScriptStatus.NO_RUN, 0)
    assert driver.snapshot() == {}


def test_a_commit_to_a_run_that_has_ended_is_refused(driver: Driver) -> None:
    lease = driver.started()
    driver.cancel()
    assert driver.commit(lease, "a") == (ScriptStatus.NO_RUN, 0)
    assert driver.memos() == []


def test_a_planned_step_of_a_run_that_has_ended_is_refused(driver: Driver) -> None:
    lease, (step,) = planned(driver, "a")
    driver.finish(lease)
    assert driver.commit(step) == (ScriptStatus.NO_RUN, 0)
    assert driver.memos() == []


def test_a_planned_step_leaves_nothing_behind_but_its_memo(driver: Driver) -> None:
    _, (step,) = planned(driver, "a")
    assert driver.commit(step, text=memo("x"), worker="w2") == (ScriptStatus.DONE, 1)
    assert driver.memos() == [(step_key("a"), memo("x"))]
    assert driver.steps() == {}
    assert not driver.client.exists(driver.keys("RQ_JOB", step.job))


def test_a_planned_step_that_is_committed_twice_is_stored_once(driver: Driver) -> None:
    lease, (step,) = planned(driver, "a")
    driver.park(lease)
    driver.commit(step, worker="w2")
    before = driver.snapshot()
    assert driver.commit(step, worker="w2") == (ScriptStatus.ALREADY, 1)
    assert driver.snapshot() == before
    assert driver.queued("shop:steps") == ["run1"]


def test_ten_steps_that_end_together_cost_one_continuation(driver: Driver) -> None:
    lease, steps = planned(driver, *[str(n) for n in range(10)])
    driver.park(lease)
    positions = [driver.commit(step, worker="w2")[1] for step in steps]
    assert positions == list(range(1, 11))
    assert driver.queued("shop:steps") == ["run1"]
    assert driver.run().status is RunStatus.QUEUED


def test_the_holder_of_the_run_is_told_of_a_memo_that_another_worker_stores(driver: Driver) -> None:
    _, (step,) = planned(driver, "a")
    heard = driver.listen("NOTIFICATIONS", "w1")
    driver.commit(step, text=memo("x y"), worker="w2")
    assert heard() == [f"memo run1 1 {step_key('a')}"]


def test_the_holder_is_not_told_of_what_it_stores_itself(driver: Driver) -> None:
    _, (step,) = planned(driver, "a")
    heard = driver.listen("NOTIFICATIONS", "w1")
    driver.commit(step, worker="w1")
    assert heard() == []


def died_once(driver: Driver) -> Lease:
    """A run that is held by a worker after another that died with it."""
    driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    lease = driver.claim_one()
    assert len(lease.deaths) == 1
    return lease


def test_progress_clears_the_count_of_workers_that_died(driver: Driver) -> None:
    """Else a long run fails as poison after a few deploys, each of which killed a worker at another step of it."""
    lease = died_once(driver)
    driver.commit(lease, "a")
    driver.advance(LEASE_MS)
    driver.reclaim()
    assert len(driver.claim_one().deaths) == 1


def test_the_end_of_a_planned_step_clears_the_count_of_workers_that_died(driver: Driver) -> None:
    lease = died_once(driver)
    driver.plan(lease, "a")
    driver.commit(driver.claim_one(worker="w2"), worker="w2")
    driver.release(lease)
    assert driver.claim_one().deaths == ()
