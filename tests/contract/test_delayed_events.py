"""Delayed events are sent once when they are due, and can be cancelled before."""

from __future__ import annotations

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.events.delayed_events import cancel_event, delay_event, find_delayed_events
from stepflow_broker.transitions.jobs.leases import repair_jobs
from stepflow_broker.transitions.jobs.timers import mend_times
from stepflow_broker.transitions.steps.waits import SentEvent, send_events
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from tests.support.backends import Store
from tests.support.driver import Driver, memo

HOUR_MS = 3_600_000


def text(event_id: str) -> bytes:
    return dumps({"name": "paid", "id": event_id, "ts": 1, "data": {"of": event_id}})


def delay(driver: Driver, event_id: str, *, due_ms: int = 0, delay_ms: int = HOUR_MS) -> ScriptStatus:
    call = delay_event(
        driver.partition, text(event_id), event_id=event_id, dedupe=True, due_ms=due_ms, delay_ms=delay_ms
    )
    return driver.send(call)


def sent(driver: Driver) -> list[tuple[str, str]]:
    """The events on the stream: id, and whether the sender chose it."""
    return [(fields["id"], fields["dedupe"]) for _, fields in driver.client.xrange(driver.keys("EVENTS"))]


def test_an_event_is_sent_when_it_is_due_and_once(driver: Driver) -> None:
    driver.twice = True
    assert delay(driver, "e1") is ScriptStatus.DONE
    driver.advance(HOUR_MS - 1)
    driver.fire()
    assert sent(driver) == []
    driver.advance(1)
    driver.fire()
    assert sent(driver) == [("e1", "1")]
    assert set(driver.client.keys("*")) == {driver.keys("EVENTS")}


def test_a_time_that_is_over_sends_the_event_now(driver: Driver) -> None:
    assert delay(driver, "e1", due_ms=1) is ScriptStatus.DONE
    assert sent(driver) == [("e1", "1")]


def test_an_event_with_the_id_of_a_delayed_one_changes_nothing(driver: Driver) -> None:
    delay(driver, "e1")
    before = driver.snapshot()
    assert delay(driver, "e1", delay_ms=1) is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_cancelled_event_leaves_nothing_and_is_not_sent(driver: Driver) -> None:
    delay(driver, "a\nb:c")  # an id may be any text
    assert driver.send(cancel_event(driver.partition, "a\nb:c"))
    assert driver.snapshot() == {}
    assert not driver.send(cancel_event(driver.partition, "a\nb:c"))


def test_a_cancelled_event_is_recorded_in_the_audit_log(driver: Driver) -> None:
    delay(driver, "e1")
    driver.send(cancel_event(driver.partition, "e1", who="ops", reason="paid"))
    ((_, fields),) = driver.client.xrange(driver.keys("AUDIT"))
    assert fields == {"who": "ops", "action": "cancel", "subject": "event e1", "reason": "paid", "details": "{}"}


def test_the_events_of_a_step_are_delayed_with_its_memo(driver: Driver) -> None:
    lease, key, due_ms = driver.started(), step_key("send"), driver.now_ms + HOUR_MS
    events = [
        SentEvent(text("now"), "now", dedupe=True),
        SentEvent(text("later"), "later", dedupe=False, due_ms=due_ms),
    ]
    call = send_events(driver.partition, run_id="run1", fence=lease.fence, key=key, memo=memo(), events=events)
    assert driver.send(call)[0] is ScriptStatus.DONE
    assert driver.send(call)[0] is ScriptStatus.ALREADY
    assert sent(driver) == [("now", "1")]
    driver.advance(HOUR_MS)
    driver.fire()
    assert sent(driver) == [("now", "1"), ("later", "0")]


def test_the_events_of_all_partitions_are_listed_by_their_time(store: Store) -> None:
    driver = Driver(store, keys=Keys.over(2).all[0])
    for number, partition in enumerate((*driver.partition.all, driver.partition)):
        event_id = f"e{number}"
        due_ms = driver.now_ms + HOUR_MS * (3 - number)
        driver.send(delay_event(partition, text(event_id), event_id=event_id, dedupe=True, due_ms=due_ms, delay_ms=0))
    broker: object = store.broker
    found = run_operation(broker, find_delayed_events(driver.partition, limit=2))  # type: ignore[arg-type]
    assert [(one.id, one.name, one.data) for one in found] == [
        ("e2", "paid", {"of": "e2"}),
        ("e1", "paid", {"of": "e1"}),
    ]


def test_the_time_of_an_event_does_not_move_with_a_clock_that_was_ahead(driver: Driver) -> None:
    due_ms = driver.now_ms + HOUR_MS
    driver.start("e1")  # a run may have the id of an event
    delay(driver, "e1", due_ms=due_ms)
    driver.advance(-2 * HOUR_MS)
    driver.send(mend_times(driver.partition, cursor=0))
    assert driver.client.zscore(driver.keys("TIMEOUTS"), "event:e1") == due_ms


def test_an_event_whose_timer_an_older_worker_has_dropped_is_sent_by_a_repair(driver: Driver) -> None:
    delay(driver, "e1")
    driver.client.zrem(driver.keys("TIMEOUTS"), "event:e1")
    driver.advance(HOUR_MS)
    driver.store.broker.execute(repair_jobs(driver.partition, cursor=0))  # the invariants do not hold yet
    assert sent(driver) == []
    driver.advance(5_000)
    driver.send(repair_jobs(driver.partition, cursor=0))
    assert sent(driver) == [("e1", "1")]
