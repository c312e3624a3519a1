"""register_functions, route_event: an event starts each function once."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.code import register_code
from stepflow_broker.registry.function_config import DEDUPE_MS, EventConfig, FunctionConfig
from stepflow_broker.registry.functions import (
    forget_function,
    read_function,
    read_function_queues,
    read_functions,
    register_functions,
    registry_version,
)
from stepflow_broker.transitions.events.aside_events import (
    begin_try,
    end_try,
    read_aside_events,
    resend_event,
    set_aside_event,
)
from stepflow_broker.transitions.events.event_stream import (
    StreamedEvent,
    add_event,
    has_earlier_events,
    read_deliveries,
    read_events,
    route_event,
    take_over_events,
)
from stepflow_engine.codec import dumps
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import Driver
from tests.support.invariants import check_invariants

BUY = FunctionConfig("shop", "buy", "shop", (EventConfig("order.placed"),), 4)
MAIL = FunctionConfig("post", "mail", "letters", (EventConfig("order.*"),), 2)
EVENT = dumps({"name": "order.placed", "id": "e1", "ts": 1, "data": {}})


@pytest.fixture
def version(driver: Driver) -> int:
    """The version of a registry with two functions, with the stream made."""
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))
    return driver.store.broker.execute(register_functions(driver.keys, [BUY, MAIL]))


def sent(driver: Driver, *, dedupe: bool = True) -> StreamedEvent:
    """An event that was sent, and taken off the group by a worker."""
    driver.store.broker.execute(add_event(driver.partition, EVENT, event_id="e1", dedupe=dedupe))
    (event,) = driver.store.broker.execute(read_events(driver.partition, "w1"))
    return event


def route(driver: Driver, event: StreamedEvent, version: int) -> int | None:
    starts = [("run1", BUY), ("run2", MAIL)]
    routed = driver.store.broker.execute(route_event(driver.partition, event, starts, version=version))
    check_invariants(driver.client)
    return None if routed.code is ScriptStatus.STALE_REGISTRY else routed.started


def test_registered_functions_are_found(driver: Driver, version: int) -> None:
    assert driver.store.broker.execute(read_functions(driver.keys)) == [MAIL, BUY]
    assert driver.store.broker.execute(read_function(driver.keys, "shop", "buy")) == BUY
    assert driver.store.broker.execute(read_function(driver.keys, "shop", "sell")) is None


def test_the_version_grows_with_a_change_and_only_with_one(driver: Driver, version: int) -> None:
    assert driver.store.broker.execute(register_functions(driver.keys, [BUY, MAIL])) == version
    changed = FunctionConfig("shop", "buy", "shop", (EventConfig("order.placed"),), 5)
    assert driver.store.broker.execute(register_functions(driver.keys, [changed])) == version + 1
    assert driver.store.broker.execute(registry_version(driver.keys)) == version + 1
    assert driver.store.broker.execute(read_functions(driver.keys)) == [MAIL, changed]


def test_a_registry_that_nobody_wrote_has_version_zero(driver: Driver) -> None:
    assert driver.store.broker.execute(registry_version(driver.keys)) == 0


def test_an_event_starts_a_run_of_each_function_and_leaves_the_stream(driver: Driver, version: int) -> None:
    event = sent(driver)
    assert (event.event, event.event_id, event.dedupe) == (EVENT, "e1", True)
    assert route(driver, event, version) == 2
    assert [driver.queued(name) for name in ("shop", "letters")] == [["run1"], ["run2"]]
    assert (driver.run("run1").name, driver.run("run2").name) == ("shop/buy", "post/mail")
    assert driver.client.xlen(driver.keys("EVENTS")) == 0
    assert driver.client.xpending(driver.keys("EVENTS"), "stepflow")["pending"] == 0


def test_an_event_that_is_routed_twice_starts_nothing_twice(driver: Driver, version: int) -> None:
    event = sent(driver)
    route(driver, event, version)
    before = driver.snapshot()
    assert route(driver, event, version) == 0
    assert driver.snapshot() == before


def test_an_event_that_is_sent_again_starts_nothing_while_its_runs_are_kept(driver: Driver, version: int) -> None:
    route(driver, sent(driver), version)
    for lease in driver.claim(queues=("shop", "letters")) or ():
        driver.finish(lease, retention_ms=1_000)
    assert route(driver, sent(driver), version) == 0
    assert driver.client.pttl(driver.keys("RUN", "run1")) > DEDUPE_MS - 60_000


def test_an_event_without_an_id_of_the_senders_is_not_kept_longer(driver: Driver, version: int) -> None:
    route(driver, sent(driver, dedupe=False), version)
    driver.finish(driver.claim_one(), retention_ms=1_000)
    assert driver.client.pttl(driver.keys("RUN", "run1")) <= 1_000


def test_an_event_is_not_routed_by_a_registry_that_has_changed(driver: Driver, version: int) -> None:
    event = sent(driver)
    before = driver.snapshot()
    assert route(driver, event, version - 1) is None
    assert driver.snapshot() == before
    assert driver.client.xpending(driver.keys("EVENTS"), "stepflow")["pending"] == 1


def test_an_event_that_no_function_wants_leaves_the_stream(driver: Driver, version: int) -> None:
    call = route_event(driver.partition, sent(driver), [], version=version)
    assert driver.store.broker.execute(call).started == 0
    assert driver.client.xlen(driver.keys("EVENTS")) == 0


def test_an_event_that_a_dead_worker_took_is_taken_over(driver: Driver, version: int) -> None:
    event = sent(driver)
    assert driver.store.broker.execute(take_over_events(driver.partition, "w2", idle_ms=0)) == [event]
    assert route(driver, event, version) == 2
    assert driver.store.broker.execute(take_over_events(driver.partition, "w2", idle_ms=0)) == []


def test_an_event_that_was_routed_cannot_disturb_its_run(driver: Driver, version: int) -> None:
    event = sent(driver)
    route(driver, event, version)
    driver.finish(driver.claim_one())
    route(driver, event, version)
    assert driver.run("run1").status is RunStatus.COMPLETED


def test_workers_that_begin_to_route_an_event_and_do_not_end_are_counted(driver: Driver, version: int) -> None:
    first, second = sent(driver), sent(driver)
    for number in (1, 2, 3):
        assert driver.store.broker.execute(begin_try(driver.partition, first)) == number
    assert driver.store.broker.execute(begin_try(driver.partition, second)) == 1
    assert driver.store.broker.execute(end_try(driver.partition, first)) == 0
    assert driver.store.broker.execute(begin_try(driver.partition, first)) == 1
    for event in (first, second):
        driver.send(end_try(driver.partition, event))
    assert not driver.client.exists(driver.keys("SUSPECT_EVENTS"))


def test_how_often_an_event_was_read_is_known(driver: Driver, version: int) -> None:
    event = sent(driver)
    assert driver.send(read_deliveries(driver.partition, event)) == 1
    driver.store.broker.execute(take_over_events(driver.partition, "w2", idle_ms=0))
    assert driver.send(read_deliveries(driver.partition, event)) == 2
    route(driver, event, version)
    assert driver.send(read_deliveries(driver.partition, event)) == 0


def test_an_event_is_set_aside_once_and_sent_again_once(driver: Driver, version: int) -> None:
    event = sent(driver)
    assert driver.send(set_aside_event(driver.partition, event, ["it is too long", "it is too long"])) is True
    assert driver.send(set_aside_event(driver.partition, event, ["another worker had it"])) is False
    assert driver.client.xlen(driver.keys("EVENTS")) == 0
    (aside,) = driver.store.broker.execute(read_aside_events(driver.partition))
    assert (aside.name, aside.event_id, aside.reason) == ("order.placed", "e1", "it is too long")
    assert driver.send(resend_event(driver.partition, "1-1")) is False
    assert driver.send(resend_event(driver.partition, aside.entry)) is True
    assert driver.store.broker.execute(resend_event(driver.partition, aside.entry)) is False
    assert driver.store.broker.execute(read_aside_events(driver.partition)) == []
    (again,) = driver.store.broker.execute(read_events(driver.partition, "w1"))
    assert (again.event, again.event_id, again.dedupe) == (EVENT, "e1", True)


# -- forgetting ------------------------------------------------------------------------


def test_a_function_that_is_forgotten_is_started_by_nothing(driver: Driver, version: int) -> None:
    event = sent(driver)
    for field in ("shop/buy\nUTC\n* * * * *", "shop/buyer\nUTC\n* * * * *"):
        driver.client.hset(driver.keys("CRON"), field, 1)
    driver.client.hset(driver.keys("PAUSED"), "function shop/buy", "1 why")
    assert driver.send(forget_function(driver.partition, "shop/buy")) is ScriptStatus.DONE
    assert route(driver, event, version) is None
    assert driver.store.broker.execute(read_functions(driver.keys)) == [MAIL]
    assert driver.store.broker.execute(read_function_queues(driver.keys)) == [("post/mail", "letters")]
    assert driver.client.hkeys(driver.keys("CRON")) == ["shop/buyer\nUTC\n* * * * *"]
    assert not driver.client.exists(driver.keys("PAUSED"))
    assert driver.send(forget_function(driver.partition, "shop/buy")) is ScriptStatus.ALREADY


def test_a_function_whose_code_a_live_worker_has_is_not_forgotten(driver: Driver, version: int) -> None:
    driver.send(register_code(driver.partition, ["shop/buy"]))
    before = driver.snapshot()
    assert driver.send(forget_function(driver.partition, "shop/buy")) is ScriptStatus.SERVED
    assert driver.snapshot() == before
    driver.advance(91_000)
    assert driver.send(forget_function(driver.partition, "shop/buy")) is ScriptStatus.DONE


def test_a_worker_learns_that_its_code_was_not_registered_for_a_while(driver: Driver) -> None:
    call = register_code(driver.partition, ["shop/buy"])
    assert driver.store.broker.execute(call) is ScriptStatus.DONE
    driver.advance(60_000)
    assert driver.store.broker.execute(register_code(driver.partition, ["shop/buy"])) is ScriptStatus.ALREADY
    driver.advance(91_000)
    assert driver.store.broker.execute(register_code(driver.partition, ["shop/buy"])) is ScriptStatus.DONE
    driver.client.delete(*driver.client.keys(driver.keys("CODE", "*")))
    assert driver.store.broker.execute(register_code(driver.partition, ["shop/buy"])) is ScriptStatus.DONE


def test_a_worker_that_restores_its_functions_replaces_no_newer_config(driver: Driver, version: int) -> None:
    newer = FunctionConfig("shop", "buy", "fast")
    driver.send(register_functions(driver.keys, [newer]))
    assert driver.send(register_functions(driver.keys, [BUY, MAIL], only_missing=True)) == version + 1
    assert driver.store.broker.execute(read_functions(driver.keys)) == [MAIL, newer]
    driver.send(forget_function(driver.partition, "post/mail"))
    assert driver.send(register_functions(driver.keys, [BUY, MAIL], only_missing=True)) == version + 3
    assert driver.store.broker.execute(read_functions(driver.keys)) == [MAIL, newer]


def test_each_queue_that_a_function_had_is_known(driver: Driver, version: int) -> None:
    driver.send(register_functions(driver.keys, [FunctionConfig("shop", "buy", "fast")]))
    queues = [("post/mail", "letters"), ("shop/buy", "fast"), ("shop/buy", "shop")]
    assert driver.store.broker.execute(read_function_queues(driver.keys)) == queues


def test_an_event_waits_for_earlier_ones_that_another_worker_routes(driver: Driver, version: int) -> None:
    first = sent(driver)
    second = sent(driver)

    def waits(worker: str = "w2", idle_ms: int = 60_000) -> bool:
        call = has_earlier_events(driver.partition, second, worker, idle_ms=idle_ms)
        return driver.store.broker.execute(call)

    assert waits()
    assert not waits("w1"), "a worker routes its own events in order"
    assert not waits(idle_ms=0), "the other worker has had it for too long"
    assert not driver.store.broker.execute(has_earlier_events(driver.partition, first, "w2", idle_ms=60_000))
    for worker in ("w3", "w4"):
        driver.store.broker.execute(take_over_events(driver.partition, worker, idle_ms=0))
    assert not waits(), "several workers could not route it"
    route(driver, first, version)
    assert not waits()


def test_an_event_is_refused_while_one_that_must_be_routed_before_is_not(driver: Driver, version: int) -> None:
    first, second = sent(driver), sent(driver)
    call = route_event(driver.partition, second, [("run3", BUY)], version=version, after=first.entry)
    before = driver.snapshot()
    refused = driver.store.broker.execute(call)
    assert (refused.code, refused.started, refused.paths) == (ScriptStatus.EARLIER_EVENT, 0, ())
    assert driver.snapshot() == before
    route(driver, first, version)
    accepted = driver.store.broker.execute(call)
    assert (accepted.code, accepted.started) == (ScriptStatus.DONE, 1)
    assert driver.client.xlen(driver.keys("EVENTS")) == 0
