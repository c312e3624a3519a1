"""Triggers: events with conditions, and times; and what is refused."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from stepflow import ConfigurationError, CronTrigger, EventTrigger, Stepflow
from stepflow.options.cron_times import due_times
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.function_config import EventConfig, FunctionConfig, starts
from stepflow_engine.codec import dumps, loads
from stepflow_engine.expression import expression

ROME, NEW_YORK = ZoneInfo("Europe/Rome"), ZoneInfo("America/New_York")


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def due(cron: CronConfig, after: datetime, now: datetime) -> list[str]:
    """The times that are due, as local text."""
    zone = ZoneInfo(cron.zone)
    found = due_times(cron, after_ms=ms(after), now_ms=ms(now))
    return [datetime.fromtimestamp(time_ms / 1000, zone).strftime("%d %H:%M%z") for time_ms in found]


def config(**settings: object) -> FunctionConfig:
    """The config of a function that is declared with these settings."""
    app = Stepflow("shop")

    @app.function("f", **settings)  # type: ignore[arg-type]
    async def f(ctx: object) -> None: ...

    return app.functions["f"].config


def event(name: str, **data: object) -> dict[str, object]:
    return {"name": name, "id": "e", "ts": 1, "data": data}


def test_triggers_of_all_kinds_make_one_function() -> None:
    found = config(
        event="a",
        if_="event.data.n > 1",
        cron="0 9 * * *",
        triggers=["b.*", EventTrigger("c"), CronTrigger("TZ=Europe/Rome 5 4 * * 1", "all")],
    )
    assert found.events == (EventConfig("a", "event.data.n > 1"), EventConfig("b.*"), EventConfig("c"))
    assert found.crons == (CronConfig("0 9 * * *"), CronConfig("5 4 * * 1", "Europe/Rome", "all"))
    assert FunctionConfig.from_json(found.to_json()) == found
    newer = loads(found.to_json())
    newer["new"], newer["events"][0]["new"], newer["crons"][0]["new"] = 1, 2, 3
    assert FunctionConfig.from_json(dumps(newer)) == found
    assert found.triggers == ("a if event.data.n > 1", "b.*", "c", "0 9 * * * UTC", "5 4 * * 1 Europe/Rome")


@pytest.mark.parametrize(
    ("settings", "name", "data", "started"),
    [
        ({"event": "shop/order.*"}, "shop/order.placed", {}, True),
        ({"event": "shop/order.*"}, "shop/order", {}, False),
        ({"event": "*"}, "anything", {}, True),
        ({"event": "a"}, "ab", {}, False),
        ({"event": "a", "if_": "event.data.n > 1"}, "a", {"n": 2}, True),
        ({"event": "a", "if_": "event.data.n > 1"}, "a", {"n": 1}, False),
        ({"event": "a", "if_": "event.data.n > 1"}, "a", {}, False),
        ({"event": "a", "if_": "event.data.n > 1"}, "a", {"n": "2"}, False),
        ({"event": "a", "if_": "event.data.n"}, "a", {"n": 2}, False),
        ({"event": "a", "if_": "event.data.tags.exists(t, t == 'x')"}, "a", {"tags": ["y", "x"]}, True),
        ({"event": "a", "if_": "has(event.data.user) && event.data.user.age >= 18"}, "a", {"user": {"age": 18}}, True),
    ],
)
def test_an_event_starts_a_function_when_its_name_fits_and_its_condition_holds(
    settings: dict[str, object], name: str, data: dict[str, object], *, started: bool
) -> None:
    assert starts(config(**settings), event(name, **data)) is started


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"event": ""}, "event must be non-empty text"),
        ({"event": "a.*.b"}, "at its end only"),
        ({"event": "a", "if_": "event.data >"}, "is not CEL"),
        ({"event": "a", "if_": ""}, "expression must be non-empty text"),
        ({"event": "a", "if_": "true || " * 1000 + "true"}, "at most 4,096 bytes"),
        ({"if_": "true"}, "if_: needs event="),
        ({"cron": "* * * *"}, "it does not have five fields"),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"cron": "TZ=Mars/Base 0 9 * * *"}, "time zone must exist, got 'Mars/Base'"),
        ({"cron": "TZ=../etc/passwd 0 9 * * *"}, "time zone must exist"),
        ({"triggers": [CronTrigger("0 9 * * *", "never")]}, "catch_up must be"),  # type: ignore[arg-type]
        ({"triggers": [7]}, "triggers must be"),
        ({"triggers": ["a"] * 11}, "at most 10"),
    ],
)
def test_a_bad_trigger_is_refused_where_it_is_written(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match="function 'f'") as refused:
        config(**settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "event.data.a.all(x, event.data.b.exists(y, x == y))",
        "event.data.a.map(x, [x].filter(y, y > 1))",
        "event.data.a.exists_one(x, has(x.b) && x.b . map // why not\n (y, y) == [1])",
        """event.data.a.filter(x, '.all(' == "\\"" || [[x].all(y, y)][0])""",
        "event.data.a.all(x, r'\\' == '\\\\' || [x].all(y, y))",
        "event.data.a.all(x, '''it's''' == '' || [x].existsOne(y, y))",
    ],
)
def test_a_macro_in_a_macro_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="inside another macro"):
        expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "event.data.a.filter(x, x > 1).all(x, x > 2)",
        "event.data.a.all(x, x > 1) && event.data.a.exists(x, x > 2)",
        "event.data.a.all(x, x != '.all(y, y)')",
        'event.data.a.all(x, x != "\\".all(y, y)")',
        "event.data.a.all(x, x > 1 // .all(y, y)\n)",
        "event.data.a.all(x, x.all > 1 && has(x.map) && (x.exists || true))",
        "(event.data.a.map(x, x) + [event.data.b.map(x, x)]).size() > 1",
    ],
)
def test_macros_beside_one_another_and_words_like_them_are_not(text: str) -> None:
    assert expression(text).text == text


