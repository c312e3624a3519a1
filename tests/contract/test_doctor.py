"""The doctor: each defect is found, it alone, and mended so that all runs come to their ends."""

from __future__ import annotations

import pytest

from stepflow_broker.doctor.examine import examine
from stepflow_broker.doctor.findings import RULES, Finding, Severity
from stepflow_broker.protocol.keys import GROUP
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.timers import fire_timers
from stepflow_broker.transitions.runs.batches import end_batch
from stepflow_engine.ids import step_key
from tests.support.defects import DEFECTS, Defect
from tests.support.driver import Driver
from tests.support.invariants import check_invariants

BY_NAME = pytest.mark.parametrize("found", DEFECTS.values(), ids=DEFECTS)
UNWORKABLE = {
    *("a_run_without_a_queue", "a_run_without_a_status", "a_run_that_need_not_start"),
    *(
        "rq_that_is_suspended",
        "a_queue_that_nobody_serves",
        "a_former_queue_that_has_runs_and_no_worker",
        "a_count_of_waits_that_is_too_high",
    ),
}
_LATE_MS = 3_700_000


@pytest.fixture(autouse=True)
def at_work(driver: Driver) -> None:
    """A worker that serves the queue, and the streams with their groups."""
    keys, client = driver.keys, driver.client
    worker = {"last_heartbeat": "2025-01-01T00:00:00.000000Z", "queues": "shop:steps,shop", "pid": 1}
    client.sadd(keys("RQ_WORKERS"), keys("RQ_WORKER", "w1"))
    client.hset(keys("RQ_WORKER", "w1"), mapping=worker)
    client.hset(keys("FUNCTIONS"), "shop/buy", FunctionConfig("shop", "buy", "shop").to_json())
    for stream in ("EVENTS", "FINISHED"):
        client.xgroup_create(keys(stream), GROUP, "0", mkstream=True)
        client.xgroup_createconsumer(keys(stream), GROUP, "w1")


def look(driver: Driver, *, repair: bool = False) -> list[Finding]:
    return examine(driver.store.broker, driver.partition, repair=repair)


def codes(findings: list[Finding]) -> set[str]:
    return {f"{finding.code} {finding.where}".strip() for finding in findings}


def complete(driver: Driver) -> None:
    """Work until no run lives; every wait ends by its time."""
    for _ in range(100):
        driver.send(fire_timers(driver.partition))
        driver.reclaim()
        for lease in driver.claim() or ():
            if lease.key:
                driver.commit(lease)
            elif driver.steps(lease.run_id):
                driver.park(lease, len(driver.memos(lease.run_id)))
            else:
                driver.finish(lease)
                if driver.client.exists(driver.keys("BATCHED", lease.run_id)):
                    driver.send(end_batch(driver.partition, lease.run_id))
        if not driver.client.zcard(driver.keys("LIVE")):
            return
        driver.advance(_LATE_MS)
    raise AssertionError(f"some runs never ended: {driver.client.zrange(driver.keys('LIVE'), 0, -1)}")


@BY_NAME
def test_a_defect_is_found_and_nothing_else(driver: Driver, found: Defect) -> None:
    found.plant(driver)
    before = driver.snapshot()
    findings = look(driver)
    assert codes(findings) == found.codes, findings
    assert not any(finding.repaired for finding in findings)
    assert driver.snapshot() == before


@BY_NAME
def test_a_repair_mends_it_and_may_be_repeated(driver: Driver, found: Defect) -> None:
    found.plant(driver)
    assert found.codes & codes(look(driver, repair=True))
    before = driver.snapshot()
    left = look(driver, repair=True)
    assert codes(left) == found.leaves, left
    assert not any(finding.repaired for finding in left)
    assert driver.snapshot() == before


@pytest.mark.parametrize("name", sorted(set(DEFECTS) - UNWORKABLE))
def test_after_a_repair_every_run_comes_to_its_end(driver: Driver, name: str) -> None:
    found = DEFECTS[name]
    found.plant(driver)
    look(driver, repair=True)
    check_invariants(driver.client)
    complete(driver)
    assert codes(look(driver)) <= found.leaves


def test_every_code_has_a_defect_at_each_of_its_places() -> None:
    wanted = {f"{code} {where}".strip() for code, rule in RULES.items() for where in rule.places}
    assert set.union(*(set(defect.codes) for defect in DEFECTS.values())) == wanted


def test_what_a_repair_cannot_mend_says_no_repair_or_keeps_standing(driver: Driver) -> None:
    DEFECTS["a_run_without_a_queue"].plant(driver)
    (finding,) = look(driver, repair=True)
    assert finding.is_open
    assert finding.repair == ""


