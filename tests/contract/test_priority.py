"""Priorities: which of the runs that wait on a queue starts first."""

from __future__ import annotations

import random

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.flow_control import FlowConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.pauses import pause, resume
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_engine.codec import dumps
from tests.support.driver import RETENTION_MS, Driver

RANKED = FunctionConfig(
    "shop", "ranked", "shop", flow=FlowConfig(priority="event.data.seconds"), retention_ms=RETENTION_MS
)


def start(driver: Driver, run: str, seconds: float) -> None:
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {"seconds": seconds}})
    call = start_run(driver.partition, RANKED, run_id=run, event=event, dedupe=False)
    assert driver.send(call) is ScriptStatus.DONE
    driver.advance(1)


def claimed(driver: Driver, limit: int = 100) -> list[str]:
    return [lease.job for lease in driver.claim(limit) or ()]


def test_a_run_starts_as_if_it_had_come_so_much_earlier_or_later(driver: Driver) -> None:
    start(driver, "usual", 0)
    start(driver, "later", -10)
    start(driver, "first", 10)
    start(driver, "second", 5)
    assert claimed(driver) == ["first", "second", "usual", "later"]


def test_runs_with_and_without_priority_share_a_queue_older_ones_first(driver: Driver) -> None:
    driver.start("plain1")
    driver.advance(1)
    start(driver, "ranked1", 0)
    driver.start("plain2")
    driver.advance(1)
    start(driver, "urgent", 600)
    assert claimed(driver) == ["urgent", "plain1", "ranked1", "plain2"]


def test_whoever_has_started_goes_on_before_all_that_are_new(driver: Driver) -> None:
    start(driver, "run1", -600)
    lease = driver.claim_one()
    start(driver, "urgent", 600)
    driver.commit(lease, "a", keep=False)
    assert claimed(driver) == ["run1", "urgent"]


def test_the_first_in_line_wakes_an_idle_worker(driver: Driver) -> None:
    heard = driver.listen("READY")
    start(driver, "run1", 1)
    start(driver, "run2", 1)
    assert heard() == ["shop"]


def test_a_run_in_line_can_be_cancelled_and_held_up(driver: Driver) -> None:
    start(driver, "run1", 1)
    start(driver, "run2", 2)
    driver.cancel("run1")
    driver.send(pause(driver.partition, "function", "shop/ranked", reason=""))
    assert claimed(driver) == []
    driver.send(resume(driver.partition, "function", "shop/ranked"))
    driver.fire()
    assert claimed(driver) == ["run2"]


@pytest.mark.parametrize("seed", range(3))
def test_claims_are_in_the_order_of_times_less_priorities(driver: Driver, seed: int) -> None:
    chance = random.Random(seed)
    place: dict[str, float] = {}
    order: list[str] = []
    for n in range(60):
        if chance.random() < 0.3:
            place[f"run{n}"] = driver.now_ms
            driver.start(f"run{n}")
            driver.advance(1)
        else:
            seconds = chance.randrange(-50, 50) / 1000
            place[f"run{n}"] = driver.now_ms - seconds * 1000
            start(driver, f"run{n}", seconds)
        if chance.random() < 0.2:
            taken = claimed(driver, chance.randrange(1, 4))
            waiting = sorted((place[run], run) for run in place if run not in order)
            assert [place[run] for run in taken] == [at for at, _ in waiting[: len(taken)]]
            order += taken
    while taken := claimed(driver, 7):
        order += taken
    assert sorted(order) == sorted(place)
