"""claim_jobs: ready jobs are leased once each, those of started runs first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.code import code_names, digest_of_code, register_code
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import ClaimedJobs, Lease, claim_jobs, queue_lists
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_engine.codec import dumps, loads
from stepflow_engine.ids import job_id, step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import LEASE_MS, START_MS, Driver


def test_a_claim_leases_the_oldest_job_and_tells_what_is_needed_to_run_it(driver: Driver) -> None:
    driver.start("run1")
    driver.start("run2")
    lease = driver.claim_one()
    assert lease.event is not None
    assert loads(lease.event)["id"] == "run1"
    assert (lease.job, lease.run_id, lease.key, lease.fence) == ("run1", "run1", "", START_MS)
    assert (lease.app, lease.function, lease.attempt, lease.applied) == ("shop", "buy", 0, 0)
    assert (lease.deaths, lease.planned) == ((), False)
    assert driver.client.zscore(driver.keys("LEASES"), "run1") == START_MS + LEASE_MS
    run = driver.run("run1")
    assert (run.status, run.continuation, run.owner, run.started_at) == (RunStatus.RUNNING, "leased", "w1", START_MS)


def test_a_job_is_claimed_once(driver: Driver) -> None:
    driver.start()
    assert len(driver.claim() or ()) == 1
    assert driver.claim() == []


def test_no_more_jobs_are_claimed_than_were_asked_for(driver: Driver) -> None:
    for n in range(5):
        driver.start(f"run{n}")
    assert [lease.run_id for lease in driver.claim(3) or ()] == ["run0", "run1", "run2"]
    assert [lease.run_id for lease in driver.claim(3) or ()] == ["run3", "run4"]


def test_jobs_of_started_runs_are_claimed_before_those_of_new_ones(driver: Driver) -> None:
    first = driver.started("run1")
    driver.start("run2")
    driver.commit(first, "a", keep=False)
    assert [lease.run_id for lease in driver.claim() or ()] == ["run1", "run2"]


def test_queues_are_emptied_in_the_order_in_which_they_are_named(driver: Driver) -> None:
    driver.start("run1", queue="slow")
    driver.start("run2", queue="fast")
    assert [lease.run_id for lease in driver.claim(queues=("fast", "slow")) or ()] == ["run2", "run1"]


def test_jobs_of_other_queues_are_left(driver: Driver) -> None:
    driver.start(queue="slow")
    assert driver.claim(queues=("fast",)) == []
    assert driver.queued("slow") == ["run1"]


def test_the_event_is_told_only_to_the_first_who_claims_the_run(driver: Driver) -> None:
    lease = driver.started()
    assert lease.event is not None
    driver.commit(lease, "a", keep=False)
    again = driver.claim_one()
    assert again.event is None
    assert again.applied == 1


def test_the_fence_grows_with_every_claim_of_a_run(driver: Driver) -> None:
    lease = driver.started()
    fences = [lease.fence]
    for step_id in ("a", "b", "c"):
        driver.commit(lease, step_id, keep=False)
        lease = driver.claim_one()
        fences.append(lease.fence)
    assert fences == sorted(set(fences))


def test_a_planned_step_is_claimed_with_its_id_and_attempt(driver: Driver) -> None:
    driver.plan(driver.started(), "make tea")
    lease = driver.claim_one(worker="w2")
    key = step_key("make tea")
    assert (lease.job, lease.run_id, lease.key, lease.fence) == (job_id("run1", key), "run1", key, START_MS + 1)
    assert (lease.app, lease.function, lease.event) == ("shop", "buy", None)
    assert (lease.step_id, lease.step_attempt, lease.deaths) == ("make tea", 0, ())
    assert driver.steps()["make tea"].owner == "w2"


def test_a_continuation_is_claimed_with_whether_its_run_has_planned_steps(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.release(lease)
    assert {found.job: found.planned for found in driver.claim() or ()}["run1"] is True


def test_nothing_is_claimed_while_rq_is_suspended(driver: Driver) -> None:
    driver.start()
    driver.client.set(driver.keys("RQ_SUSPENDED"), 1)
    before = driver.snapshot()
    assert driver.claim() is None
    assert driver.snapshot() == before


def test_a_job_whose_run_does_not_want_it_any_more_is_dropped(driver: Driver) -> None:
    driver.plan(driver.started(), "a")
    stale = ["run1", "gone", job_id("run1", step_key("gone")), job_id("nobody", step_key("a"))]
    driver.client.lpush(driver.keys("RQ_QUEUE", "shop:steps"), *stale)
    assert [lease.step_id for lease in driver.claim() or ()] == ["a"]
    assert driver.queued("shop:steps") == []


def test_stale_jobs_do_not_use_up_what_was_asked_for(driver: Driver) -> None:
    driver.start()
    driver.client.lpush(driver.keys("RQ_QUEUE", "shop"), *[f"gone{n}" for n in range(20)])
    assert driver.claim_one().run_id == "run1"


def test_a_claim_that_is_sent_again_is_given_the_same_jobs(driver: Driver) -> None:
    driver.plan(driver.started("run1"), "a")
    driver.start("run2")
    driver.start("run3")
    first = driver.claim(2, claim=7) or []
    assert [lease.job for lease in first] == [job_id("run1", step_key("a")), "run2"]
    again = driver.claim(2, claim=7) or []
    assert [(lease.job, lease.fence, lease.step_id) for lease in again] == [
        (lease.job, lease.fence, lease.step_id) for lease in first
    ]
    assert [lease.job for lease in driver.claim(2, claim=8) or []] == ["run3"]


def test_a_claim_that_is_sent_again_is_not_given_what_another_has_now(driver: Driver) -> None:
    driver.start("run1")
    driver.start("run2")
    kept, lost = driver.claim(2, claim=7) or []
    driver.release(lost)
    driver.claim(worker="w2", claim=7)
    assert [lease.job for lease in driver.claim(2, claim=7) or []] == [kept.job]


def test_claims_that_found_nothing_are_not_remembered(driver: Driver) -> None:
    assert driver.claim(claim=7) == []
    driver.start("run1")
    assert [lease.job for lease in driver.claim(claim=7) or []] == ["run1"]


# -- jobs of other programs ------------------------------------------------------------


def enqueue_foreign(driver: Driver, *names: str, queue: str = "shop") -> list[str]:
    """Enqueue jobs as another program does with RQ, which compresses a pickle."""
    jobs = [f"{name}-4b5c-4d5e-9f8a-6b5c4d3e2f1a" for name in names]
    for job in jobs:
        driver.client.hset(driver.keys("RQ_JOB", job), mapping={"data": "x\x9ck", "origin": queue, "status": "queued"})
        driver.client.rpush(driver.keys("RQ_QUEUE", queue), job)
    driver.client.sadd(driver.keys("RQ_QUEUES"), driver.keys("RQ_QUEUE", queue))
    return jobs


def claim_all(driver: Driver, limit: int = 100) -> ClaimedJobs:
    lists = queue_lists(["shop"])
    claimed = driver.send(claim_jobs(driver.partition, lists=lists, worker="w1", limit=limit, lease_ms=LEASE_MS))
    assert claimed is not None
    return claimed


def test_the_jobs_of_another_program_stay_on_their_list_in_their_order(driver: Driver) -> None:
    first = enqueue_foreign(driver, "a", "b")
    driver.start("run1")
    last = enqueue_foreign(driver, "c")
    driver.start("run2")
    claimed = claim_all(driver)
    assert [lease.job for lease in claimed.leases] == ["run1", "run2"]
    assert claimed.foreign == {"shop": 3}
    assert driver.queued("shop") == first + last
    for job in first + last:
        assert driver.client.hget(driver.keys("RQ_JOB", job), "status") == "queued"
    assert claim_all(driver) == ClaimedJobs([], {"shop": 3})


def test_they_stay_on_the_list_of_started_runs_too(driver: Driver) -> None:
    jobs = enqueue_foreign(driver, "a", queue="shop:steps")
    assert claim_all(driver) == ClaimedJobs([], {"shop:steps": 1})
    assert driver.queued("shop:steps") == jobs


def test_a_claim_that_is_full_passes_over_no_more_of_them(driver: Driver) -> None:
    driver.start("run1")
    jobs = enqueue_foreign(driver, "a")
    assert claim_all(driver, limit=1).foreign == {}
    assert driver.queued("shop") == jobs


def test_behind_more_of_them_than_one_claim_passes_over_jobs_are_reached_by_the_next(driver: Driver) -> None:
    jobs = enqueue_foreign(driver, *[f"n{number}" for number in range(1_100)])
    driver.start("run1")
    assert claim_all(driver) == ClaimedJobs([], {"shop": 1_000})
    claimed = claim_all(driver)
    assert [lease.job for lease in claimed.leases] == ["run1"]
    assert sorted(driver.queued("shop")) == sorted(jobs)


def test_workers_are_notified_of_a_job_behind_those_of_another_program(driver: Driver) -> None:
    enqueue_foreign(driver, "a", "b")
    heard = driver.listen("READY")
    driver.start("run1")
    assert heard() == ["shop"]
    heard = driver.listen("READY")
    driver.start("run2")
    assert heard() == ["shop"], "the first job of the list is still not stepflow's"


def test_workers_are_not_notified_of_a_job_behind_one_of_stepflow(driver: Driver) -> None:
    driver.start("run1")
    enqueue_foreign(driver, "a")
    heard = driver.listen("READY")
    driver.start("run2")
    assert heard() == []


def test_workers_are_notified_of_a_job_that_comes_back_before_those_of_another_program(driver: Driver) -> None:
    lease = driver.started()
    enqueue_foreign(driver, "a", queue="shop:steps")
    heard = driver.listen("READY")
    driver.release(lease)
    assert heard() == ["shop:steps"]


def test_workers_are_notified_once_of_several_jobs_of_one_script(driver: Driver) -> None:
    lease = driver.started()
    enqueue_foreign(driver, "a", queue="shop:steps")
    heard = driver.listen("READY")
    driver.plan(lease, "a", "b", "c")
    assert heard() == ["shop:steps"]


def test_a_job_that_neither_rq_nor_a_run_knows_is_dropped(driver: Driver) -> None:
    driver.start("run1")
    driver.client.lpush(driver.keys("RQ_QUEUE", "shop"), "unknown")
    assert [lease.job for lease in claim_all(driver).leases] == ["run1"]
    assert driver.queued("shop") == []


# -- jobs whose code a worker does not have --------------------------------------------


OLD, NEW = ["shop/other"], ["shop/other", "shop/buy"]


def claim_with(driver: Driver, names: Sequence[str], *, worker: str = "w1", limit: int = 100) -> ClaimedJobs:
    """Claim as a worker that has the code of these functions."""
    driver.send(register_code(driver.partition, names))
    call = claim_jobs(
        driver.partition,
        lists=queue_lists(["shop"]),
        worker=worker,
        limit=limit,
        lease_ms=LEASE_MS,
        code=digest_of_code(names),
    )
    claimed = driver.store.broker.execute(call)
    driver.check()
    assert claimed is not None
    return claimed


def starts(driver: Driver, run: str, function: str) -> None:
    """Start a run of a function."""
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {}})
    config = FunctionConfig("shop", function, "shop")
    driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


def test_a_job_whose_code_the_worker_does_not_have_is_left_to_one_that_has_it(driver: Driver) -> None:
    driver.start("run1")
    driver.start("run2")
    heard = driver.listen("READY")
    assert claim_with(driver, OLD) == ClaimedJobs([], lacking={"shop/buy": 2})
    assert heard() == ["shop"]
    assert (driver.run("run1").continuation, driver.run("run1").attempt) == ("waitlisted", 0)
    assert claim_with(driver, OLD) == ClaimedJobs([])
    assert [lease.job for lease in claim_with(driver, NEW, worker="w2").leases] == ["run1", "run2"]
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


def test_a_planned_step_is_left_to_a_worker_that_has_the_code_too(driver: Driver) -> None:
    lease = driver.started("run1")
    driver.plan(lease, "a", "b")
    assert claim_with(driver, OLD, worker="w2").lacking == {"shop/buy": 2}
    assert {step.state for step in driver.steps("run1").values()} == {"waitlisted"}
    first, second = claim_with(driver, NEW, worker="w3").leases
    assert {first.step_id, second.step_id} == {"a", "b"}
    assert {first.step_attempt, second.step_attempt} == {0}


def test_a_worker_takes_no_more_of_what_others_left_than_it_can_execute(driver: Driver) -> None:
    for number in range(5):
        driver.start(f"run{number}")
    claim_with(driver, OLD)
    assert len(claim_with(driver, NEW, limit=2).leases) == 2
    assert len(claim_with(driver, NEW, worker="w2").leases) == 3


def test_a_job_that_was_left_to_others_is_claimed_before_jobs_that_came_later(driver: Driver) -> None:
    driver.start("run1")
    driver.start("run2")
    claim_with(driver, OLD)
    driver.start("run3")
    assert [lease.job for lease in claim_with(driver, NEW, limit=1).leases] == ["run1"]
    assert [lease.job for lease in claim_with(driver, NEW, limit=2).leases] == ["run2", "run3"]


def test_of_the_jobs_of_several_functions_that_were_left_the_oldest_are_claimed_first(driver: Driver) -> None:
    for number in range(6):
        starts(driver, f"run{number}", "abc"[number % 3])
        driver.advance(10)
    claim_with(driver, OLD)
    has_all = ["shop/a", "shop/b", "shop/c"]
    assert [lease.job for lease in claim_with(driver, has_all, limit=4).leases] == ["run0", "run1", "run2", "run3"]
    assert driver.queued("shop") == []
    assert [lease.job for lease in claim_with(driver, has_all, limit=4).leases] == ["run4", "run5"]


def test_a_worker_takes_what_others_left_only_from_the_lists_that_it_serves(driver: Driver) -> None:
    driver.start("run1")
    claim_with(driver, OLD)
    driver.send(register_code(driver.partition, NEW))
    call = claim_jobs(
        driver.partition,
        lists=queue_lists(["another"]),
        worker="w2",
        limit=9,
        lease_ms=LEASE_MS,
        code=digest_of_code(NEW),
    )
    assert driver.store.broker.execute(call) == ClaimedJobs([])
    assert driver.run("run1").continuation == "waitlisted"


def test_a_run_that_waits_for_a_worker_with_its_code_can_be_cancelled(driver: Driver) -> None:
    driver.start("run1")
    claim_with(driver, OLD)
    assert driver.cancel("run1") is ScriptStatus.DONE
    assert claim_with(driver, NEW) == ClaimedJobs([])
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


V1, V2, V3 = [code_names(["shop/buy"], version) for version in ("v1", "v2", "v3")]


@pytest.mark.parametrize("kind", ["run", "step"])
def test_a_job_that_a_version_of_the_code_cannot_execute_goes_to_another_at_once(driver: Driver, kind: str) -> None:
    lease = left_job(driver, kind)
    driver.send(register_code(driver.partition, V2))
    heard = driver.listen("READY")
    assert driver.leave(lease, "v1") is ScriptStatus.DONE
    assert heard() == ["shop" if kind == "run" else "shop:steps"]
    assert driver.leave(lease, "v1") is ScriptStatus.STALE_FENCE
    assert claim_with(driver, V1) == ClaimedJobs([])
    (claimed,) = claim_with(driver, V2, worker="w2").leases
    assert (claimed.job, claimed.attempt, claimed.step_attempt) == (lease.job, 0, 0)
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


@pytest.mark.parametrize("kind", ["run", "step"])
def test_a_job_stays_with_the_last_version_that_could_execute_it(driver: Driver, kind: str) -> None:
    lease = left_job(driver, kind)
    assert driver.leave(lease, "v1") is ScriptStatus.ALREADY  # no other version lives
    driver.send(register_code(driver.partition, ["shop/buy"]))  # of a release that knows no versions
    driver.send(register_code(driver.partition, code_names(["shop/other"], "v2")))
    assert driver.leave(lease, "v1") is ScriptStatus.ALREADY
    driver.send(register_code(driver.partition, V2))
    assert driver.leave(lease, "v1") is ScriptStatus.DONE
    (second,) = claim_with(driver, V2, worker="w2").leases
    assert driver.leave(second, "v2") is ScriptStatus.ALREADY  # v1 has left it
    driver.send(register_code(driver.partition, V3))
    assert driver.leave(second, "v2") is ScriptStatus.DONE
    assert claim_with(driver, V1) == claim_with(driver, V2) == ClaimedJobs([])
    assert len(claim_with(driver, V3).leases) == 1


@pytest.mark.parametrize("kind", ["run", "step"])
def test_a_job_that_was_left_to_a_version_that_has_gone_returns_to_the_others(driver: Driver, kind: str) -> None:
    lease = left_job(driver, kind)
    driver.send(register_code(driver.partition, V2))
    driver.leave(lease, "v1")
    driver.advance(60_000)
    driver.send(register_code(driver.partition, V1))
    assert claim_with(driver, V1) == ClaimedJobs([])  # the other version may still live
    driver.advance(60_000)
    driver.send(register_code(driver.partition, V1))
    (again,) = claim_with(driver, V1).leases
    assert again.job == lease.job
    assert driver.leave(again, "v1") is ScriptStatus.ALREADY
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


@pytest.mark.parametrize("kind", ["run", "step"])
def test_a_run_whose_job_waits_for_another_version_can_be_cancelled(driver: Driver, kind: str) -> None:
    lease = left_job(driver, kind)
    driver.send(register_code(driver.partition, V2))
    driver.leave(lease, "v1")
    assert driver.cancel("run1") is ScriptStatus.DONE
    assert claim_with(driver, V2) == ClaimedJobs([])
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


def left_job(driver: Driver, kind: str) -> Lease:
    """A run or a planned step that a worker with the version v1 has claimed."""
    driver.send(register_code(driver.partition, V1))
    lease = driver.started("run1")
    if kind == "run":
        return lease
    driver.plan(lease, "a")
    driver.park(lease)
    return driver.claim_one()


def test_a_worker_whose_set_of_functions_has_expired_claims_all_jobs(driver: Driver) -> None:
    driver.start("run1")
    driver.send(register_code(driver.partition, OLD))
    driver.client.delete(driver.keys("CODE", digest_of_code(OLD)))
    call = claim_jobs(
        driver.partition,
        lists=queue_lists(["shop"]),
        worker="w1",
        limit=9,
        lease_ms=LEASE_MS,
        code=digest_of_code(OLD),
    )
    claimed = driver.store.broker.execute(call)
    assert claimed is not None
    assert [lease.job for lease in claimed.leases] == ["run1"]
