"""Pauses: nothing is given out of what is paused, nothing is lost, and all of it goes on."""

from __future__ import annotations

import random

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.flow_control import ConcurrencyConfig, FlowConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.pauses import PauseKind, pause, read_pauses, resume
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_broker.transitions.schedules import fire_cron
from stepflow_engine.codec import dumps
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.times import epoch_ms
from tests.support.driver import RETENTION_MS, START_MS, Driver

GATE = "shop/buy:event.data.tenant=1"


def paused(driver: Driver, kind: PauseKind, name: str, reason: str = "") -> bool:
    return driver.send(pause(driver.partition, kind, name, reason=reason))


def resumed(driver: Driver, kind: PauseKind, name: str) -> bool:
    """Resume, and let timers fire until nothing is due."""
    answer = driver.send(resume(driver.partition, kind, name))
    while driver.fire()[0]:
        pass
    return answer


def start(driver: Driver, run: str, *, tenant: int = 1, limit: int = 0) -> ScriptStatus:
    flow = FlowConfig(concurrency=(ConcurrencyConfig(limit, "event.data.tenant"),)) if limit else None
    config = FunctionConfig("shop", "buy", "shop", flow=flow, retention_ms=RETENTION_MS)
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {"tenant": tenant}})
    return driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


def claimed(driver: Driver, limit: int = 100) -> list[str]:
    return [lease.job for lease in driver.claim(limit) or ()]


def test_what_is_paused_is_known_with_its_reason_and_its_time(driver: Driver) -> None:
    assert paused(driver, "queue", "shop", "the stock is counted")
    driver.advance(1_000)
    assert not paused(driver, "queue", "shop", "still: the stock")
    (one,) = driver.store.broker.execute(read_pauses(driver.partition)).values()
    assert (one.kind, one.name, epoch_ms(one.since), one.reason) == ("queue", "shop", START_MS, "still: the stock")
    assert resumed(driver, "queue", "shop")
    assert not resumed(driver, "queue", "shop")
    assert not driver.store.broker.execute(read_pauses(driver.partition))


def test_nothing_is_given_out_from_a_paused_queue(driver: Driver) -> None:
    paused(driver, "queue", "shop")
    start(driver, "run1")
    assert claimed(driver) == []
    assert driver.queued("shop") == ["run1"]
    heard = driver.listen("READY")
    resumed(driver, "queue", "shop")
    assert "shop" in heard()
    assert claimed(driver) == ["run1"]


def test_the_jobs_of_a_paused_function_are_put_aside_and_go_on_in_their_order(driver: Driver) -> None:
    for n in range(3):
        start(driver, f"run{n}")
        driver.advance(1)
    driver.start("other")
    paused(driver, "function", "shop/buy")
    driver.claim()
    assert [driver.run(f"run{n}").continuation for n in range(3)] == ["waitlisted"] * 3
    start(driver, "run3")
    assert claimed(driver) == []
    resumed(driver, "function", "shop/buy")
    assert claimed(driver) == ["run0", "run1", "run2", "other", "run3"]


