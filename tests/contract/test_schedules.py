"""Schedules that were created at run time: changed as they were read, and one run for each time."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.schedules import ScheduleConfig, ScheduleState, scheduled_run_id
from stepflow_broker.transitions.pauses import pause
from stepflow_broker.transitions.schedules import (
    ByHand,
    change_schedule,
    fire_schedule,
    read_schedule,
    read_schedule_states,
    read_schedules,
    schedules_version,
)
from stepflow_engine.cipher import NO_ENCRYPTION
from tests.support.driver import RETENTION_MS, Driver

CONFIG = FunctionConfig("shop", "report", "shop", retention_ms=RETENTION_MS)
SCHEDULE = ScheduleConfig("shop", "s", "shop/report", CronConfig("0 6 * * *"), data={"n": 1}).changed()
NAME, OPS = SCHEDULE.name, ByHand("ops", "create", "why")


def change(
    driver: Driver,
    before: ScheduleConfig | None,
    after: ScheduleConfig | None,
    *,
    state: Literal["now", ""] = "",
    by: ByHand = OPS,
) -> ScriptStatus:
    return driver.send(change_schedule(driver.partition, NAME, before=before, after=after, state=state, by=by))


def fire(
    driver: Driver,
    *times: int,
    schedule: ScheduleConfig = SCHEDULE,
    last_ms: int | None = None,
    by: ByHand | None = None,
) -> int:
    runs = [(scheduled_run_id(CONFIG, NAME, one), one) for one in times]
    starts = [(run, one, schedule.event(NO_ENCRYPTION, run, one)) for run, one in runs]
    until_ms = driver.now_ms
    call = fire_schedule(driver.partition, schedule, CONFIG, starts, last_ms=last_ms, until_ms=until_ms, by=by)
    return driver.send(call)


def stored(driver: Driver) -> ScheduleConfig | None:
    return driver.store.broker.execute(read_schedule(driver.partition, NAME))


def state(driver: Driver) -> ScheduleState:
    return driver.store.broker.execute(read_schedule_states(driver.partition, [NAME]))[0]


def audited(driver: Driver) -> list[tuple[str, str, str]]:
    entries = [fields for _, fields in driver.client.xrange(driver.keys("AUDIT"))]
    return [(one["action"], one["subject"], one["reason"]) for one in entries]


def test_a_schedule_is_created_once_and_read_as_it_was_written(driver: Driver) -> None:
    driver.twice = True
    assert change(driver, None, SCHEDULE, state="now") is ScriptStatus.DONE
    assert stored(driver) == SCHEDULE
    assert state(driver).until_ms == driver.now_ms
    assert driver.store.broker.execute(schedules_version(driver.partition)) == 1
    assert audited(driver) == [("create", "schedule shop/s", "why")]


def test_who_has_read_another_state_changes_nothing(driver: Driver) -> None:
    change(driver, None, SCHEDULE, state="now")
    newer, other = SCHEDULE.changed(paused_at=1), SCHEDULE.changed(paused_at=2)
    assert change(driver, SCHEDULE, newer) is ScriptStatus.DONE
    before = driver.snapshot()
    assert change(driver, SCHEDULE, other) is ScriptStatus.CHANGED
    assert change(driver, None, other) is ScriptStatus.CHANGED
    assert change(driver, SCHEDULE, None) is ScriptStatus.CHANGED
    assert driver.snapshot() == before


def test_a_deleted_schedule_leaves_nothing_and_starts_nothing(driver: Driver) -> None:
    change(driver, None, SCHEDULE, state="now", by=ByHand("", "create"))
    last_ms = state(driver).until_ms
    assert change(driver, SCHEDULE, None, by=ByHand("", "delete")) is ScriptStatus.DONE
    assert change(driver, SCHEDULE, None, by=ByHand("", "delete")) is ScriptStatus.ALREADY
    assert fire(driver, 1, last_ms=last_ms) == ScriptStatus.CHANGED
    assert driver.client.keys("*") == [driver.keys("SCHEDULES_VERSION")]


def test_the_first_worker_that_sends_the_due_times_starts_their_runs(driver: Driver) -> None:
    driver.twice = True
    change(driver, None, SCHEDULE, state="now")
    last_ms = state(driver).until_ms
    driver.advance(60_000)
    assert fire(driver, last_ms + 1, last_ms + 2, last_ms=last_ms) == 2
    assert fire(driver, last_ms + 3, last_ms=last_ms) == 0
    found = state(driver)
    assert (found.until_ms, found.last_ms) == (driver.now_ms, last_ms + 2)
    assert found.last_run == scheduled_run_id(CONFIG, NAME, last_ms + 2)
    assert driver.run(found.last_run).event["data"] == {"n": 1}
    assert driver.run(found.last_run).event["ts"] == last_ms + 2


def test_a_worker_that_does_not_know_of_a_pause_starts_nothing(driver: Driver) -> None:
    change(driver, None, SCHEDULE, state="now")
    change(driver, SCHEDULE, SCHEDULE.changed(paused_at=driver.now_ms))
    assert fire(driver, 1, last_ms=driver.now_ms) == ScriptStatus.CHANGED
    assert not driver.claim()


def test_a_paused_function_is_started_by_hand_only(driver: Driver) -> None:
    change(driver, None, SCHEDULE, state="now", by=ByHand("", ""))
    last_ms = state(driver).until_ms
    driver.send(pause(driver.partition, "function", "shop/report", reason=""))
    assert fire(driver, 1, last_ms=last_ms) == 0
    assert state(driver).until_ms == last_ms  # its times are missed, and catch_up decides about them
    by = ByHand("ops", "trigger", "now", {"times": 1})
    assert fire(driver, 2, by=by) == 1
    assert fire(driver, 2, by=by) == 0
    assert state(driver).until_ms == last_ms
    assert audited(driver) == [("trigger", "schedule shop/s", "now")]


def test_resuming_skips_the_times_of_the_pause_and_keeps_the_last_run(driver: Driver) -> None:
    change(driver, None, SCHEDULE, state="now")
    fire(driver, 5, last_ms=driver.now_ms)
    driver.advance(60_000)
    paused = SCHEDULE.changed(paused_at=1)
    change(driver, SCHEDULE, paused)
    assert state(driver).until_ms == driver.now_ms - 60_000
    change(driver, paused, paused.changed(paused_at=0), state="now")
    assert (state(driver).until_ms, state(driver).last_ms) == (driver.now_ms, 5)


@pytest.mark.parametrize(
    "text", ["", "x", "r {}", "r []", 'r {"app":1,"id":"s","function":"f","cron":{"schedule":""}}']
)
def test_what_is_not_a_schedule_is_left_out(driver: Driver, text: str) -> None:
    change(driver, None, SCHEDULE, state="now")
    driver.client.hset(driver.keys("SCHEDULES"), "other", text)
    assert driver.store.broker.execute(read_schedules(driver.partition)) == [SCHEDULE]


def test_fields_of_a_newer_version_are_ignored() -> None:
    text = SCHEDULE.to_text().replace(b'{"app"', b'{"later":[1],"app"').replace(b'{"schedule"', b'{"more":2,"schedule"')
    assert ScheduleConfig.from_text(text) == SCHEDULE
    assert dataclasses.replace(SCHEDULE, data=None) == ScheduleConfig.from_text(
        dataclasses.replace(SCHEDULE, data=None).to_text()
    )
