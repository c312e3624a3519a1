"""Bulk: live runs that fit a selection are found page by page, and cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.runs import bulk_cancel as bulk
from stepflow_broker.transitions.runs.bulk_cancel import CancelRequest, RunFilter, cancel_runs, find_live
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.state_machine import RunStatus
from tests.contract.test_invokes import waiting
from tests.support.driver import RETENTION_MS, START_MS, Driver
from tests.support.plain import plain_at

HOW = CancelRequest(dumps(Failure("RunCancelledError", "sold out").to_json()), RETENTION_MS)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_PAGE", 4)
    monkeypatch.setattr(bulk, "_CHUNK", 2)


def start(driver: Driver, run: str, name: str = "shop/buy", *, after_ms: int = 0, **data: object) -> None:
    app, _, function = name.partition("/")
    event = dumps({"name": "e", "id": run, "ts": 1, "data": data})
    config = FunctionConfig(app, function, "shop")
    made_at = driver.now_ms + after_ms
    driver.send(start_run(plain_at(driver.keys, made_at), config, run_id=run, event=event, dedupe=False))


def found(driver: Driver, **selection: Any) -> list[str]:
    return run_operation(driver.store.broker, find_live(driver.partition, RunFilter(**selection)))


def cancelled(driver: Driver, run_ids: Sequence[str]) -> list[str]:
    return run_operation(driver.store.broker, cancel_runs(driver.partition, run_ids, HOW))


# -- finding -----------------------------------------------------------------------


def test_nothing_is_found_where_there_is_nothing(driver: Driver) -> None:
    assert found(driver) == []


@pytest.mark.parametrize("together", [1, 3, 4, 5, 13])
def test_live_runs_are_found_oldest_first_however_many_are_made_in_one_millisecond(
    driver: Driver, together: int
) -> None:
    runs = [f"run{number:02}" for number in range(13)]
    for number, run in enumerate(runs):
        start(driver, run, after_ms=number // together)
    driver.now_ms += 1_000
    assert found(driver) == runs
    assert found(driver, limit=5) == runs[:5]


def test_runs_that_have_ended_are_not_found(driver: Driver) -> None:
    for run in ("run1", "run2", "run3"):
        start(driver, run)
    driver.finish(driver.claim_one())
    driver.cancel("run2")
    assert found(driver) == ["run3"]


def test_runs_are_found_by_app_and_function(driver: Driver) -> None:
    names = ["shop/buy", "shop/sell", "mail/buy", "mail/send"]
    for name in names:
        start(driver, name.replace("/", "-"), name)
    assert found(driver, function="buy") == ["mail-buy", "shop-buy"]
    assert found(driver, app="shop") == ["shop-buy", "shop-sell"]
    assert found(driver, app="mail", function="buy") == ["mail-buy"]
    assert found(driver, app="mail", function="sell") == []


def test_runs_are_found_by_status(driver: Driver) -> None:
    for number, run in enumerate(("parked", "running", "queued")):
        start(driver, run, after_ms=number)
    driver.now_ms += 1_000
    driver.advance(3)
    first, _ = driver.claim(2) or []
    driver.plan(first, "a")
    driver.park(first)
    everyone = {RunStatus.WAITING: "parked", RunStatus.RUNNING: "running", RunStatus.QUEUED: "queued"}
    for status, run in everyone.items():
        assert found(driver, statuses=frozenset({status})) == [run]
    assert found(driver, statuses=frozenset({RunStatus.WAITING, RunStatus.QUEUED})) == ["parked", "queued"]
    assert found(driver, statuses=frozenset({RunStatus.COMPLETED})) == []


def test_runs_are_found_from_a_time_on_and_before_another(driver: Driver) -> None:
    runs = [f"run{number}" for number in range(9)]
    for number, run in enumerate(runs):
        start(driver, run, after_ms=number)
    driver.now_ms += 1_000
    assert found(driver, after_ms=START_MS + 2) == runs[2:]
    assert found(driver, before_ms=START_MS + 6) == runs[:6]
    assert found(driver, after_ms=START_MS + 2, before_ms=START_MS + 6) == runs[2:6]
    assert found(driver, after_ms=START_MS + 6, before_ms=START_MS + 6) == []


def test_runs_are_found_by_a_condition_on_their_event(driver: Driver) -> None:
    for number in range(12):
        start(driver, f"run{number:02}", tenant=number % 3)
    start(driver, "without")
    assert found(driver, condition="event.data.tenant == 1") == ["run01", "run04", "run07", "run10"]
    assert found(driver, condition="event.data.tenant == 1", limit=3) == ["run01", "run04", "run07"]
    assert found(driver, condition='event.id == "without"') == ["without"]
    assert found(driver, condition="event.data.nobody > 1") == []


def test_events_are_read_of_those_only_that_fit_otherwise(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        start(driver, f"run{number}", "shop/rare" if number == 4 else "shop/common", n=number)
    read: list[str] = []
    broker = driver.store.broker
    send = broker.execute_all

    def watched(calls: Sequence[Any]) -> list[Any]:
        assert len(calls) <= 9
        read.extend(str(call.args[1]) for call in calls if call.args[0] == "HGET")
        return send(calls)

    monkeypatch.setattr(broker, "execute_all", watched)
    assert found(driver, function="rare", condition="event.data.n > 3") == ["run4"]
    assert read == [driver.keys("RUN", "run4")]


def test_runs_that_are_made_after_the_look_are_not_found(driver: Driver) -> None:
    start(driver, "now")
    start(driver, "in a year of the server", after_ms=10 * 366 * 86_400_000)
    assert found(driver) == ["now"]
    assert found(driver, before_ms=START_MS + 20 * 366 * 86_400_000) == ["now"]


def test_runs_that_end_while_they_are_looked_through_disturb_nothing(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [f"run{number:02}" for number in range(12)]
    for number, run in enumerate(runs):
        start(driver, run, after_ms=number // 5)
    driver.now_ms += 1_000
    broker = driver.store.broker
    send, left = broker.execute_all, runs[::2]

    def while_others_end(calls: Sequence[Any]) -> list[Any]:
        answers = send(calls)
        if left and calls[0].args[0] == "ZRANGEBYSCORE":
            driver.cancel(left.pop(0))
        return answers

    monkeypatch.setattr(broker, "execute_all", while_others_end)
    seen = found(driver)
    assert set(runs[1::2]) <= set(seen)
    assert runs[0] not in seen
    assert seen == sorted(set(seen))
    assert len(left) < 4


# -- cancelling --------------------------------------------------------------------


def test_found_runs_are_cancelled_with_the_reason(driver: Driver) -> None:
    runs = [f"run{number}" for number in range(7)]
    for run in runs:
        start(driver, run)
    assert cancelled(driver, runs[:5]) == runs[:5]
    assert [driver.run(run).status for run in runs] == [RunStatus.CANCELLED] * 5 + [RunStatus.QUEUED] * 2
    assert driver.run("run4").failure == Failure("RunCancelledError", "sold out")
    assert found(driver) == runs[5:]


def test_runs_that_end_meanwhile_are_not_among_those_that_were_cancelled(driver: Driver) -> None:
    for run in ("run1", "run2", "run3", "run4"):
        start(driver, run)
    runs = found(driver)
    driver.finish(driver.claim_one())
    driver.cancel("run2")
    assert cancelled(driver, [*runs, "nobody"]) == ["run3", "run4"]
    assert driver.run("run1").status is RunStatus.COMPLETED
    assert driver.run("run2").failure == Failure("ValueError", "no")


def test_calls_that_are_sent_twice_name_the_same_runs(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [f"run{number}" for number in range(5)]
    for run in runs:
        start(driver, run)
    broker = driver.store.broker
    send = broker.execute_all

    def lose_the_first_answers(calls: Sequence[Any]) -> list[Any]:
        send(calls)
        return send(calls)

    monkeypatch.setattr(broker, "execute_all", lose_the_first_answers)
    assert cancelled(driver, runs) == runs


@pytest.mark.parametrize("chunk", [1, 2])
def test_children_that_fit_are_named_with_their_parents(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(bulk, "_CHUNK", chunk)
    waiting(driver)
    assert cancelled(driver, ["run1", "child1"]) == ["run1", "child1"]
    assert driver.run("child1").status is RunStatus.CANCELLED
