"""What the scripts keep of the attempts that gave no result, and what they store of the step that executes."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.attempts import (
    FAILED,
    UNFINISHED,
    WORKER_DIED,
    AttemptRecord,
    attempt_detail,
    parse_executing,
    read_first_failure,
)
from stepflow_broker.transitions.steps import step_jobs
from stepflow_broker.transitions.steps.waits import WaitStart, begin_wait
from stepflow_broker.views.step_view import executing_step
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import ERROR, LEASE_MS, NOBODY, RETENTION_MS, START_MS, Driver

A = step_key("a")


def summary(attempts: list[AttemptRecord]) -> list[tuple[str, int, str]]:
    """Step, number and outcome of each attempt."""
    return [(attempt.step_id, attempt.number, attempt.outcome) for attempt in attempts]


def fail_often(driver: Driver, lease: Lease, count: int, *, step_id: str = "a") -> None:
    """Fail a step that is planned, a number of times."""
    for number in range(1, count + 1):
        assert driver.fail(lease, step_id, attempts=number) is ScriptStatus.DONE
        driver.advance(1_000)
        driver.fire()
        lease = next(found for found in driver.claim() or () if found.step_id == step_id)


# -- failed attempts -----------------------------------------------------------------


def test_every_failed_attempt_of_a_step_is_kept(driver: Driver) -> None:
    fail_often(driver, driver.started(), 2)
    kept = driver.attempts()
    assert summary(kept) == [("a", 1, FAILED), ("a", 2, FAILED)]
    first = kept[0]
    assert (first.key, first.started_at, first.ended_at, first.worker) == (A, START_MS - 1_000, START_MS, "w1")
    assert first.failure is not None
    assert (first.failure.name, first.failure.message) == ("ValueError", "no")


def test_an_attempt_that_is_recorded_twice_is_kept_once(driver: Driver) -> None:
    lease = driver.started()
    driver.fail(lease, "a")
    assert driver.fail(lease, "a") is ScriptStatus.ALREADY
    assert len(driver.attempts()) == 1


def test_a_step_that_is_left_to_another_worker_has_no_attempt(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    step = driver.claim_one()
    assert driver.fail(step, attempts=0) is ScriptStatus.DONE
    assert driver.attempts() == []


def test_a_stale_fence_keeps_no_attempt(driver: Driver) -> None:
    assert driver.fail(NOBODY, "a") is ScriptStatus.NO_RUN
    assert driver.retry(NOBODY) is ScriptStatus.NO_RUN
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    before = driver.attempts()
    assert driver.fail(stale, "a") is ScriptStatus.STALE_FENCE
    assert driver.retry(stale) is ScriptStatus.STALE_FENCE
    assert driver.attempts() == before


def test_an_attempt_of_the_code_starts_when_it_is_claimed(driver: Driver) -> None:
    lease = driver.started()
    driver.advance(500)
    driver.retry(lease, attempts=1, delay_ms=1_000)
    driver.advance(1_000)
    driver.fire()
    lease = driver.claim_one()
    assert driver.run().attempt_started_at == START_MS + 1_500
    driver.advance(300)
    assert driver.park(lease) is ScriptStatus.ALREADY  # there is nothing to wait for: the lease is kept
    driver.yield_run(lease)
    driver.advance(200)
    lease = driver.claim_one()
    driver.retry(lease, attempts=2)
    times = [(one.step_id, one.number, one.started_at, one.ended_at) for one in driver.attempts()]
    assert times == [("", 1, START_MS, START_MS + 500), ("", 2, START_MS + 1_500, START_MS + 2_000)]
    assert driver.run().attempt_started_at is None


def test_a_run_that_a_worker_cannot_execute_has_no_attempt(driver: Driver) -> None:
    lease = driver.started()
    driver.retry(lease, attempts=0, reason="the code is not here")
    assert driver.attempts() == []
    assert driver.run().attempt_started_at == START_MS


# -- deaths --------------------------------------------------------------------------


def test_the_death_of_a_worker_is_an_attempt_of_the_planned_step(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.advance(100)
    driver.claim_one(worker="w2")
    driver.advance(LEASE_MS)
    driver.extend(lease)
    driver.reclaim()
    [death] = driver.attempts()
    assert (death.step_id, death.number, death.outcome, death.worker) == ("a", 1, WORKER_DIED, "w2")
    assert (death.started_at, death.ended_at) == (START_MS + 100, driver.now_ms)
    assert death.failure is not None
    assert death.failure.name == "WorkerDiedError"
    assert "w2 died" in death.failure.message


def test_the_death_of_a_worker_is_an_attempt_of_the_step_that_it_reported(driver: Driver) -> None:
    lease = driver.started()
    driver.advance(1_500)
    driver.extend(lease, executing='step "x"\n')
    driver.advance(LEASE_MS)
    driver.reclaim()
    [death] = driver.attempts()
    assert (death.key, death.step_id, death.outcome) == (step_key('step "x"\n'), 'step "x"\n', WORKER_DIED)
    assert death.started_at == START_MS + 1_500
    assert driver.run().executing == ""


def test_the_death_of_a_worker_is_an_attempt_of_the_code_if_the_reported_step_has_ended(driver: Driver) -> None:
    lease = driver.started()
    driver.extend(lease, executing="a")
    driver.commit(lease, "a")
    driver.advance(LEASE_MS)
    driver.reclaim()
    [death] = driver.attempts()
    assert (death.key, death.number, death.started_at, death.worker) == ("", 1, START_MS, "w1")


def test_a_released_job_is_no_attempt(driver: Driver) -> None:
    lease = driver.started()
    driver.extend(lease, executing="a")
    driver.release(lease)
    assert driver.attempts() == []
    assert driver.run().executing == ""
    assert driver.run().leased_at is None


# -- bounds --------------------------------------------------------------------------


def test_the_last_ten_attempts_of_a_step_are_kept(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "b")
    driver.fail(driver.claim_one(), attempts=1, delay_ms=3_600_000)
    fail_often(driver, lease, 13)
    kept = driver.attempts()
    assert [one.number for one in kept if one.step_id == "a"] == list(range(4, 14))
    assert [one.step_id for one in kept].count("b") == 1


def test_the_last_ten_deaths_between_the_steps_of_a_run_are_kept(driver: Driver) -> None:
    lease = driver.started()
    for number in range(13):
        driver.commit(lease, f"step {number}")  # a new memo forgets the deaths before
        driver.advance(LEASE_MS)
        driver.reclaim()
        lease = driver.claim_one()
    kept = driver.attempts()
    assert [(one.key, one.outcome) for one in kept] == [("", WORKER_DIED)] * 10
    driver.retry(lease)
    assert [one.outcome for one in driver.attempts()] == [WORKER_DIED] * 9 + [FAILED]


def test_the_last_thousand_attempts_of_a_run_are_kept(driver: Driver) -> None:
    lease = driver.started()
    earlier = {f"{number}:{step_key(str(number))}": f'{{"id":"{number}"}}' for number in range(1, 1_001)}
    size = sum(map(len, earlier.values()))
    driver.client.hset(driver.keys("ATTEMPTS", "run1"), mapping={**earlier, "count": 1_000, "bytes": size})
    fail_at_once(driver, lease, "1001", ERROR)
    kept = driver.attempts()
    assert [one.step_id for one in kept] == [str(number) for number in range(102, 1_002)]
    fail_at_once(driver, lease, "1002", ERROR)
    assert len(driver.attempts()) == 901
    assert driver.attempts()[-1].step_id == "1002"


def test_the_attempts_of_a_run_have_at_most_four_mebibytes(driver: Driver) -> None:
    lease = driver.started()
    error = dumps({"name": "ValueError", "message": "x" * 300_000})
    for number in range(20):
        fail_at_once(driver, lease, f"step {number}", error)
    kept = driver.attempts()
    stored = driver.client.hgetall(driver.keys("ATTEMPTS", "run1"))
    size = sum(len(text) for name, text in stored.items() if ":" in name)
    assert size == int(stored["bytes"]) <= 4 * 1024 * 1024
    assert kept[-1].step_id == "step 19"
    assert len(kept) >= 10


def fail_at_once(driver: Driver, lease: Lease, step_id: str, error: bytes) -> None:
    """Fail a step once, without the checks of the driver, which would read all steps each time."""
    detail = attempt_detail(number=1, worker="w1", version=None, step_id=step_id, times=(START_MS, START_MS))
    call = step_jobs.fail_attempt(
        driver.partition,
        run_id=lease.run_id,
        job_key="",
        fence=lease.fence,
        key=step_key(step_id),
        step_id=step_id,
        attempts=1,
        error=error,
        delay_ms=3_600_000,
        attempt=detail,
    )
    assert driver.store.broker.execute(call) is ScriptStatus.DONE


# -- the first failure ---------------------------------------------------------------


def test_the_first_failure_of_a_step_is_kept_until_the_step_ends(driver: Driver) -> None:
    lease, key = driver.started(), step_key("a")
    first = read_first_failure(driver.partition, "run1", key)
    assert driver.store.broker.execute(first) is None
    driver.fail(lease, "a")
    failed_at = driver.now_ms
    driver.advance(1_000)
    driver.fire()
    (again,) = driver.claim(worker="w2") or ()
    driver.fail(again, attempts=2)
    assert driver.store.broker.execute(first) == failed_at
    driver.advance(1_000)
    driver.fire()
    (last,) = driver.claim(worker="w2") or ()
    driver.commit(last)
    assert driver.store.broker.execute(first) is None


def test_the_first_failure_of_the_code_is_kept(driver: Driver) -> None:
    lease = driver.started()
    failed_at = driver.now_ms
    driver.retry(lease)
    driver.advance(1_000)
    driver.fire()
    driver.retry(driver.claim_one(), attempts=2)
    assert driver.store.broker.execute(read_first_failure(driver.partition, "run1", "")) == failed_at


# -- the end of the run --------------------------------------------------------------


def test_attempts_expire_with_their_run(driver: Driver) -> None:
    lease = driver.started()
    driver.fail(lease, "a")
    name = driver.keys("ATTEMPTS", "run1")
    assert driver.client.pttl(name) == -1
    driver.finish(lease)
    assert 0 < driver.client.pttl(name) <= RETENTION_MS


def test_a_run_without_failed_attempts_has_no_key_for_them(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    driver.finish(lease)
    assert not driver.client.exists(driver.keys("ATTEMPTS", "run1"))


def test_a_completed_run_keeps_no_unfinished_steps(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.finish(lease)
    assert driver.attempts() == []


def test_a_cancelled_run_keeps_what_it_was_doing(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "planned")
    driver.plan(lease, "claimed")
    driver.claim_one(worker="w2")
    driver.fail(lease, "retried")
    start = WaitStart(
        step_key("paid"), "paid", dumps({"id": "paid", "kind": "sleep", "started_at": START_MS})[1:], 60_000
    )
    driver.send(begin_wait(driver.partition, start, run_id="run1", fence=lease.fence))
    driver.extend(lease, executing="now")
    driver.advance(250)
    driver.cancel()
    unfinished = {one.step_id: one for one in driver.attempts() if one.outcome == UNFINISHED}
    assert set(unfinished) == {"planned", "claimed", "retried", "paid", "now"}
    assert {one.ended_at for one in unfinished.values()} == {START_MS + 250}
    assert [unfinished[name].worker for name in ("planned", "claimed", "now")] == ["w2", "", "w1"]
    assert (unfinished["retried"].number, unfinished["paid"].detail["kind"]) == (2, "sleep")
    assert driver.run().ended_by == "w1"
    assert driver.client.pttl(driver.keys("ATTEMPTS", "run1")) > 0


def test_a_run_with_very_many_unfinished_steps_keeps_a_hundred_of_them(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, *(f"step {number}" for number in range(300)))
    driver.cancel()
    assert len(driver.attempts()) == 100


def test_a_run_keeps_many_more_of_its_unfinished_invokes_for_its_forks(driver: Driver) -> None:
    lease = driver.started()
    calls = [driver.invoking(lease, f"call {number}", child=f"child{number}") for number in range(101)]
    driver.store.broker.execute_all(calls)
    driver.finish(lease, RunStatus.FAILED)
    assert len(driver.attempts()) == 101


def test_a_failed_run_says_which_worker_ended_it(driver: Driver) -> None:
    driver.finish(driver.started(worker="anna"), RunStatus.FAILED)
    assert driver.run().ended_by == "anna"


# -- versions, and the step that executes ----------------------------------------------


def test_a_run_has_the_version_of_the_worker_that_started_it(driver: Driver) -> None:
    driver.start()
    lease = driver.claim_one(version="1.4")
    assert (lease.version, driver.run().version) == ("1.4", "1.4")
    driver.plan(lease, "a")
    driver.yield_run(lease)
    again = driver.claim(version="1.5") or []
    assert {one.version for one in again} == {"1.4"}
    assert len(again) == 2
    assert driver.run().version == "1.4"


def test_a_run_that_a_worker_without_a_version_starts_has_none(driver: Driver) -> None:
    assert driver.started().version == ""
    assert "version" not in driver.client.hgetall(driver.keys("RUN", "run1"))


def test_an_extension_stores_the_step_that_executes_and_the_end_of_the_lease_deletes_it(driver: Driver) -> None:
    lease = driver.started()
    driver.extend(lease)
    assert driver.run().executing == ""
    driver.extend(lease, executing="a step with spaces")
    found = parse_executing(driver.run().executing)
    assert found is not None
    assert (found.key, found.step_id, found.since) == (step_key("a step with spaces"), "a step with spaces", START_MS)
    driver.yield_run(lease)
    assert driver.run().executing == ""


def test_a_stale_fence_stores_no_step_that_executes(driver: Driver) -> None:
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    assert driver.extend(stale, executing="a") == ["run1"]
    assert driver.run().executing == ""


def test_a_report_of_an_earlier_lease_does_not_count(driver: Driver) -> None:
    """An older worker, which knows of no reports, leaves them."""
    lease = driver.started()
    driver.extend(lease, executing="a")
    report = driver.run().executing
    driver.yield_run(lease)
    lease = driver.claim_one(worker="w2")
    driver.client.hset(driver.keys("RUN", "run1"), "executing", report)
    assert executing_step(driver.run(), set()) is None
    driver.advance(LEASE_MS)
    driver.reclaim()
    assert [one.key for one in driver.attempts()] == [""]
