"""Runs that a client starts for a later time pass the flow control of their function when they are due."""

from __future__ import annotations

import dataclasses

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_broker.registry.flow_control import (
    BatchConfig,
    ConcurrencyConfig,
    DebounceConfig,
    FlowConfig,
    RateConfig,
    SingletonConfig,
    ThrottleConfig,
)
from stepflow_broker.registry.function_config import DEDUPE_MS, FunctionConfig
from stepflow_broker.registry.tags import TagConfig
from stepflow_broker.transitions.jobs.timers import mend_times
from stepflow_broker.transitions.runs.run_starts import runs_of_callers, start_run, start_runs, start_runs_later
from stepflow_engine.codec import dumps
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, Driver

HOUR_MS = 3_600_000
PLAIN = FunctionConfig("shop", "buy", "shop", retention_ms=RETENTION_MS)


def text(run: str, ts: int = 1) -> bytes:
    return dumps({"name": "e", "id": run, "ts": ts, "data": {"n": 1}})


def with_flow(**parts: object) -> FunctionConfig:
    return dataclasses.replace(PLAIN, flow=FlowConfig(**parts))  # type: ignore[arg-type]


def start_later(
    driver: Driver,
    *runs: str,
    config: FunctionConfig = PLAIN,
    due_ms: int = 0,
    delay_ms: int = HOUR_MS,
    dedupe_ms: int = 0,
) -> list[ScriptStatus]:
    at_ms = due_ms or driver.now_ms + delay_ms
    return driver.send(
        start_runs_later(
            driver.partition,
            config,
            [(run, text(run, at_ms)) for run in runs],
            due_ms=due_ms,
            delay_ms=0 if due_ms else delay_ms,
            dedupe_ms=dedupe_ms,
        )
    )


def start_now(driver: Driver, run: str, config: FunctionConfig) -> ScriptStatus:
    event = text(run, driver.now_ms)
    return driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


def pass_time(driver: Driver, milliseconds: int = HOUR_MS) -> None:
    driver.advance(milliseconds)
    driver.fire()


def state(driver: Driver, run: str) -> tuple[str, str, str]:
    record = driver.run(run)
    return record.status.value, record.continuation, record.reason


@pytest.mark.parametrize("is_fixed", [False, True])
def test_a_run_waits_until_it_is_due_and_is_then_queued_once(driver: Driver, is_fixed: bool) -> None:
    driver.twice = True
    due_ms = driver.now_ms + HOUR_MS
    assert start_later(driver, "run1", "run2", due_ms=due_ms if is_fixed else 0) == [ScriptStatus.DONE] * 2
    record = driver.run("run1")
    assert (record.status, record.continuation, record.due_at) == (RunStatus.WAITING, "delayed", due_ms)
    pass_time(driver, HOUR_MS - 1)
    assert not driver.claim()
    pass_time(driver, 1)
    assert {lease.run_id for lease in driver.claim() or ()} == {"run1", "run2"}
    assert driver.run("run1").created_at == due_ms - HOUR_MS


def test_a_time_that_is_over_starts_the_run_now(driver: Driver) -> None:
    assert start_later(driver, "run1", due_ms=1) == [ScriptStatus.DONE]
    assert driver.claim_one().run_id == "run1"


def test_the_same_id_starts_one_run_whatever_time_the_second_call_names(driver: Driver) -> None:
    assert start_later(driver, "run1", dedupe_ms=1_000) == [ScriptStatus.DONE]
    before = driver.snapshot()
    assert start_later(driver, "run1", delay_ms=1) == [ScriptStatus.ALREADY]
    assert start_now(driver, "run1", PLAIN) is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_cancelled_run_is_not_started_when_it_is_due(driver: Driver) -> None:
    start_later(driver, "run1")
    assert driver.cancel("run1") is ScriptStatus.DONE
    pass_time(driver)
    assert not driver.claim()
    assert driver.client.zcard(driver.keys("TIMEOUTS")) == 0


def test_a_delayed_start_counts_for_a_rate_limit_when_it_is_due(driver: Driver) -> None:
    config = with_flow(rate_limit=RateConfig(1, HOUR_MS))
    start_later(driver, "run1", "run2", config=config)
    assert start_now(driver, "now", config) is ScriptStatus.DONE
    pass_time(driver, HOUR_MS)
    ended = sorted(state(driver, run) for run in ("run1", "run2"))
    assert ended == [("queued", "queued", ""), ("skipped", "", "rate limited")]


def test_a_delayed_start_is_skipped_by_a_singleton_that_is_live_when_it_is_due(driver: Driver) -> None:
    config = with_flow(singleton=SingletonConfig("skip"))
    start_later(driver, "run1", config=config)
    assert start_now(driver, "now", config) is ScriptStatus.DONE
    pass_time(driver)
    assert state(driver, "run1") == ("skipped", "", "singleton")


def test_the_caller_of_a_start_is_attached_to_the_live_run_whatever_it_repeats(driver: Driver) -> None:
    config = with_flow(singleton=SingletonConfig("attach"))
    assert start_now(driver, "live", config) is ScriptStatus.DONE
    [lease] = driver.claim() or []

    def callers(*runs: str, due_ms: int = 0) -> list[str]:
        words = [(run, text(run)) for run in runs]
        call = (
            start_runs_later(driver.partition, config, words, due_ms=due_ms, delay_ms=0, dedupe_ms=DEDUPE_MS)
            if due_ms
            else start_runs(driver.partition, config, words)
        )
        return driver.send(runs_of_callers(call, runs))

    assert callers("run1", "live", "run2") == ["live", "live", "live"]
    assert callers("run3", due_ms=1) == ["live"]
    assert start_now(driver, "run4", config) is ScriptStatus.RESOLVED
    assert state(driver, "run1") == ("skipped", "", "attached to live")
    driver.finish(lease)
    assert callers("run1", "run3", "new") == ["live", "live", "new"]


