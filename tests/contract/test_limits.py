"""Limits that were changed by hand: they hold at once, and end by their time or when they are reset."""

from __future__ import annotations

import pytest

from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.flow_control import RUNS, ConcurrencyConfig, FlowConfig, RateConfig, ThrottleConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.timers import mend_times
from stepflow_broker.transitions.limits import change_of, read_limits, reset_limit, set_limit
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_engine.codec import dumps
from tests.support.driver import RETENTION_MS, Driver

KEY = "event.data.shop"
HOUR_MS = 3_600_000
STEPS = FlowConfig(concurrency=(ConcurrencyConfig(2),))
KEYED = FlowConfig(concurrency=(ConcurrencyConfig(2, KEY),))


def start(driver: Driver, count: int, flow: FlowConfig, shop: int = 1) -> list[ScriptStatus]:
    config = FunctionConfig("shop", "buy", "shop", flow=flow, retention_ms=RETENTION_MS)
    codes, first = [], len(driver.client.keys(driver.keys("RUN", "*")))
    for number in range(first, first + count):
        event = dumps({"name": "e", "id": "e", "ts": 1, "data": {"shop": shop}})
        codes.append(driver.send(start_run(driver.partition, config, run_id=f"run{number}", event=event, dedupe=False)))
    return codes


def change(driver: Driver, subject: str, limit: int, for_ms: int = 0) -> None:
    run_operation(driver.store.broker, set_limit(driver.partition, subject, limit, for_ms=for_ms, who="eve"))
    driver.check()
    driver.fire()


def claimed(driver: Driver) -> int:
    return len(driver.claim() or [])


@pytest.mark.parametrize("of", ["steps", RUNS])
def test_a_higher_concurrency_starts_what_waits_at_once(driver: Driver, of: str) -> None:
    start(driver, 5, FlowConfig(concurrency=(ConcurrencyConfig(2, of=of),)))
    assert claimed(driver) == 2
    change(driver, "concurrency shop/buy" if of == "steps" else "concurrency runs shop/buy", 4)
    assert claimed(driver) == 2
    assert claimed(driver) == 0


def test_a_lower_concurrency_interrupts_nothing_and_starts_no_more(driver: Driver) -> None:
    start(driver, 4, STEPS)
    first, second = driver.claim() or []
    change(driver, "concurrency shop/buy", 1)
    driver.finish(first)
    assert claimed(driver) == 0
    driver.finish(second)
    assert claimed(driver) == 1


def test_a_change_ends_by_its_time_and_leaves_nothing(driver: Driver) -> None:
    start(driver, 3, STEPS)
    change(driver, "concurrency shop/buy", 1, for_ms=HOUR_MS)
    assert claimed(driver) == 2  # they had their slots
    driver.advance(HOUR_MS + 1)
    driver.fire()
    assert driver.client.hgetall(driver.keys("LIMITS")) == {}
    assert driver.client.zcard(driver.keys("TIMEOUTS")) == 0


def test_a_change_counts_no_more_after_its_time_though_no_timer_has_fired(driver: Driver) -> None:
    change(driver, "concurrency shop/buy", 1, for_ms=HOUR_MS)
    driver.advance(HOUR_MS + 1)
    start(driver, 3, STEPS)
    assert claimed(driver) == 2


def test_a_reset_gives_the_slots_back_and_a_second_one_does_nothing(driver: Driver) -> None:
    change(driver, "concurrency shop/buy", 1)
    start(driver, 3, STEPS)
    assert claimed(driver) == 1
    reset = [run_operation(driver.store.broker, reset_limit(driver.partition, "concurrency shop/buy")) for _ in "12"]
    assert reset == [True, False]
    driver.fire()
    assert claimed(driver) == 1


def test_a_later_change_replaces_the_time_of_the_first(driver: Driver) -> None:
    change(driver, "concurrency shop/buy", 1, for_ms=HOUR_MS)
    change(driver, "concurrency shop/buy", 3)
    driver.advance(HOUR_MS + 1)
    driver.fire()
    start(driver, 4, STEPS)
    assert claimed(driver) == 3


def test_a_change_of_a_key_holds_for_each_of_its_values_and_for_no_other_limit(driver: Driver) -> None:
    change(driver, f"concurrency shop/buy:{KEY}=", 1)
    change(driver, "concurrency shop/buy", 9)
    change(driver, "concurrency shop/bu", 9)
    start(driver, 3, KEYED, shop=1)
    start(driver, 3, KEYED, shop=2)
    assert claimed(driver) == 2


def test_a_changed_rate_limit_and_throttle_hold_for_the_next_starts(driver: Driver) -> None:
    rate = FlowConfig(rate_limit=RateConfig(1, HOUR_MS))
    change(driver, "rate shop/buy", 3)
    assert start(driver, 4, rate) == [ScriptStatus.DONE] * 3 + [ScriptStatus.RESOLVED]
    assert claimed(driver) == 3
    throttle = FlowConfig(throttle=ThrottleConfig(1, HOUR_MS))
    change(driver, "throttle shop/buy", 3_600)
    start(driver, 3, throttle)
    due = [driver.run(f"run{number}").due_at for number in (4, 5, 6)]
    assert due == [None, driver.now_ms + 1_000, driver.now_ms + 2_000]


def test_a_throttle_survives_a_lower_limit_in_its_rest(driver: Driver) -> None:
    start(driver, 2, FlowConfig(throttle=ThrottleConfig(7, 20_000_000)))
    change(driver, "throttle shop/buy", 2)
    start(driver, 2, FlowConfig(throttle=ThrottleConfig(7, 20_000_000)))
    due = [driver.run(f"run{number}").due_at or driver.now_ms for number in range(4)]
    assert due == sorted(due)
    assert due[3] - due[2] == 10_000_000


def test_a_change_is_recorded_shown_and_left_alone_by_the_doctor(driver: Driver) -> None:
    change(driver, f"concurrency shop/buy:{KEY}=", 7, for_ms=HOUR_MS)
    changes = driver.store.broker.execute(read_limits(driver.partition))
    one = change_of(changes, "concurrency", f"shop/buy:{KEY}=17")
    assert one is not None
    assert (one.limit, one.until_ms, one.since_ms) == (7, driver.now_ms + HOUR_MS, driver.now_ms)
    assert change_of(changes, "concurrency", f"shop/buy:{KEY}==17") is None
    assert change_of(changes, "rate", f"shop/buy:{KEY}=17") is None
    [(_, entry)] = driver.client.xrange(driver.keys("AUDIT"))
    assert (entry["who"], entry["action"]) == ("eve", "set_limit")
    driver.send(mend_times(driver.partition, cursor=0))
    examine(driver.store.broker, driver.partition, repair=True)
    assert driver.client.zscore(driver.keys("TIMEOUTS"), f"limit:concurrency shop/buy:{KEY}=") == one.until_ms
