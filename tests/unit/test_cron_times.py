"""The times of schedules with jitter, windows, intervals and bounds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from stepflow import ConfigurationError, CronTrigger, Stepflow
from stepflow.options.cron_times import due_times, next_start, start_of, upcoming
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.function_config import FunctionConfig

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def shown(times: list[int], zone: str = "UTC") -> list[str]:
    return [f"{datetime.fromtimestamp(one / 1000, ZoneInfo(zone)):%d %H:%M}" for one in times]


def due(cron: CronConfig, after: str, now: str) -> list[str]:
    return shown(due_times(replace(cron, catch_up="all"), after_ms=ms(after), now_ms=ms(now)), cron.zone)


NIGHT = CronConfig("0 */4 * * *", "Europe/Rome", "all", window="22:00-06:00")


def test_times_outside_of_the_window_move_to_its_beginning_and_are_one_there() -> None:
    found = due(NIGHT, "2026-01-10T12:00:00+01:00", "2026-01-12T05:00:00+01:00")
    assert found == ["10 22:00", "11 00:00", "11 04:00", "11 22:00", "12 00:00", "12 04:00"]


def test_a_time_that_will_move_is_not_due_before_the_window_begins() -> None:
    noon = CronConfig("0 12 * * *", window="22:00-06:00")
    assert due(noon, "2026-01-10T00:00:00Z", "2026-01-10T21:59:59Z") == []
    assert due(noon, "2026-01-10T00:00:00Z", "2026-01-10T22:00:00Z") == ["10 22:00"]


def test_a_window_within_a_day_ends_before_its_end() -> None:
    office = CronConfig("0 * * * *", window="09:00-12:00")
    assert due(office, "2026-01-10T00:00:00Z", "2026-01-10T23:59:00Z") == ["10 09:00", "10 10:00", "10 11:00"]


@pytest.mark.parametrize("window", ["", "22:00-06:00", "01:30-03:30", "02:30-02:45"])
@pytest.mark.parametrize("jitter_ms", [0, 20 * MINUTE_MS])
@pytest.mark.parametrize("times", ["30 * * * *", "*/20 * * * *", "30 2 * * *", "0 12 * * 1", "every"])
@pytest.mark.parametrize("start", ["2026-03-27T11:07:00Z", "2026-10-23T11:07:00Z"])  # before clock changes
def test_the_times_that_are_announced_are_those_that_are_due_however_often_one_looks(
    window: str, jitter_ms: int, times: str, start: str
) -> None:
    cron = CronConfig(times, "Europe/Rome", "all", jitter_ms=jitter_ms, window=window)
    if times == "every":
        cron = replace(cron, schedule="", every_ms=47 * MINUTE_MS, anchor_ms=ms("2026-01-01T00:00:00Z"))
    since, until = ms(start), ms(start) + 5 * DAY_MS
    whole = due_times(cron, after_ms=since, now_ms=until, name="n")
    looks = [*range(since, until, 3 * HOUR_MS + 7_000), until]
    parts = [one for a, b in itertools.pairwise(looks) for one in due_times(cron, after_ms=a, now_ms=b, name="n")]
    announced = list(itertools.takewhile(lambda one: one[0] <= until, upcoming(cron, after_ms=since, name="n")))
    assert whole == parts == [time_ms for _, time_ms in announced]
    assert len(set(whole)) == len(whole)
    assert all(start_ms == start_of(cron, time_ms, "n") for start_ms, time_ms in announced)


def test_the_jitter_of_a_time_is_the_same_everywhere_and_differs_between_times_and_schedules() -> None:
    cron = CronConfig("0 * * * *", "UTC", "all", jitter_ms=10 * MINUTE_MS)
    times = [ms("2026-01-01T00:00:00Z") + n * HOUR_MS for n in range(100)]
    late = [start_of(cron, one, "shop/a") - one for one in times]
    assert late == [start_of(cron, one, "shop/a") - one for one in times]
    assert all(0 <= one <= 10 * MINUTE_MS for one in late)
    assert len(set(late)) > 90
    assert late != [start_of(cron, one, "shop/b") - one for one in times]


def test_the_jitter_does_not_leave_the_window() -> None:
    cron = CronConfig("50 * * * *", "UTC", "all", jitter_ms=HOUR_MS, window="22:00-23:00")
    starts = [start_ms for start_ms, _ in itertools.islice(upcoming(cron, after_ms=ms("2026-01-01T00:00:00Z")), 50)]
    assert {datetime.fromtimestamp(one / 1000, UTC).hour for one in starts} == {22}


def test_no_time_with_jitter_is_lost_by_latest_while_workers_look_in_time() -> None:
    cron = CronConfig("* * * * *", "UTC", "latest", jitter_ms=5 * MINUTE_MS)
    start = ms("2026-01-01T00:00:00Z")
    looks = range(start, start + HOUR_MS, 20_000)  # several runs start between two looks
    found = [one for a, b in itertools.pairwise(looks) for one in due_times(cron, after_ms=a, now_ms=b)]
    assert found == due_times(replace(cron, catch_up="all"), after_ms=looks[0], now_ms=looks[-1])


def test_an_interval_counts_from_its_first_time_and_ends_with_the_schedule() -> None:
    first = ms("2026-01-01T00:07:00Z")
    cron = CronConfig("", every_ms=15 * MINUTE_MS, anchor_ms=first, start_ms=first, end_ms=first + HOUR_MS)
    expected = ["01 00:07", "01 00:22", "01 00:37", "01 00:52", "01 01:07"]
    assert shown([time_ms for _, time_ms in upcoming(cron, after_ms=0)]) == expected
    assert due(cron, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z") == expected
    assert next_start(cron, after_ms=first + HOUR_MS) is None


# -- in code ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": "25h"}, "jitter must be at most 1d, got '25h'"),
        ({"jitter": "soon"}, "jitter must be a duration, got 'soon'"),
        ({"window": "22-6"}, "window must be two times of day, as \"22:00-06:00\", got '22-6'"),
        ({"window": "24:00-06:00"}, "window must be two times of day"),
        ({"window": 22}, "window must be two times of day"),
        ({"window": "06:00-06:00"}, "no time is in it"),
        ({"data": object()}, "data: event data must be JSON"),
    ],
)
def test_a_wrong_option_of_a_schedule_is_refused_where_it_is_written(options: dict[str, object], message: str) -> None:
    app = Stepflow("shop")
    with pytest.raises(ConfigurationError) as refused:
        app.function("f", triggers=[CronTrigger("0 6 * * *", **options)])  # type: ignore[arg-type]
    assert message in str(refused.value)


def test_schedules_with_the_same_times_are_told_apart_and_their_data_is_not_registered() -> None:
    app = Stepflow("shop")

    @app.function("f", triggers=[CronTrigger("0 6 * * *", data={"region": one}) for one in ("eu", "us")])
    def report(ctx: object) -> None: ...

    crons = report.config.crons
    assert [cron.data for cron in crons] == [b'{"region":"eu"}', b'{"region":"us"}']
    assert [cron.name_of("shop/f") for cron in crons] == ["shop/f\nUTC\n0 6 * * *", "shop/f\nUTC\n0 6 * * *\n1"]
    stored = report.config.to_json()
    assert b"region" not in stored
    assert [cron.number for cron in FunctionConfig.from_json(stored).crons] == [0, 1]