def test_a_planned_step_of_a_paused_function_is_put_aside(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a", "b")
    paused(driver, "function", "shop/buy")
    driver.park(lease)
    assert claimed(driver) == []
    assert {step.state for step in driver.steps().values()} == {"waitlisted"}
    resumed(driver, "function", "shop/buy")
    assert len(claimed(driver)) == 2


def test_many_jobs_go_on_bit_by_bit(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, *[f"s{n}" for n in range(250)])
    paused(driver, "function", "shop/buy")
    assert claimed(driver, 1_000) == []
    driver.send(resume(driver.partition, "function", "shop/buy"))
    assert driver.fire(limit=1)[0] == 1
    assert len(claimed(driver, 1_000)) == 100
    while driver.fire()[0]:
        pass
    assert len(claimed(driver, 1_000)) == 150


def test_a_function_that_is_paused_again_before_it_went_on_stays_paused(driver: Driver) -> None:
    start(driver, "run1")
    paused(driver, "function", "shop/buy")
    driver.claim()
    driver.send(resume(driver.partition, "function", "shop/buy"))
    paused(driver, "function", "shop/buy")
    driver.fire()
    assert driver.run().continuation == "waitlisted"
    resumed(driver, "function", "shop/buy")
    assert claimed(driver) == ["run1"]


@pytest.mark.parametrize("way", ["cancel", "steps"])
def test_a_run_that_was_put_aside_can_be_cancelled(driver: Driver, way: str) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    paused(driver, "function", "shop/buy")
    driver.claim()
    if way == "cancel":
        driver.yield_run(lease)
        driver.claim()
    assert driver.cancel() is ScriptStatus.DONE
    assert not [*driver.client.scan_iter("stepflow:wait-list:*")]
    resumed(driver, "function", "shop/buy")
    assert claimed(driver) == []


def test_no_job_of_a_paused_key_is_given_out_whether_it_has_a_slot_or_not(driver: Driver) -> None:
    start(driver, "run1", limit=1)  # has a slot, and stands on the queue
    driver.advance(1)
    start(driver, "run2", limit=1)
    paused(driver, "key", GATE)
    start(driver, "run3", limit=1)
    start(driver, "else", tenant=2, limit=1)
    assert claimed(driver) == ["else"]
    driver.advance(600_000)
    driver.reclaim()
    assert "run1" not in claimed(driver)
    resumed(driver, "key", GATE)
    done = []
    while taken := [lease for lease in driver.claim() or () if lease.run_id != "else"]:
        (one,) = taken
        done.append(one.run_id)
        driver.finish(one)
    assert done == ["run1", "run2", "run3"]


def test_who_invokes_a_paused_function_is_told(driver: Driver) -> None:
    paused(driver, "function", "shop/sell")
    lease = driver.started()
    code, resolved = driver.invoke(lease)
    assert code is ScriptStatus.RESOLVED
    assert resolved is not None
    assert b'"reason":"paused"' in resolved.memo
    assert driver.run("child1").status is RunStatus.SKIPPED


def test_the_times_of_a_paused_function_wait_for_its_policy(driver: Driver) -> None:
    config = FunctionConfig("shop", "buy", "shop")
    event = dumps({"name": "e", "id": "run1", "ts": 1, "data": {}})
    name = "shop/buy\nUTC\n* * * * *"
    paused(driver, "function", "shop/buy")
    for expected in (0, 1):
        starts = [("run1", config, event)]
        call = fire_cron(driver.partition, name, last_ms=0, until_ms=5, starts=starts)
        assert driver.send(call) == expected
        resumed(driver, "function", "shop/buy")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_paused_when_everybody_gets_through(driver: Driver, seed: int) -> None:
    """Runs of three tenants, pauses of all kinds at random, workers that die: nothing is given out that is paused."""
    chance = random.Random(seed)
    held: dict[str, Lease] = {}
    subjects: list[tuple[PauseKind, str]] = [("queue", "shop"), ("function", "shop/buy"), ("key", GATE)]
    for turn in range(120):
        match chance.choice(["start", "claim", "finish", "pause", "resume", "die", "time"]):
            case "start":
                start(driver, f"run{turn}", tenant=chance.randrange(3), limit=2)
            case "claim":
                for lease in driver.claim(chance.randrange(1, 4)) or ():
                    assert not _is_held_up(driver, lease), f"seed {seed}, turn {turn}"
                    held[lease.job] = lease
            case "finish" if held:
                driver.finish(held.pop(chance.choice(sorted(held))))
            case "pause":
                paused(driver, *chance.choice(subjects))
            case "resume":
                driver.send(resume(driver.partition, *chance.choice(subjects)))
            case "die" if held:
                held.pop(chance.choice(sorted(held)))
            case "time":
                driver.advance(chance.choice([1, 1_000, 61_000]))
                driver.reclaim()
                driver.fire()
    driver.advance(61_000)
    driver.reclaim()
    for kind, name in subjects:
        resumed(driver, kind, name)
    for _ in range(200):
        driver.fire()
        for lease in driver.claim() or ():
            driver.finish(lease)
        if not driver.client.zcard(driver.keys("LIVE")):
            break
    assert not driver.client.zcard(driver.keys("LIVE")), f"seed {seed}: some runs never got through"
    assert not [
        *driver.client.scan_iter("stepflow:concurrency-slots:*"),
        *driver.client.scan_iter("stepflow:wait-list:*"),
    ]


def _is_held_up(driver: Driver, lease: Lease) -> bool:
    found = driver.store.broker.execute(read_pauses(driver.partition))
    limits = driver.client.hget(driver.keys("RUN", lease.run_id), "concurrency") or ""
    return any(one.kind != "key" or one.name in limits for one in found.values())
