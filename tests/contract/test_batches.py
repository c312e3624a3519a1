"""Batches: runs are collected, executed as one, and all of them end."""

from __future__ import annotations

import random

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.flow_control import BatchConfig, ConcurrencyConfig, FlowConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes.outbox import EndedBatch, read_finished
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.batches import end_batch, load_batch, read_members
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_engine.codec import dumps, loads
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, Driver
from tests.support.plain import plain_at

SIZE, TIMEOUT_MS = 3, 5_000


@pytest.fixture(autouse=True)
def group(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "FINISHED"))


def start(driver: Driver, run: str, *, tenant: int = 1, limit: int = 0, padding: int = 0) -> ScriptStatus:
    gates = (ConcurrencyConfig(limit),) if limit else ()
    flow = FlowConfig(concurrency=gates, batch=BatchConfig(SIZE, TIMEOUT_MS, "event.data.tenant"))
    config = FunctionConfig("shop", "buy", "shop", flow=flow, retention_ms=RETENTION_MS)
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {"tenant": tenant, "padding": "x" * padding}})
    return driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


def events(driver: Driver, batch: str) -> list[str]:
    """The ids of a batch's events."""
    return [loads(text)["id"] for text in driver.store.broker.execute(load_batch(driver.partition, batch))]


def ended(driver: Driver, lease: Lease, status: RunStatus = RunStatus.COMPLETED, *, limit: int = 100) -> int:
    assert driver.finish(lease, status) is ScriptStatus.DONE
    return driver.send(end_batch(driver.partition, lease.run_id, limit=limit))


def test_a_full_batch_starts_at_once_and_has_all_events_in_their_order(driver: Driver) -> None:
    for run in ("run1", "run2"):
        start(driver, run)
    assert driver.claim() == []
    start(driver, "run3")
    (lease,) = driver.claim() or ()
    assert events(driver, lease.run_id) == ["run1", "run2", "run3"]
    start(driver, "run4")
    assert driver.claim() == []
    assert not ended(driver, lease)
    assert [driver.run(f"run{n}").output for n in (1, 2, 3)] == ["done"] * 3
    assert driver.run("run4").status is RunStatus.WAITING


def test_after_its_time_a_batch_starts_with_those_that_have_come(driver: Driver) -> None:
    start(driver, "run1")
    driver.advance(TIMEOUT_MS - 1)
    start(driver, "run2")
    driver.fire()
    assert driver.claim() == []
    driver.advance(1)
    driver.fire()
    start(driver, "run3")
    (lease,) = driver.claim() or ()
    assert events(driver, lease.run_id) == ["run1", "run2"]


def test_each_key_has_batches_of_its_own(driver: Driver) -> None:
    for n in range(4):
        start(driver, f"run{n}", tenant=n % 2)
    assert driver.claim() == []
    start(driver, "run4", tenant=0)
    (lease,) = driver.claim() or ()
    assert events(driver, lease.run_id) == ["run0", "run2", "run4"]


def test_events_that_are_too_large_together_are_in_two_batches(driver: Driver) -> None:
    start(driver, "run1", padding=6_000_000)
    start(driver, "run2", padding=6_000_000)
    (lease,) = driver.claim() or ()
    assert events(driver, lease.run_id) == ["run1"]


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED])
def test_the_end_of_a_batch_is_that_of_its_runs_whoever_sees_to_it(driver: Driver, status: RunStatus) -> None:
    for n in range(SIZE):
        start(driver, f"run{n}")
    (lease,) = driver.claim() or ()
    driver.finish(lease, status)  # and its worker dies
    (found,) = driver.store.broker.execute(read_finished(driver.partition, "w2"))
    assert found == EndedBatch(lease.run_id)
    members = [f"run{n}" for n in range(SIZE)]
    assert run_operation(driver.store.broker, read_members(driver.partition, lease.run_id)) == members
    assert driver.send(end_batch(driver.partition, lease.run_id, limit=2)) in (0, 1)
    assert run_operation(driver.store.broker, read_members(driver.partition, lease.run_id)) == members
    while driver.send(end_batch(driver.partition, lease.run_id, limit=2)):
        pass
    assert {driver.run(f"run{n}").status for n in range(SIZE)} == {status}
    assert not driver.client.exists(driver.keys("BATCHED", lease.run_id))
    assert run_operation(driver.store.broker, read_members(driver.partition, lease.run_id)) == members
    assert driver.client.pttl(driver.keys("RUN", lease.run_id)) > 0


