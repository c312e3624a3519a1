"""The clock of a partition, of an app and of a worker."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from stepflow import Event, FilterError, Stepflow, StepUsageError
from stepflow.client.commands import event_commands, later_time
from stepflow.client.find import run_query
from stepflow.functions.requests import until_request
from stepflow_broker.protocol.clock import REAL_CLOCK, server_time_ms
from stepflow_engine.codec import loads
from stepflow_engine.errors import EventError
from tests.support.plain import SetClock

DAY_MS = 86_400_000
URL = "redis://127.0.0.1:1/0"


def test_the_real_clock_leaves_the_time_of_scripts_to_the_server() -> None:
    before = time.time_ns() // 1_000_000
    assert REAL_CLOCK.script_ms() == 0
    assert before <= REAL_CLOCK.now_ms() <= time.time_ns() // 1_000_000
    assert server_time_ms(REAL_CLOCK).read([b"12", b"3456"]) == 12_003


def test_a_clock_that_is_set_is_the_time_of_the_server_too() -> None:
    assert server_time_ms(SetClock(lambda: 17)).read([b"12", b"3456"]) == 17


def test_an_app_that_is_moved_uses_another_server_and_its_clock_until_the_block_ends() -> None:
    app, clock = Stepflow("shop", redis_url=URL), SetClock(lambda: DAY_MS)
    assert app.backend.partition.clock is REAL_CLOCK
    with app.backend.moved("redis://127.0.0.1:2/3?partitions=4", clock):
        assert app.backend.url == "redis://127.0.0.1:2/3?partitions=4"
        assert [one.clock for one in app.backend.partition.all] == [clock] * 4
    assert (app.backend.url, app.backend.partition.clock, len(app.backend.partition.all)) == (URL, REAL_CLOCK, 1)


def test_events_later_times_and_ages_are_of_the_clock_of_the_app() -> None:
    app, clock = Stepflow("shop", redis_url=URL), SetClock(lambda: DAY_MS)
    with app.backend.moved(URL, clock):
        _, (call,) = event_commands(app.backend, [Event("shop/paid")], limits=app.limits)
        event: Any = next(loads(arg) for arg in call.args if isinstance(arg, bytes) and arg.startswith(b"{"))
        assert event["ts"] == DAY_MS
    assert later_time("start", None, 3600, clock=clock) is not None
    with pytest.raises(EventError, match="at must be at most 366 days ahead"):
        later_time("start", None, datetime(1972, 1, 1, tzinfo=UTC), clock=clock)
    assert run_query("shop", since="1h", clock=clock).since_ms == DAY_MS - 3_600_000
    with pytest.raises(FilterError):
        run_query("shop", since="an hour", clock=clock)


def test_a_sleep_until_a_time_is_limited_by_the_time_of_the_run() -> None:
    later_s = (400 + 366) * 86_400
    assert until_request(later_s, now_ms=400 * DAY_MS).until_ms == later_s * 1000
    with pytest.raises(StepUsageError, match="at most 366 days ahead"):
        until_request(later_s + 1, now_ms=400 * DAY_MS)