def test_a_server_with_work_of_every_kind_is_well(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "leased", "queued")
    driver.claim(1, worker="w2")
    driver.fail(lease, "delayed")
    driver.retry(driver.started("run2"))
    driver.finish(driver.started("run3"))
    parent = driver.started("run4")
    driver.invoke(parent)
    driver.park(parent)
    driver.start("run5")
    assert look(driver) == []


def test_an_empty_server_is_well(driver: Driver) -> None:
    assert look(driver) == []


def test_jobs_of_other_programs_on_rq_are_left_alone(driver: Driver) -> None:
    job, client, keys = "0e4ff1a2-1f5c-4c9e-8a77-6a6f6c2d9f10", driver.client, driver.keys
    client.sadd(keys("RQ_QUEUES"), keys("RQ_QUEUE", "mail"))
    client.rpush(keys("RQ_QUEUE", "mail"), job, job)
    client.hset(keys("RQ_JOB", job), mapping={"data": "zipped", "status": "queued"})
    client.zadd(keys("RQ_WIP", "mail"), {f"{job}:5d1b": driver.now_ms})
    client.zadd(keys("RQ_SCHEDULED", "mail"), {job: driver.now_ms})
    client.zadd(keys("RQ_FAILED", "mail"), {job: driver.now_ms})
    client.set("cache:page", "1")
    before = driver.snapshot()
    assert look(driver, repair=True) == []
    assert driver.snapshot() == before


def test_what_a_newer_stepflow_has_put_there_is_left_alone(driver: Driver) -> None:
    driver.start()
    client, keys = driver.client, driver.keys
    client.hset(keys("RUN", "run1"), "continuation", "pondering")
    client.delete(keys("RQ_QUEUE", "shop"))
    client.zadd(keys("TIMEOUTS"), {"ponder:run1": driver.now_ms})
    assert look(driver, repair=True) == []


@pytest.mark.slow
def test_many_runs_and_jobs_are_looked_at_in_pages(driver: Driver) -> None:
    driver.store.broker.execute_all([driver.starting(f"run{number}") for number in range(1_200)])
    driver.now_ms = 0
    assert look(driver) == []
    driver.client.lrem(driver.keys("RQ_QUEUE", "shop"), 0, "run777")
    assert codes(look(driver)) == {"missing rq_queue"}


@pytest.mark.slow
def test_a_run_with_very_many_steps_is_looked_at(driver: Driver) -> None:
    leases = [driver.started(run) for run in ("run1", "run2")]
    for lease in leases:
        driver.plan(lease, *[f"step-{number}" for number in range(1_700)])
        driver.park(lease)
    driver.client.hdel(driver.keys("STEPS", "run2"), f"{step_key('step-5')}:state")
    assert "step_incomplete" in codes(look(driver))


def test_of_very_many_findings_of_a_code_a_hundred_are_named_and_the_rest_is_counted(driver: Driver) -> None:
    driver.client.zadd(driver.keys("LIVE"), {f"nobody{number}": 1 for number in range(250)})
    findings = look(driver)
    assert len(findings) == 101
    assert (findings[-1].text, findings[-1].count) == ("and 150 more such findings", 150)
    look(driver, repair=True)
    assert look(driver) == []


def test_a_function_whose_runs_are_not_listed_is_one_finding(driver: Driver) -> None:
    for run in ("run1", "run2"):
        driver.started(run)
    driver.client.delete(driver.keys("RUN_FUNCTIONS"))
    [finding] = look(driver)
    assert (finding.where, finding.repair, finding.count) == ("run_functions", "adds it", 1)
    look(driver, repair=True)
    assert look(driver) == []


def test_without_a_worker_what_is_overdue_is_a_warning(driver: Driver) -> None:
    driver.client.delete(driver.keys("RQ_WORKERS"))
    driver.started()
    driver.advance(_LATE_MS)
    found = {finding.code: finding.severity for finding in look(driver)}
    assert found == {"lease_overdue": Severity.WARNING, "queue_unserved": Severity.WARNING}


def test_a_memo_order_is_not_shortened_while_a_worker_has_the_run(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "first")
    driver.client.rpush(driver.keys("MEMO_ORDER", "run1"), step_key("first"))
    (finding,) = look(driver, repair=True)
    assert (finding.code, finding.repaired) == ("memo_order_wrong", False)
    assert driver.client.llen(driver.keys("MEMO_ORDER", "run1")) == 2
