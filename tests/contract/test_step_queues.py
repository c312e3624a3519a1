"""Steps with a queue of their own: their jobs stay on it, whatever happens to them."""

from __future__ import annotations

import pytest

from stepflow_broker.doctor.examine import examine
from stepflow_broker.doctor.findings import Severity
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.code import code_names, digest_of_code, register_code
from stepflow_broker.transitions.jobs.job_claims import Lease, claim_jobs, queue_lists
from stepflow_broker.transitions.pauses import pause, resume
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.ids import job_id, step_key
from tests.support.driver import LEASE_MS, RETENTION_MS, Driver


def planned(driver: Driver) -> Lease:
    """The lease of a run that has planned step a on its own queue, and b on another."""
    lease = driver.started()
    assert driver.plan(lease, "a") is ScriptStatus.DONE
    assert driver.plan(lease, "b", queue="gpu") is ScriptStatus.DONE
    return lease


def claimed(driver: Driver, *queues: str, worker: str = "w2") -> list[Lease]:
    return driver.claim(queues=queues, worker=worker) or []


def ids(leases: list[Lease]) -> list[str]:
    return [lease.step_id for lease in leases]


def errors(driver: Driver, *, repair: bool = False) -> set[str]:
    found = examine(driver.store.broker, driver.partition, repair=repair)
    return {f"{one.code} {one.where}" for one in found if one.severity is Severity.ERROR and one.where}


def test_a_step_is_claimed_from_its_queue_and_the_run_continues_on_its_own(driver: Driver) -> None:
    run = planned(driver)
    assert ids(claimed(driver, "shop")) == ["a"]
    [lease] = claimed(driver, "gpu")
    assert lease.step_id == "b"
    assert errors(driver) == set()
    assert driver.park(run, 0) is ScriptStatus.DONE
    assert driver.commit(lease)[0] is ScriptStatus.DONE
    assert claimed(driver, "gpu") == []
    [continuation] = claimed(driver, "shop", worker="w3")
    assert (continuation.key, continuation.applied) == ("", 1)
    assert set(driver.client.hkeys(driver.partition.run_key("STEPS", "run1"))) == {
        *(step_key("a"), *(f"{step_key('a')}:{field}" for field in ("state", "lease", "owner", "leased_at")))
    }


def test_a_step_that_is_planned_twice_has_one_job(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "b", queue="gpu")
    before = driver.snapshot()
    assert driver.plan(lease, "b", queue="gpu") is ScriptStatus.DONE
    assert driver.snapshot() == before


def test_a_step_comes_back_to_its_queue_after_a_failure_a_death_and_a_release(driver: Driver) -> None:
    planned(driver)
    [lease] = claimed(driver, "gpu")
    assert driver.extend(lease) == []
    driver.fail(lease, "b")
    assert errors(driver) == set()
    driver.advance(1_001)
    driver.fire()
    [lease] = claimed(driver, "gpu")
    assert lease.step_attempt == 1
    assert driver.release(lease) == 1
    [lease] = claimed(driver, "gpu")
    driver.advance(LEASE_MS + 1)
    driver.reclaim()
    assert lease.job not in [one.job for one in claimed(driver, "shop")]
    [again] = claimed(driver, "gpu")
    assert (again.step_id, len(again.deaths)) == ("b", 1)


@pytest.mark.parametrize("state", ["queued", "leased", "delayed"])
def test_the_end_of_a_run_leaves_nothing_of_its_steps_on_other_queues(driver: Driver, state: str) -> None:
    planned(driver)
    if state != "queued":
        [lease] = claimed(driver, "gpu")
        if state == "delayed":
            driver.fail(lease, "b")
    assert driver.cancel() is ScriptStatus.DONE
    assert claimed(driver, "gpu", "shop") == []
    assert not driver.client.exists(driver.keys("RQ_WIP", "gpu:steps"), driver.keys("RQ_SCHEDULED", "gpu:steps"))
    assert errors(driver) == set()


def test_the_job_of_a_step_that_the_code_cancels_is_gone(driver: Driver) -> None:
    lease, key = planned(driver), step_key("b")
    call = cancel_steps(driver.partition, run_id="run1", fence=lease.fence, keys=[key], retention_ms=RETENTION_MS)
    assert driver.send(call) is ScriptStatus.DONE
    assert claimed(driver, "gpu") == []
    assert not [name for name in driver.client.hkeys(driver.partition.run_key("STEPS", "run1")) if name.startswith(key)]


def test_a_paused_queue_keeps_its_steps_and_no_others(driver: Driver) -> None:
    planned(driver)
    driver.send(pause(driver.partition, "queue", "gpu", reason=""))
    assert ids(claimed(driver, "gpu", "shop")) == ["a"]
    driver.send(resume(driver.partition, "queue", "gpu"))
    assert ids(claimed(driver, "gpu")) == ["b"]


def test_a_worker_of_the_queue_without_the_code_leaves_the_step_to_one_that_has_it(driver: Driver) -> None:
    planned(driver)
    digests = []
    for name in ("shop/other", "shop/buy"):
        names = code_names([name], "")
        driver.send(register_code(driver.partition, names))
        digests.append(digest_of_code(names))
    without, having = digests

    def claim(code: str, queue: str) -> list[str]:
        lists = queue_lists([queue])
        call = claim_jobs(driver.partition, lists=lists, worker="w9", limit=9, lease_ms=LEASE_MS, claim=0, code=code)
        answer = driver.store.broker.execute(call)
        driver.check()
        return ids(answer.leases) if answer else []

    assert claim(without, "gpu") == []
    assert errors(driver) == set()
    assert claim(having, "shop") == ["a"]
    assert claim(having, "gpu") == ["b"]


def test_the_doctor_restores_a_lost_job_to_the_queue_of_its_step(driver: Driver) -> None:
    planned(driver)
    driver.client.delete(driver.keys("RQ_QUEUE", "gpu:steps"))
    assert len(errors(driver, repair=True)) == 1
    assert errors(driver) == set()
    assert [lease.job for lease in claimed(driver, "gpu")] == [job_id("run1", step_key("b"))]