def test_a_delayed_start_that_is_due_while_a_run_is_live_is_skipped_and_names_it(driver: Driver) -> None:
    config = with_flow(singleton=SingletonConfig("attach"))
    start_later(driver, "run1", config=config, dedupe_ms=DEDUPE_MS)
    assert start_now(driver, "live", config) is ScriptStatus.DONE
    pass_time(driver)
    assert state(driver, "run1") == ("skipped", "", "attached to live")
    call = start_runs_later(
        driver.partition, config, [("run1", text("run1"))], due_ms=0, delay_ms=HOUR_MS, dedupe_ms=DEDUPE_MS
    )
    assert driver.send(runs_of_callers(call, ["run1"])) == ["live"]


def test_a_delayed_start_takes_the_place_of_a_singleton_when_it_is_due(driver: Driver) -> None:
    config = with_flow(singleton=SingletonConfig("cancel"))
    start_later(driver, "run1", config=config)
    start_now(driver, "now", config)
    pass_time(driver)
    assert state(driver, "now")[0] == "cancelled"
    assert state(driver, "run1")[:2] == ("queued", "queued")


def test_a_debounce_keeps_the_latest_of_delayed_starts_and_others(driver: Driver) -> None:
    config = with_flow(debounce=DebounceConfig(60_000))
    start_later(driver, "run1", config=config)
    driver.advance(HOUR_MS - 1_000)
    start_now(driver, "now", config)
    pass_time(driver, 1_000)
    assert state(driver, "now") == ("skipped", "", "debounced")
    assert state(driver, "run1")[:2] == ("waiting", "delayed")
    pass_time(driver, 60_000)
    assert driver.claim_one().run_id == "run1"


def test_throttled_starts_that_are_due_together_follow_one_another(driver: Driver) -> None:
    config = with_flow(throttle=ThrottleConfig(1, 60_000))
    start_later(driver, "run1", "run2", config=config)
    pass_time(driver)
    assert sorted(state(driver, run)[1] for run in ("run1", "run2")) == ["delayed", "queued"]
    pass_time(driver, 60_000)
    assert len(driver.claim() or ()) == 2


def test_delayed_starts_join_their_batch_when_they_are_due(driver: Driver) -> None:
    config = with_flow(batch=BatchConfig(2, 60_000))
    start_later(driver, "run1", "run2", config=config)
    driver.advance(1)
    start_later(driver, "run3", config=config)
    pass_time(driver, HOUR_MS - 1)
    assert [state(driver, run)[1] for run in ("run1", "run2", "run3")] == ["batched", "batched", "delayed"]
    batch = driver.claim_one()
    assert batch.run_id == driver.run("run1").batch
    pass_time(driver, 1)
    assert state(driver, "run3")[:2] == ("waiting", "batched")


def test_a_delayed_start_waits_for_a_slot_when_it_is_due(driver: Driver) -> None:
    config = with_flow(concurrency=(ConcurrencyConfig(1),))
    start_now(driver, "now", config)
    driver.claim_one()
    start_later(driver, "run1", config=config, delay_ms=1_000)
    pass_time(driver, 1_000)
    assert state(driver, "run1")[:2] == ("queued", "waitlisted")


def test_an_idempotency_key_refuses_the_second_of_two_delayed_starts(driver: Driver) -> None:
    config = with_flow(idempotency="event.data.n")
    start_later(driver, "run1", "run2", config=config, delay_ms=1_000)
    pass_time(driver, 1_000)
    assert sorted(state(driver, run) for run in ("run1", "run2"))[1] == ("skipped", "", "duplicate")


def test_the_bound_of_the_start_counts_from_the_due_time(driver: Driver) -> None:
    cancellation = CancellationConfig((), start_ms=60_000, finish_ms=0)
    start_later(driver, "run1", config=dataclasses.replace(PLAIN, cancellation=cancellation))
    pass_time(driver)
    assert state(driver, "run1")[0] == "queued"
    pass_time(driver, 60_001)
    assert state(driver, "run1")[0] == "cancelled"


def test_a_delayed_run_has_its_tags_and_its_cancelling_events_from_the_call_on(driver: Driver) -> None:
    cancellation = CancellationConfig((CancelConfig("order/cancelled"),), start_ms=0, finish_ms=0)
    config = dataclasses.replace(PLAIN, cancellation=cancellation, tags=(TagConfig("n", "event.data.n"),))
    start_later(driver, "run1", config=config)
    assert driver.run("run1").tags == {"n": "1"}
    assert driver.client.keys(driver.keys("WAITS") + "*")
    driver.cancel("run1")
    assert not driver.client.keys(driver.keys("WAITS") + "*")


def test_a_time_that_the_client_has_named_does_not_move_with_a_clock_that_was_ahead(driver: Driver) -> None:
    due_ms = driver.now_ms + 2 * HOUR_MS
    driver.advance(HOUR_MS)  # the clock of the server is ahead by an hour
    start_later(driver, "fixed", due_ms=due_ms)
    start_later(driver, "counted", delay_ms=HOUR_MS)
    driver.advance(-HOUR_MS)
    driver.send(mend_times(driver.partition, cursor=0))
    assert driver.run("fixed").due_at == due_ms
    assert driver.run("counted").due_at == driver.now_ms + HOUR_MS
