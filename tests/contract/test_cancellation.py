"""Bounds: an event or the time ends a run from outside."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.events.event_stream import Routed, add_event, read_events, route_event
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_broker.transitions.steps.waits import deliver_event, read_condition, read_waits
from stepflow_engine.codec import dumps
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, Driver
from tests.support.invariants import check_invariants

PATH = "data.order"
BY_ORDER = CancellationConfig((CancelConfig("gone", PATH),))


@pytest.fixture(autouse=True)
def group(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))


def config(bounds: CancellationConfig) -> FunctionConfig:
    return FunctionConfig("shop", "buy", "shop", cancellation=bounds, retention_ms=RETENTION_MS)


def start(driver: Driver, bounds: CancellationConfig, run: str = "run1", *, data: object = None) -> ScriptStatus:
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {"order": 1} if data is None else data})
    return driver.send(start_run(driver.partition, config(bounds), run_id=run, event=event, dedupe=False))


def came(driver: Driver, data: object, *, bounds: CancellationConfig | None = None, name: str = "gone") -> Routed:
    """An event has come, and starts a run ``new`` of a function with these bounds."""
    text = dumps({"name": name, "id": "e1", "ts": 1, "data": data})
    driver.store.broker.execute(add_event(driver.partition, text, event_id="e1", dedupe=True))
    *_, event = driver.store.broker.execute(read_events(driver.partition, "w1"))  # after those of cancelled runs
    starts = [("new", config(bounds))] if bounds else []
    call = route_event(driver.partition, event, starts, version=0, paths=(PATH,))
    answer = driver.store.broker.execute(call)
    check_invariants(driver.client)
    return answer


def nothing_left(driver: Driver) -> bool:
    left = [*driver.client.scan_iter("stepflow:waits:*"), *driver.client.scan_iter("stepflow:wait-counts:*")]
    return not left and not driver.client.exists(driver.keys("TIMEOUTS"))


def test_an_event_cancels_the_runs_that_have_its_value_and_no_other(driver: Driver) -> None:
    start(driver, BY_ORDER, "run1", data={"order": 1})
    start(driver, BY_ORDER, "run2", data={"order": 2})
    start(driver, BY_ORDER, "run3", data={"order": 2})
    driver.claim(3)
    came(driver, {"order": 2})
    assert [driver.run(run).status for run in ("run1", "run2", "run3")] == [
        RunStatus.RUNNING,
        RunStatus.CANCELLED,
        RunStatus.CANCELLED,
    ]
    failure = driver.run("run2").failure
    assert failure is not None
    assert failure.message == "the run was cancelled by event gone"
    came(driver, {"order": 1})
    assert nothing_left(driver)


def test_a_run_whose_event_has_no_such_value_is_not_cancelled(driver: Driver) -> None:
    start(driver, BY_ORDER, data={})
    came(driver, {})
    assert driver.run().status is RunStatus.QUEUED


def test_the_event_that_starts_a_run_does_not_cancel_it(driver: Driver) -> None:
    start(driver, BY_ORDER)
    assert came(driver, {"order": 1}, bounds=BY_ORDER).started == 1
    assert driver.run("run1").status is RunStatus.CANCELLED
    assert driver.run("new").status is RunStatus.QUEUED


def test_an_event_that_comes_after_its_time_cancels_nothing(driver: Driver) -> None:
    start(driver, CancellationConfig((CancelConfig("gone", timeout_ms=5_000),)))
    driver.advance(5_001)
    came(driver, {})
    assert driver.run().status is RunStatus.QUEUED


def test_a_condition_is_looked_at_by_a_worker(driver: Driver) -> None:
    start(driver, CancellationConfig((CancelConfig("gone", PATH, "event.data.sure && run.event.id == 'run1'"),)))
    assert came(driver, {"order": 1, "sure": True}).paths == ("?",)
    ((run, key),) = driver.store.broker.execute(read_waits(driver.partition, "gone"))
    assert (run, key) == ("run1", "!0")
    assert b"event.data.sure" in driver.store.broker.execute(read_condition(driver.partition, run, key))
    assert driver.send(deliver_event(driver.partition, run, key, b"{}", event_id="e1"))
    assert driver.run().status is RunStatus.CANCELLED
    assert not driver.send(deliver_event(driver.partition, run, key, b"{}", event_id="e1"))
    assert nothing_left(driver)


def test_whatever_ends_a_run_ends_its_bounds(driver: Driver) -> None:
    bounds = CancellationConfig((CancelConfig("gone", PATH), CancelConfig("lost")), start_ms=5_000, finish_ms=9_000)
    start(driver, bounds)
    driver.finish(driver.claim_one())
    assert nothing_left(driver)
    start(driver, bounds, "run2")
    driver.cancel("run2")
    assert nothing_left(driver)


def test_a_run_that_has_not_started_in_time_is_cancelled(driver: Driver) -> None:
    start(driver, CancellationConfig(start_ms=60_000))
    driver.advance(59_999)
    driver.fire()
    assert driver.run().status is RunStatus.QUEUED
    driver.advance(1)
    driver.fire()
    assert driver.run().status is RunStatus.CANCELLED
    assert driver.run().failure.message == "the run did not start within 1m"  # type: ignore[union-attr]
    assert driver.claim() == []


def test_a_run_that_has_started_in_time_goes_on(driver: Driver) -> None:
    start(driver, CancellationConfig(start_ms=60_000))
    lease = driver.claim_one()
    driver.advance(60_000)
    driver.fire()
    assert driver.run().status is RunStatus.RUNNING
    assert driver.finish(lease) is ScriptStatus.DONE


def test_a_run_that_does_not_end_in_time_is_cancelled_with_its_children(driver: Driver) -> None:
    start(driver, CancellationConfig(finish_ms=60_000))
    driver.advance(1_000_000)  # the time on the queue does not count
    lease = driver.claim_one()
    driver.invoke(lease)
    driver.park(lease)
    driver.advance(59_999)
    driver.fire()
    assert driver.run().status is RunStatus.WAITING
    driver.advance(1)
    driver.fire()
    assert driver.run().status is RunStatus.CANCELLED
    assert driver.run().failure.message == "the run did not finish within 1m"  # type: ignore[union-attr]
    assert driver.run("child1").status is RunStatus.CANCELLED
    assert not driver.client.exists(driver.keys("TIMEOUTS"))


def test_the_finish_is_counted_from_the_first_start(driver: Driver) -> None:
    start(driver, CancellationConfig(finish_ms=60_000))
    lease = driver.claim_one()
    driver.advance(40_000)
    driver.yield_run(lease)
    driver.claim_one()
    driver.advance(20_000)
    driver.fire()
    assert driver.run().status is RunStatus.CANCELLED
