"""The clock of the server was three days ahead for a moment: what was noted then counts as noted afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator

import pytest

from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.heartbeat import is_live
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group, read_group, renew_pending
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_broker.registry.code import digest_of_code, read_code, register_code
from stepflow_broker.registry.flow_control import (
    BatchConfig,
    ConcurrencyConfig,
    DebounceConfig,
    FlowConfig,
    RateConfig,
    ThrottleConfig,
)
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.events.event_stream import add_event, read_events, route_event
from stepflow_broker.transitions.jobs.leases import reclaim_leases
from stepflow_broker.transitions.jobs.timers import mend_times
from stepflow_broker.transitions.pauses import pause, resume
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_broker.transitions.steps.waits import begin_wait
from stepflow_engine.codec import dumps
from stepflow_engine.memo import read_memo
from stepflow_engine.state_machine import RunStatus
from tests.contract.test_waits import begin, sleep, wait_for
from tests.support.driver import LEASE_MS, RETENTION_MS, START_MS, Driver

DAY_MS, HOUR_MS, MINUTE_MS = 86_400_000, 3_600_000, 60_000
JUMP_MS = 3 * DAY_MS


@contextlib.contextmanager
def ahead(driver: Driver) -> Iterator[None]:
    """The clock is ahead in this block."""
    driver.advance(JUMP_MS)
    yield
    driver.advance(-JUMP_MS)


def mended(driver: Driver) -> int:
    """Mend as a worker does; how many runs and timers were mended."""
    cursor, count = driver.send(mend_times(driver.partition, cursor=0))
    assert cursor == 0
    return count


def repaired(driver: Driver) -> int:
    """Mend as the doctor does; how many findings were mended."""
    examine(driver.store.broker, driver.partition, repair=True)
    left = {finding.code for finding in examine(driver.store.broker, driver.partition)}
    assert not left & {"time_in_future", "ended_in_future"}
    return 1


BOTH_WAYS = pytest.mark.parametrize("mend", [mended, repaired])
Mend = Callable[[Driver], int]


def timers(driver: Driver) -> dict[str, int]:
    """The timers, and in how many ms each is due."""
    found = driver.client.zrange(driver.keys("TIMEOUTS"), 0, -1, withscores=True)
    return {member: int(due) - driver.now_ms for member, due in found}


def start(
    driver: Driver,
    run: str = "run1",
    *,
    flow: FlowConfig | None = None,
    bounds: CancellationConfig | None = None,
    ts: int = START_MS,
) -> ScriptStatus:
    config = FunctionConfig("shop", "buy", "shop", flow=flow, cancellation=bounds, retention_ms=RETENTION_MS)
    event = dumps({"name": "e", "id": run, "ts": ts, "data": {"order": 1}})
    return driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


# -- timers --------------------------------------------------------------------


@BOTH_WAYS
def test_a_sleep_that_began_then_lasts_as_long_as_it_should(driver: Driver, mend: Mend) -> None:
    lease = driver.started()
    with ahead(driver):
        begin(driver, lease, sleep(delay_ms=MINUTE_MS))
        driver.park(lease)
    driver.advance(5_000)
    assert mend(driver)
    assert timers(driver) == {f"wait:run1:{wait_for('').key}": MINUTE_MS}
    assert driver.steps()["w"].due_at == driver.now_ms + MINUTE_MS
    driver.advance(MINUTE_MS)
    assert driver.fire()[0] == 1
    ((_, memo),) = driver.memos()
    assert read_memo(memo).detail["ended_at"] == driver.now_ms


@BOTH_WAYS
def test_a_sleep_that_began_before_or_after_and_one_until_a_time_stay_as_they_are(driver: Driver, mend: Mend) -> None:
    begin(driver, driver.started("before"), sleep(delay_ms=7 * DAY_MS))
    until = driver.started("until")
    with ahead(driver):
        begin(driver, until, sleep(until_ms=START_MS + 5 * DAY_MS))
    begin(driver, driver.started("after"), sleep(delay_ms=9 * DAY_MS))
    before = timers(driver)
    mend(driver)
    assert timers(driver) == before
    assert sorted(before.values()) == [5 * DAY_MS, 7 * DAY_MS, 9 * DAY_MS]


@BOTH_WAYS
def test_retries_of_runs_and_steps_come_after_their_delays(driver: Driver, mend: Mend) -> None:
    first, second = driver.started("run1"), driver.started("run2")
    with ahead(driver):
        driver.retry(first, delay_ms=10_000)
        driver.fail(second, "a", delay_ms=20_000)
        driver.park(second)
    mend(driver)
    assert sorted(timers(driver).values()) == [10_000, 20_000]
    assert driver.run("run1").due_at == driver.now_ms + 10_000
    scheduled = driver.client.zrange(driver.keys("RQ_SCHEDULED", "shop:steps"), 0, -1, withscores=True)
    assert [int(due) for _, due in scheduled] == [(driver.now_ms + 10_000) // 1000, (driver.now_ms + 20_000) // 1000]
    driver.advance(20_000)
    assert driver.fire()[0] == 2
    assert len(driver.claim() or ()) == 2


@BOTH_WAYS
def test_the_wait_for_a_child_ends_by_its_timeout(driver: Driver, mend: Mend) -> None:
    lease = driver.started()
    with ahead(driver):
        driver.invoke(lease, timeout_ms=MINUTE_MS)
        driver.park(lease)
    mend(driver)
    assert list(timers(driver).values()) == [MINUTE_MS]


@BOTH_WAYS
def test_times_to_start_and_to_finish_count_from_now(driver: Driver, mend: Mend) -> None:
    bounds = CancellationConfig(
        (CancelConfig("stop", timeout_ms=HOUR_MS),), start_ms=MINUTE_MS, finish_ms=2 * MINUTE_MS
    )
    with ahead(driver):
        start(driver, "started", bounds=bounds)
        driver.claim_one()
        start(driver, "new", bounds=bounds)
    mend(driver)
    assert timers(driver) == {"start:new": MINUTE_MS, "finish:started": 2 * MINUTE_MS}
    for run in ("started", "new"):
        assert int(driver.client.hget(driver.keys("RUN", run), "until:0")) == driver.now_ms + HOUR_MS
        assert driver.run(run).created_at == driver.now_ms
        assert driver.client.zscore(driver.keys("LIVE"), run) == driver.now_ms


@BOTH_WAYS
def test_a_resumed_function_goes_on(driver: Driver, mend: Mend) -> None:
    driver.send(pause(driver.partition, "function", "shop/buy", reason=""))
    driver.start()
    assert driver.claim() == []
    with ahead(driver):
        driver.send(resume(driver.partition, "function", "shop/buy"))
    mend(driver)
    driver.fire()
    assert len(driver.claim() or ()) == 1


def test_mending_again_changes_nothing(driver: Driver) -> None:
    lease = driver.started("sleeper")
    with ahead(driver):
        begin(driver, lease, sleep(delay_ms=MINUTE_MS))
        start(driver, "delayed", flow=FlowConfig(debounce=DebounceConfig(HOUR_MS)))
    assert mended(driver) == 2
    before = driver.snapshot()
    driver.advance(1_000)
    assert mended(driver) == 0
    assert driver.snapshot() == before


def test_all_runs_are_mended_however_many_there_are(driver: Driver) -> None:
    with ahead(driver):
        for n in range(7):
            start(driver, f"run{n}", flow=FlowConfig(debounce=DebounceConfig(HOUR_MS, 0, f"'{n}'")))
    cursor, is_first = 0, True
    while is_first or cursor:
        cursor, _ = driver.send(mend_times(driver.partition, cursor=cursor, count=2))
        is_first = False
    assert set(timers(driver).values()) == {HOUR_MS}
    assert {driver.run(f"run{n}").created_at for n in range(7)} == {driver.now_ms}


# -- flow control ----------------------------------------------------------------


def test_a_rate_limit_counts_the_starts_of_then_for_one_period(driver: Driver) -> None:
    flow = FlowConfig(rate_limit=RateConfig(2, MINUTE_MS))
    with ahead(driver):
        assert [start(driver, f"then{n}", flow=flow) for n in (1, 2)] == [ScriptStatus.DONE] * 2
    assert start(driver, "now", flow=flow) is ScriptStatus.RESOLVED
    driver.advance(MINUTE_MS + 1)
    assert start(driver, "later", flow=flow) is ScriptStatus.DONE


def test_a_throttle_continues_where_it_was(driver: Driver) -> None:
    flow = FlowConfig(throttle=ThrottleConfig(1, MINUTE_MS, 1))
    with ahead(driver):
        for n in (1, 2, 3):
            start(driver, f"then{n}", flow=flow)
    mended(driver)
    start(driver, "now", flow=flow)
    assert timers(driver) == {"job:then2": MINUTE_MS, "job:then3": 2 * MINUTE_MS, "job:now": 3 * MINUTE_MS}
    driver.advance(10 * MINUTE_MS)
    driver.fire()
    start(driver, "later", flow=flow)
    assert timers(driver) == {}


def test_a_throttle_that_is_far_ahead_by_its_work_stays_so(driver: Driver) -> None:
    flow = FlowConfig(throttle=ThrottleConfig(1, DAY_MS, 1))
    for n in range(6):
        start(driver, f"run{n}", flow=flow)
    assert max(timers(driver).values()) == 5 * DAY_MS


def test_a_debounce_fires_one_period_after_the_next_event(driver: Driver) -> None:
    flow = FlowConfig(debounce=DebounceConfig(MINUTE_MS, 2 * MINUTE_MS))
    with ahead(driver):
        start(driver, "then", flow=flow, ts=START_MS + JUMP_MS)
    assert start(driver, "now", flow=flow, ts=START_MS + 1) is ScriptStatus.DONE
    assert timers(driver) == {"job:now": MINUTE_MS}


def test_an_event_that_claims_to_be_of_a_later_day_outdoes_others_for_a_minute_only(driver: Driver) -> None:
    flow = FlowConfig(debounce=DebounceConfig(HOUR_MS))
    start(driver, "wrong", flow=flow, ts=START_MS + JUMP_MS)
    assert start(driver, "early", flow=flow, ts=START_MS + 1) is ScriptStatus.RESOLVED
    driver.advance(MINUTE_MS + 1)
    assert start(driver, "late", flow=flow, ts=driver.now_ms) is ScriptStatus.DONE


@BOTH_WAYS
def test_a_batch_starts_after_its_time(driver: Driver, mend: Mend) -> None:
    with ahead(driver):
        start(driver, flow=FlowConfig(batch=BatchConfig(10, MINUTE_MS)))
    mend(driver)
    assert list(timers(driver).values()) == [MINUTE_MS]


def test_an_idempotency_key_counts_for_one_period(driver: Driver) -> None:
    flow = FlowConfig(idempotency="event.data.order")
    start(driver, "first", flow=flow)
    (key,) = driver.client.keys(f"{driver.keys('IDEMPOTENCY')}*")
    driver.client.pexpire(key, JUMP_MS + DAY_MS)  # the server itself lets keys expire, so it noted a time then
    assert start(driver, "again", flow=flow) is ScriptStatus.RESOLVED
    assert driver.client.pttl(key) <= DAY_MS


def test_a_run_that_was_created_then_waits_for_a_slot_as_if_created_now(driver: Driver) -> None:
    flow = FlowConfig(concurrency=(ConcurrencyConfig(1),))
    with ahead(driver):
        start(driver, "holder", flow=flow)
        start(driver, "then", flow=flow)
    mended(driver)
    driver.advance(1_000)
    start(driver, "now", flow=flow)
    driver.finish(driver.claim_one())
    assert driver.claim_one().run_id == "then"


# -- leases, slots, workers ------------------------------------------------------


def test_the_job_of_a_worker_that_died_then_is_reclaimed_after_a_minute(driver: Driver) -> None:
    with ahead(driver):
        driver.started()
    assert driver.send(reclaim_leases(driver.partition)) == []
    for _ in range(MINUTE_MS // 5_000 + 1):
        driver.advance(5_000)
        driver.send(reclaim_leases(driver.partition))
    assert driver.queued("shop:steps") == ["run1"]


def test_a_worker_that_lives_keeps_its_lease(driver: Driver) -> None:
    with ahead(driver):
        lease = driver.started()
        driver.extend(lease)
    driver.send(reclaim_leases(driver.partition))
    assert driver.extend(lease) == []
    assert driver.client.zscore(driver.keys("LEASES"), "run1") == driver.now_ms + LEASE_MS
    assert driver.finish(lease) is ScriptStatus.DONE


def test_a_slot_that_nobody_holds_is_free_after_a_minute(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "check", lambda: None)  # no crash leaves such a slot
    flow = FlowConfig(concurrency=(ConcurrencyConfig(1),))
    with ahead(driver):
        start(driver, "gone", flow=flow)
    (slots,) = driver.client.keys(f"{driver.keys('CONCURRENCY_SLOTS')}*")
    driver.cancel("gone")
    driver.client.zadd(slots, {"gone": driver.now_ms + JUMP_MS + MINUTE_MS})
    start(driver, "next", flow=flow)
    assert driver.claim() == []
    driver.advance(MINUTE_MS + 1)
    start(driver, "last", flow=flow)
    assert driver.claim_one().run_id == "next"


def test_the_functions_of_a_worker_that_died_then_are_forgotten(driver: Driver) -> None:
    with ahead(driver):
        driver.send(register_code(driver.partition, ["shop/old"]))
    driver.send(register_code(driver.partition, ["shop/buy"]))
    driver.advance(91_000)
    driver.send(register_code(driver.partition, ["shop/buy"]))
    assert driver.send(read_code(driver.partition, driver.now_ms)) == [digest_of_code(["shop/buy"])]


def test_a_heartbeat_of_then_proves_no_live_worker() -> None:
    assert is_live(29_000)
    assert not is_live(JUMP_MS + 29_000)


def forgotten_at(driver: Driver) -> float:
    """When the only ended run is forgotten."""
    [(_, at)] = driver.client.zrange(driver.keys("EXPIRY"), 0, -1, withscores=True)
    return float(at)


def test_a_run_that_ended_then_is_kept_for_its_retention(driver: Driver) -> None:
    lease = driver.started()
    with ahead(driver):
        driver.finish(lease, RunStatus.FAILED)
    for kind in ("RUN", "RQ_JOB"):
        driver.client.pexpire(driver.keys(kind, "run1"), JUMP_MS + RETENTION_MS)  # as the server notes it then
    repaired(driver)
    assert driver.run().ended_at == driver.now_ms
    assert forgotten_at(driver) == driver.now_ms + RETENTION_MS
    assert {driver.client.pttl(driver.keys(kind, "run1")) <= RETENTION_MS for kind in ("RUN", "RQ_JOB")} == {True}


def test_a_run_that_was_created_then_keeps_its_id_no_longer_than_it_should(driver: Driver) -> None:
    with ahead(driver):
        driver.start(dedupe=True)
    driver.finish(driver.claim_one())
    assert forgotten_at(driver) == driver.now_ms + DAY_MS


# -- events ------------------------------------------------------------------------


def route(driver: Driver, event_id: str) -> None:
    text = dumps({"name": "paid", "id": event_id, "ts": 1, "data": {}})
    driver.store.broker.execute(add_event(driver.partition, text, event_id=event_id, dedupe=True))
    (event,) = driver.store.broker.execute(read_events(driver.partition, "w1"))
    driver.store.broker.execute(route_event(driver.partition, event, [], version=0))


def looked_back(driver: Driver) -> list[str]:
    """The ids of the events that a wait with a look-back of a minute finds."""
    lease = driver.started(f"run{driver.now_ms}")
    wait = dataclasses.replace(wait_for("paid"), lookback_ms=MINUTE_MS)
    begun = driver.send(begin_wait(driver.partition, wait, run_id=lease.run_id, fence=lease.fence))
    return [json.loads(text)["id"] for text in begun.early]


def test_a_look_back_finds_no_event_that_is_too_old(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))
    seconds, _ = driver.client.time()
    driver.now_ms = seconds * 1000 - JUMP_MS  # so the server's own clock is ahead
    route(driver, "then")
    route(driver, "then, too")
    assert looked_back(driver) == ["then", "then, too"]
    driver.advance(2 * MINUTE_MS)
    assert looked_back(driver) == []


def test_entries_that_a_worker_took_then_can_be_taken_over(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))
    for n in range(3):
        driver.client.xadd(driver.keys("EVENTS"), {"event": str(n)})
    driver.send(read_group(driver.keys, "EVENTS", "dead", limit=3, read=list))
    cursor, is_first, pages = "0-0", True, 0
    while is_first or cursor != "0-0":
        call = renew_pending(driver.keys, "EVENTS", "alive", cursor=cursor, limit=2)
        cursor, is_first, pages = driver.send(call), False, pages + 1
    pending = driver.client.xpending_range(driver.keys("EVENTS"), "stepflow", "-", "+", 10)
    assert [(entry["consumer"], entry["times_delivered"]) for entry in pending] == [("alive", 1)] * 3
    assert pages >= 2
