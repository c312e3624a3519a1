"""remove_consumers: the consumers of ended workers are deleted, and no entry is lost with them."""

from __future__ import annotations

import pytest
from redis.utils import str_if_bytes

from stepflow_broker.protocol.keys import GROUP
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.transitions.events import consumers
from stepflow_broker.transitions.events.consumers import remove_consumers
from stepflow_broker.transitions.events.event_stream import add_event, read_events, take_over_events
from stepflow_broker.transitions.invokes.outbox import read_finished
from stepflow_engine.codec import dumps
from tests.support.driver import Driver

STREAMS = ("EVENTS", "FINISHED")


@pytest.fixture(autouse=True)
def groups(driver: Driver) -> None:
    for stream in STREAMS:
        driver.store.broker.execute(create_group(driver.keys, stream))


def reads(driver: Driver, *workers: str) -> None:
    """The workers become consumers, as by their first read."""
    for worker in workers:
        for stream in STREAMS:
            driver.client.xgroup_createconsumer(driver.keys(stream), GROUP, worker)


def sent(driver: Driver, event_id: str = "e1") -> None:
    event = dumps({"name": "order.placed", "id": event_id, "ts": 1, "data": {}})
    driver.store.broker.execute(add_event(driver.partition, event, event_id=event_id, dedupe=False))


def names(driver: Driver, stream: str = "EVENTS") -> set[str]:
    return {str_if_bytes(one["name"]) for one in driver.client.xinfo_consumers(driver.keys(stream), GROUP)}


def test_a_worker_that_stops_deletes_its_own_consumers(driver: Driver) -> None:
    reads(driver, "w1", "w2")
    assert driver.send(remove_consumers(driver.partition, worker="w1")) == 2
    assert [names(driver, stream) for stream in STREAMS] == [{"w2"}, {"w2"}]
    assert driver.send(remove_consumers(driver.partition, worker="w1")) == 0


def test_a_consumer_with_pending_entries_stays_until_another_has_taken_them_over(driver: Driver) -> None:
    reads(driver, "w1", "w2")
    sent(driver)
    (event,) = driver.store.broker.execute(read_events(driver.partition, "w1"))
    assert driver.send(remove_consumers(driver.partition, worker="w1")) == 1
    assert names(driver) == {"w1", "w2"}
    (taken,) = driver.store.broker.execute(take_over_events(driver.partition, "w2", idle_ms=0))
    assert taken.entry == event.entry
    assert driver.send(remove_consumers(driver.partition, worker="w1")) == 1
    assert names(driver) == {"w2"}


def test_consumers_that_have_read_nothing_for_long_are_deleted_unless_entries_are_pending(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(driver, "w1", "w2")
    sent(driver)
    driver.store.broker.execute(read_events(driver.partition, "w2"))
    assert driver.send(remove_consumers(driver.partition)) == 0, "they have read just now"
    monkeypatch.setattr(consumers, "GONE_MS", 0)
    assert driver.send(remove_consumers(driver.partition)) == 3
    assert (names(driver), names(driver, "FINISHED")) == ({"w2"}, set())


def test_a_consumer_that_was_deleted_while_its_worker_lives_is_created_by_its_next_read(driver: Driver) -> None:
    reads(driver, "w1")
    driver.send(remove_consumers(driver.partition, worker="w1"))
    sent(driver)
    assert len(driver.store.broker.execute(read_events(driver.partition, "w1"))) == 1
    assert driver.store.broker.execute(read_finished(driver.partition, "w1")) == []
    assert names(driver) == {"w1"}


def test_without_streams_or_groups_nothing_is_deleted(driver: Driver) -> None:
    driver.client.delete(driver.keys("EVENTS"))
    driver.client.xgroup_destroy(driver.keys("FINISHED"), GROUP)
    assert driver.send(remove_consumers(driver.partition)) == 0
    assert driver.send(remove_consumers(driver.partition, worker="w1")) == 0