def test_a_batch_that_lives_ends_nobody(driver: Driver) -> None:
    for n in range(SIZE):
        start(driver, f"run{n}")
    (lease,) = driver.claim() or ()
    assert driver.send(end_batch(driver.partition, lease.run_id)) == 0
    assert driver.run("run0").status is RunStatus.WAITING


def test_a_run_that_is_cancelled_in_time_is_not_in_the_batch(driver: Driver) -> None:
    for run in ("run1", "run2"):
        start(driver, run)
    driver.cancel("run1")
    driver.advance(TIMEOUT_MS)
    driver.fire()
    (lease,) = driver.claim() or ()
    assert events(driver, lease.run_id) == ["run2"]
    driver.cancel("run2")  # too late: the batch has its event
    assert events(driver, lease.run_id) == ["run2"]
    assert not ended(driver, lease)
    assert driver.run("run2").status is RunStatus.CANCELLED


def test_a_batch_in_which_nobody_is_left_is_cancelled(driver: Driver) -> None:
    start(driver, "run1")
    driver.cancel("run1")
    assert driver.run("run1b").status is RunStatus.CANCELLED
    assert driver.send(end_batch(driver.partition, "run1b")) == 0
    start(driver, "run2")
    assert driver.run("run2").continuation == "batched"


def test_who_cancels_a_batch_cancels_its_runs(driver: Driver) -> None:
    start(driver, "run1")
    driver.cancel("run1b")
    driver.send(end_batch(driver.partition, "run1b"))
    assert driver.run("run1").status is RunStatus.CANCELLED


def test_batches_stand_in_line_as_one(driver: Driver) -> None:
    for n in range(2 * SIZE):
        start(driver, f"run{n}", limit=1)
    (lease,) = driver.claim() or ()
    assert driver.claim() == []
    ended(driver, lease)
    (other,) = driver.claim() or ()
    assert events(driver, other.run_id) == ["run3", "run4", "run5"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_run_is_in_one_batch_that_is_not_too_large_and_ends_with_it(driver: Driver, seed: int) -> None:
    chance = random.Random(seed)
    held: list[Lease] = []
    runs: set[str] = set()
    in_batches: list[str] = []

    def finish(lease: Lease) -> None:
        found = events(driver, lease.run_id)
        assert len(found) <= SIZE
        in_batches.extend(found)
        ended(driver, lease, chance.choice([RunStatus.COMPLETED, RunStatus.FAILED]))

    for turn in range(120):
        match chance.choice(["start", "start", "claim", "finish", "die", "time", "cancel"]):
            case "start":
                runs.add(f"run{turn}")
                start(driver, f"run{turn}", tenant=chance.randrange(2))
            case "claim":
                held += driver.claim(2) or ()
            case "finish" if held:
                finish(held.pop())
            case "die" if held:
                held.pop(0)
            case "cancel" if runs:
                driver.cancel(chance.choice(sorted(runs)))
            case "time":
                driver.advance(chance.choice([100, 3_000, 20_000]))
                driver.reclaim()
                held = [lease for lease in held if _is_good(driver, lease)]
                driver.fire()
    while driver.client.zcard(driver.keys("LIVE")):
        driver.advance(20_000)
        driver.reclaim()
        driver.fire()
        for lease in driver.claim() or ():
            finish(lease)
        for batch in list(driver.client.zrange(driver.keys("LIVE"), 0, -1)):
            driver.send(
                end_batch(plain_at(driver.keys, 1), driver.client.hget(driver.keys("RUN", batch), "batch") or "")
            )
    assert len(in_batches) == len(set(in_batches)), f"seed {seed}: a run was in two batches"
    done = {run for run in runs if driver.run(run).status is not RunStatus.CANCELLED}
    assert done <= set(in_batches), f"seed {seed}: a run ended that was in no batch"


def _is_good(driver: Driver, lease: Lease) -> bool:
    score = driver.client.zscore(driver.keys("LEASES"), lease.job)
    return score is not None and score > driver.now_ms


def test_failed_members_are_whole_jobs_of_rq(driver: Driver) -> None:
    for run in ("run1", "run2", "run3"):
        start(driver, run)
    (lease,) = driver.claim() or ()
    ended(driver, lease, RunStatus.FAILED)
    fields = {"created_at", "description", "ended_at", "exc_info", "origin"}
    for run in ("run1", "run2", "run3"):
        job = driver.client.hgetall(driver.keys("RQ_JOB", run))
        assert fields <= job.keys()
        assert job["data"] == f'["stepflow_workers.rq_job.perform", null, ["{run}"], {{}}]'
        assert (job["origin"], job["status"], job["description"]) == ("shop", "failed", "shop/buy")
        assert driver.client.pttl(driver.keys("RQ_JOB", run)) > 0