def test_an_expression_cannot_reach_anything_but_its_variables() -> None:
    for text in ("__import__('os')", "event.__class__", "open('/etc/passwd')", "event.data.constructor()"):
        with pytest.raises(ConfigurationError):
            expression(text)
    assert expression("event.data.__class__").value(event=event("a")) is None


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("skip", ["29 10:00+0200"]),
        ("latest", ["29 10:00+0200"]),
        ("all", ["29 08:00+0200", "29 09:00+0200", "29 10:00+0200"]),
    ],
)
def test_after_an_outage_of_two_hours_the_policy_says_what_is_started(policy: str, expected: list[str]) -> None:
    cron = CronConfig("0 * * * *", "Europe/Rome", policy)
    after, now = datetime(2026, 3, 29, 7, 30, tzinfo=ROME), datetime(2026, 3, 29, 10, 0, 20, tzinfo=ROME)
    assert due(cron, after, now) == expected
    late = now + timedelta(minutes=10)
    assert due(cron, after, late) == ([] if policy == "skip" else expected)


@pytest.mark.parametrize("policy", ["skip", "latest", "all"])
def test_an_outage_over_a_change_of_clocks_loses_and_doubles_nothing(policy: str) -> None:
    """02:30 is left out in spring and comes twice in autumn, on other days in Rome than in New York."""
    daily = CronConfig("30 2 * * *", "Europe/Rome", policy)
    spring = datetime(2026, 3, 29, 1, 30, tzinfo=ROME), datetime(2026, 3, 29, 4, 0, tzinfo=ROME)
    assert due(daily, *spring) == ([] if policy == "skip" else ["29 03:00+0200"])
    autumn = datetime(2026, 10, 25, 1, 30, tzinfo=ROME), datetime(2026, 10, 25, 3, 30, tzinfo=ROME)
    assert due(daily, *autumn) == ([] if policy == "skip" else ["25 02:30+0200"])
    west = CronConfig("30 2 * * *", "America/New_York", policy)
    spring = datetime(2026, 3, 8, 1, 30, tzinfo=NEW_YORK), datetime(2026, 3, 8, 4, 0, tzinfo=NEW_YORK)
    assert due(west, *spring) == ([] if policy == "skip" else ["08 03:00-0400"])
    autumn = datetime(2026, 11, 1, 1, 30, tzinfo=NEW_YORK), datetime(2026, 11, 1, 4, 0, tzinfo=NEW_YORK)
    assert due(west, *autumn) == ([] if policy == "skip" else ["01 02:30-0500"])


def test_every_half_hour_is_every_half_hour_over_a_change_of_clocks() -> None:
    cron = CronConfig("*/30 * * * *", "Europe/Rome", "all")
    after = datetime(2026, 10, 25, 1, 45, tzinfo=ROME)
    expected = ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "25 03:00+0100"]
    assert due(cron, after, after.astimezone(UTC) + timedelta(hours=2, minutes=15)) == expected


def test_of_very_many_missed_times_the_latest_thousand_are_started() -> None:
    cron = CronConfig("* * * * *", "UTC", "all")
    now = datetime(2026, 1, 2, tzinfo=UTC)
    found = due_times(cron, after_ms=ms(now - timedelta(days=1)), now_ms=ms(now))
    assert len(found) == 1_000
    assert found[-1] == ms(now)
    assert found == sorted(found)


def test_looked_at_often_each_time_is_due_once() -> None:
    cron, now = CronConfig("*/5 * * * *", "UTC", "skip"), datetime(2026, 1, 1, 11, 59, 58, tzinfo=UTC)
    found, last = [], now
    for second in range(1, 1_000):
        look = now + timedelta(seconds=second)
        found += due_times(cron, after_ms=ms(last), now_ms=ms(look))
        last = look
    assert found == [ms(datetime(2026, 1, 1, 12, minute, tzinfo=UTC)) for minute in (0, 5, 10, 15)]


@pytest.mark.parametrize("zone", ["Europe/Rome", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("schedule", ["* * * * *", "*/10 * * * *", "30 2 * * *", "15 1,2,3 * * *", "0 * * * *"])
@pytest.mark.parametrize(
    "day", [date(2026, 3, 8), date(2026, 3, 29), date(2026, 4, 5), date(2026, 10, 25), date(2026, 11, 1)]
)
def test_looking_every_minute_starts_what_looking_once_does(zone: str, schedule: str, day: date) -> None:
    """Also while the clocks change, and an hour is left out or comes twice."""
    cron = CronConfig(schedule, zone, "all")
    begin = ms(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)))
    looks = [begin + minute * 60_000 + 1_000 for minute in range(8 * 60)]
    found = [time for last, now in itertools.pairwise(looks) for time in due_times(cron, after_ms=last, now_ms=now)]
    assert found == due_times(cron, after_ms=looks[0], now_ms=looks[-1])
    assert found == sorted(set(found))
