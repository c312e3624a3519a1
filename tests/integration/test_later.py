"""Starts, events and schedules at later times, with real workers. The tests move times to the past."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepflow import (
    ConfigurationError,
    Context,
    CronTrigger,
    Encryption,
    Event,
    EventError,
    FunctionNotFoundError,
    RateLimit,
    RunCancelledError,
    RunStatus,
    ScheduleNotFoundError,
    Stepflow,
    SyncContext,
)
from tests.support.command_line import as_json, assert_refused, call
from tests.support.processes import until

pytestmark = pytest.mark.roles("producer", "operator")
HOUR_MS = 3_600_000


def hourly() -> str:
    """The fields of a schedule that is due once an hour, and not during a test."""
    return f"{(datetime.now(UTC).minute + 30) % 60} * * * *"


def pass_time(client: Any, milliseconds: int = 2 * HOUR_MS) -> None:
    """Make all timers and schedules as if that much time had passed."""
    for member, due in client.zrange("stepflow:timeouts", 0, -1, withscores=True):
        client.zadd("stepflow:timeouts", {member: due - milliseconds})
    for name, state in client.hgetall("stepflow:schedule-states").items():
        until_ms, *last = state.split()
        client.hset("stepflow:schedule-states", name, " ".join([str(int(until_ms) - milliseconds), *last]))


# -- starts ------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_a_delayed_start_is_seen_explained_and_executed_when_it_is_due(app: Stepflow, run_worker, client) -> None:
    @app.function("remind")
    async def remind(ctx: Context) -> list[object]:
        return [ctx.event.data, await ctx.step.run("tell", lambda: "told")]

    run_worker(app)
    run = app.start(remind, {"order": 17}, delay="1h", id="remind-17")
    others = app.start_many(remind, [1, 2], at=datetime.now(UTC) + timedelta(hours=1))
    info, reason = run.info(), run.explain()
    assert (info.status, reason.kind) == (RunStatus.WAITING, "delayed")
    assert info.starts_at is not None
    assert timedelta(minutes=59) < info.starts_at - datetime.now(UTC) <= timedelta(hours=1)
    assert reason.text.startswith("shop/remind starts at 20")
    assert {one.id for one in app.runs("remind", status="waiting")} == {run.id, *(one.id for one in others)}
    assert app.start(remind, {"order": 17}, delay="9h", id="remind-17").id == run.id
    pass_time(client)
    assert run.result(30) == [{"order": 17}, "told"]
    assert [one.result(30)[0] for one in others] == [1, 2]


def test_a_delayed_run_can_be_withdrawn_and_does_not_start(app: Stepflow, run_worker, client) -> None:
    @app.function("remind")
    def remind(ctx: SyncContext) -> None: ...

    async def withdraw() -> None:
        run = await app.astart(remind, delay=timedelta(hours=1))
        assert await run.acancel()
        with pytest.raises(RunCancelledError):
            await run.aresult(5)

    run_worker(app)
    asyncio.run(withdraw())
    assert client.zcard("stepflow:timeouts") == 0


def test_a_delayed_start_passes_the_flow_control_of_its_function_when_it_is_due(
    app: Stepflow, run_worker, client
) -> None:
    @app.function("limited", rate_limit=RateLimit(1, "12h"))
    async def limited(ctx: Context) -> str:
        return "done"

    run_worker(app)
    late = app.start(limited, delay="1h")
    assert app.start(limited).result(30) == "done"
    pass_time(client)
    until(lambda: late.status() is RunStatus.SKIPPED)
    assert late.info().reason == "rate limited"


IN_HALF_A_YEAR = f"0 0 1 {(datetime.now(UTC).month + 5) % 12 + 1} *"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": "367d"}, "start: delay must be at most 366d"),
        ({"delay": "soon"}, "start: delay must be a duration, got 'soon'"),
        ({"delay": -1}, "start: delay must not be negative"),
        ({"at": "2020-01-01T00:00:00"}, "start: at must have a time zone"),
        ({"at": "tomorrow"}, "start: at must be a time, got 'tomorrow'"),
        ({"at": "2999-01-01T00:00:00Z"}, "start: at must be at most 366 days ahead"),
        ({"at": True}, "start: at must be a time, got True"),
        ({"at": 1, "delay": 1}, "start: takes either delay or at, got both"),
    ],
)
def test_a_wrong_time_of_a_start_is_refused(app: Stepflow, client, options: dict[str, Any], message: str) -> None:
    @app.function("f")
    async def f(ctx: Context) -> None: ...

    with pytest.raises(EventError) as refused:
        app.start(f, **options)
    assert message in str(refused.value)
    assert client.keys("stepflow:run:*") == []


# -- events ------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_a_delayed_event_starts_functions_and_ends_waits_when_it_is_due_and_once(
    app: Stepflow, run_worker, client
) -> None:
    started: list[int] = []

    @app.function("on-trial", event="trial/ended")
    async def on_trial(ctx: Context) -> None:
        started.append(ctx.event.data["n"])

    @app.function("wait")
    async def wait(ctx: Context) -> object:
        events = Event("trial/ended", {"n": 3}, id="of-a-step", at=time.time() + 3_600)
        assert await ctx.step.send_event("send", events) == ["of-a-step"]
        event = await ctx.step.wait_for_event("ended", event="trial/ended", match={"data.n": 2}, timeout="3d")
        return event and event.data["n"]

    run_worker(app)
    run = app.start(wait)
    app.send("trial/ended", {"n": 1}, id="one", delay="1h")
    later = Event("trial/ended", {"n": 2}, id="two", at=time.time() + 3_600)
    app.send([later, Event("trial/ended", {"n": 0}, id="past", at=1)])
    until(lambda: started == [0] and len(app.delayed_events()) == 3, what="the events")
    listed = {event.id: (event.name, event.data) for event in app.delayed_events()}
    assert listed == {id: ("trial/ended", {"n": n}) for id, n in (("one", 1), ("two", 2), ("of-a-step", 3))}
    assert app.cancel_event("of-a-step", reason="not needed")
    assert not app.cancel_event("of-a-step")
    pass_time(client)
    assert run.result(30) == 2
    until(lambda: len(started) == 3 and not client.xlen("stepflow:events"))
    assert sorted(started) == [0, 1, 2]
    assert app.delayed_events() == []


def test_delayed_events_of_an_app_that_encrypts_are_sealed(url: str, client) -> None:
    app = Stepflow("shop", redis_url=url, encryption=Encryption([Encryption.generate_key()]))
    app.send("secret/event", {"pin": "47 11"}, id="e1", delay="1h")
    assert "47 11" not in str(client.hgetall("stepflow:delayed-event-texts"))
    assert [event.data for event in app.delayed_events()] == [{"pin": "47 11"}]
    assert [event.data for event in Stepflow("other", redis_url=url).delayed_events()] == ["encrypted"]


@pytest.mark.slow
def test_delayed_starts_on_the_command_line(app: Stepflow, run_worker, client, url: str) -> None:
    @app.function("remind")
    async def remind(ctx: Context) -> None: ...

    run_worker(app)
    until(lambda: client.hexists("stepflow:functions", "shop/remind"))
    started = as_json("start", "shop/remind", "--delay", "1h", "--redis-url", url)
    assert started["status"] == "waiting"
    (listed,) = as_json("runs", "list", "--status", "waiting", "--redis-url", url)
    assert (listed["run_id"], listed["blocked_by"]) == (started["run_id"], "delayed")
    assert listed["starts_at"] > listed["created_at"]
    assert "delayed until 20" in call("runs", "list", "--redis-url", url).stdout
    assert "starts in 59m" in call("runs", "show", started["run_id"], "--redis-url", url).stdout
    assert "starts at 20" in call("explain", started["run_id"], "--redis-url", url).stdout
    both = call("start", "shop/remind", "--delay", "1h", "--at", "2030-01-01T00:00:00Z", "--redis-url", url)
    assert_refused(both, 2, "takes either delay or at, got both")


@pytest.mark.slow
def test_delayed_events_on_the_command_line(url: str) -> None:
    sent = as_json("send", "trial/ended", "--id", "t4", "--delay", "1h", "--data", "4", "--redis-url", url)
    assert sent["event_id"] == "t4"
    (listed,) = as_json("events", "delayed", "--redis-url", url)
    assert (listed["id"], listed["event"], listed["data"]) == ("t4", "trial/ended", 4)
    assert "t4  trial/ended  until 20" in call("events", "delayed", "--redis-url", url).stdout
    mixed = call("events", "cancel", "t4", "none", "--redis-url", url)
    assert (mixed.returncode, mixed.stdout) == (4, "event t4 is cancelled\nno event none is delayed\n")
    assert call("events", "delayed", "--redis-url", url).stdout == "no event is delayed\n"
    assert_refused(call("send", "e", "--at", "noon", "--redis-url", url), 2, "at must be a time, got 'noon'")
    (action,) = as_json("audit", "--action", "cancel", "--redis-url", url)
    assert action["subject"] == "event t4"


# -- schedules in code -------------------------------------------------------------


def test_the_data_of_a_schedule_is_the_data_of_its_events(app: Stepflow, run_worker, client) -> None:
    seen: list[tuple[str, bool]] = []
    crons = [CronTrigger(hourly(), data={"region": region}) for region in ("eu", "us")]

    @app.function("report", triggers=crons)
    async def report(ctx: Context) -> None:
        seen.append((ctx.event.data["region"], ctx.event.ts % 60_000 == 0))

    worker = run_worker(app)
    until(lambda: client.hlen("stepflow:cron") == 2)
    worker.stop()
    for name, last in client.hgetall("stepflow:cron").items():
        client.hset("stepflow:cron", name, int(last) - HOUR_MS)
    run_worker(app)
    until(lambda: len(seen) == 2)
    assert sorted(seen) == [("eu", True), ("us", True)]


# -- schedules at run time ---------------------------------------------------------


@pytest.fixture
def report(app: Stepflow) -> Callable[[], list[dict[str, Any]]]:
    """Declares a function that notes the data of its events; gives what it has noted."""
    noted: list[dict[str, Any]] = []

    @app.function("report")
    async def report(ctx: Context) -> None:
        noted.append(ctx.event.data)

    return lambda: list(noted)


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_each_time_of_a_schedule_starts_one_run_however_many_workers_there_are(
    app: Stepflow, report, run_worker, client
) -> None:
    created = app.schedules.create("s", "report", cron=hourly(), catch_up="all", reason="wanted")
    assert len(created.next_times) == 5
    pass_time(client, 3 * HOUR_MS)
    for _ in range(3):
        run_worker(app)
    until(lambda: len(report()) >= 3)
    until(lambda: not client.zcard("stepflow:live"))
    assert len({event["time"] for event in report()}) == len(report()) == 3
    schedule = app.schedules.get("s")
    assert app.run(schedule.last_run).info().status is RunStatus.COMPLETED


@pytest.mark.slow
def test_each_second_of_a_schedule_starts_one_run_while_workers_are_killed(app: Stepflow, start_worker, client) -> None:
    killed = [start_worker("tests.integration.apps.shop:app") for _ in range(2)]
    until(lambda: client.hexists("stepflow:functions", "shop/order"))
    app.schedules.create("s", "order", every="1s", catch_up="all", data={"number": 1})
    for count in (3, 6, 9):
        until(lambda count=count: len(list(app.runs("order"))) >= count)
        killed.pop(0).kill()
        killed.append(start_worker("tests.integration.apps.shop:app"))
    assert app.schedules.delete("s")
    runs = list(app.runs("order", limit=None))
    until(lambda: all(run.status() is RunStatus.COMPLETED for run in runs), what="the end of the runs")
    times = sorted(run.event.ts for run in runs)
    assert times == list(range(times[0], times[-1] + 1, 1_000))
    assert len(times) >= 9


def test_a_schedule_starts_its_missed_times_by_its_policy_and_backfills_the_others(
    app: Stepflow, report, run_worker, client
) -> None:
    fields = hourly()
    app.schedules.create("s", "report", cron=fields, timezone="Europe/Rome")
    pass_time(client, 5 * HOUR_MS)
    for _ in range(3):
        run_worker(app)
    until(lambda: len(report()) == 1)
    until(lambda: not client.zcard("stepflow:live"))
    last = app.schedules.get("s").last_time
    assert last is not None
    assert report() == [{**report()[0], "id": "shop/s", "schedule": fields, "zone": "Europe/Rome"}]
    since = last - timedelta(hours=4)
    dry = app.schedules.backfill("s", since, last, dry_run=True)
    assert [one.time for one in dry] == [since + timedelta(hours=n) for n in range(4)]
    assert len(report()) == 1
    done = app.schedules.backfill("s", since, last, reason="the outage")
    assert [one.run.id for one in done] == [one.run.id for one in dry]
    assert [one.run.result(30) for one in done] == [None] * 4
    assert app.schedules.backfill("s", since, last) == []
    assert len(report()) == 5


def test_a_paused_schedule_starts_nothing_and_goes_on_from_now(app: Stepflow, report, run_worker, client) -> None:
    app.schedules.create("s", "report", cron=hourly(), data={"n": 1})
    assert app.schedules.pause("s", reason="holiday")
    assert not app.schedules.pause("s", reason="still")
    pass_time(client)
    run_worker(app)
    paused = app.schedules.get("s")
    assert (paused.paused, paused.paused_reason, paused.next_times) == (True, "still", ())
    run = app.schedules.trigger("s", reason="by hand")
    assert run.result(30) is None
    assert report() == [{"n": 1}]
    assert app.schedules.resume("s")
    assert not app.schedules.resume("s")
    state = client.hget("stepflow:schedule-states", "shop/s").split()
    assert abs(int(state[0]) - time.time() * 1000) < 60_000
    assert state[2] == run.id


def test_a_schedule_is_replaced_deleted_and_listed(app: Stepflow, report, client) -> None:
    async def use() -> None:
        await app.schedules.acreate("a", "report", cron="0 6 * * *")
        await app.schedules.acreate("a", "report", every="2h", replace=True)
        await app.schedules.acreate("b", "report", every="1d", start="2030-01-01T00:00:00Z")
        assert [one.id for one in await app.schedules.alist()] == ["a", "b"]
        assert (await app.schedules.aget("a")).every == timedelta(hours=2)
        assert await app.schedules.apause("b")
        assert await app.schedules.aresume("b")
        assert (await app.schedules.atrigger("b")).id
        assert await app.schedules.abackfill("b", "2026-01-01T00:00:00Z") == []
        assert await app.schedules.adelete("a")
        assert not await app.schedules.adelete("a")

    asyncio.run(use())
    assert [one.id for one in app.schedules.list("report")] == ["b"]
    assert list(client.hgetall("stepflow:schedule-states")) == ["shop/b"]
    with pytest.raises(ScheduleNotFoundError, match="there is no schedule 'shop/a'"):
        app.schedules.pause("a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes exactly one of cron"),
        ({"cron": "0 6 * * *", "every": "1h"}, "takes exactly one of cron"),
        ({"cron": "0 6 * *"}, "write five fields"),
        ({"cron": "0 6 * * *", "timezone": "Mars/Base"}, "time zone must exist, got 'Mars/Base'"),
        ({"cron": "TZ=Europe/Rome 0 6 * * *", "timezone": "Asia/Tokyo"}, "leave one out"),
        ({"every": "10ms"}, "every must be at least 1s"),
        ({"every": "1h", "end": "2020-01-01T00:00:00Z"}, "end must be in the future"),
        ({"every": "1h", "start": "2031-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z"}, "end must be after start"),
        ({"cron": IN_HALF_A_YEAR, "end": datetime.now(UTC) + timedelta(days=1)}, "no time between now and its end"),
        ({"every": "1h", "window": "6-7"}, "window must be two times of day"),
        ({"every": "1h", "jitter": "2d"}, "jitter must be at most 1d"),
        ({"every": "1h", "data": object()}, "data: event data must be JSON"),
        ({"every": "1h", "catch_up": "never"}, "catch_up must be"),
        ({"every": "1h", "start": "noon"}, "start must be a time"),
    ],
)
def test_a_wrong_schedule_is_refused_where_it_is_written(
    app: Stepflow, report, client, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        app.schedules.create("s", "report", **options)
    assert message in str(refused.value)
    assert client.keys("*schedule*") == []


@pytest.mark.parametrize("app_id", ["a b", "a,b", "a:steps", "", "x" * 20_000])
def test_the_id_of_a_schedule_of_an_app_that_cannot_be_is_refused(app: Stepflow, report, client, app_id: str) -> None:
    with pytest.raises(ConfigurationError, match=r"schedule: (app )?id must"):
        app.schedules.create(f"{app_id}/c", "report", every="1h")
    assert client.keys("*schedule*") == []


def test_a_schedule_of_what_does_not_exist_is_refused(app: Stepflow, report) -> None:
    with pytest.raises(FunctionNotFoundError):
        app.schedules.create("s", "unknown", every="1h")
    app.schedules.create("s", "report", every="1h")
    with pytest.raises(ConfigurationError, match="exists already: pass replace=True"):
        app.schedules.create("s", "report", every="1h")
    app.schedules.create("m", "report", cron="* * * * *")
    with pytest.raises(ConfigurationError, match="over 1,000 times in this range"):
        app.schedules.backfill("m", "2026-01-01T00:00:00Z")
    with pytest.raises(ConfigurationError, match="until must not be in the future"):
        app.schedules.backfill("s", 0, datetime.now(UTC) + timedelta(hours=1))
    ahead = datetime.now(UTC) + timedelta(seconds=30)  # the clock of the caller
    assert app.schedules.backfill("s", ahead - timedelta(minutes=1), ahead, dry_run=True) == []


def test_the_data_of_a_schedule_is_sealed_if_the_app_encrypts(url: str, run_worker, client) -> None:
    app = Stepflow("shop", redis_url=url, encryption=Encryption([Encryption.generate_key()]))
    seen: list[object] = []

    @app.function("report")
    async def report(ctx: Context) -> None:
        seen.append(ctx.event.data)

    app.schedules.create("s", report, cron=hourly(), data={"pin": "47 11"})
    assert "47 11" not in str(client.hgetall("stepflow:schedules"))
    assert app.schedules.get("s").data == {"pin": "47 11"}
    assert Stepflow("shop", redis_url=url).schedules.get("s").data == "encrypted"
    pass_time(client)
    run_worker(app)
    until(lambda: seen == [{"pin": "47 11"}])
    assert "47 11" not in str(client.hgetall(f"stepflow:run:{app.schedules.get('s').last_run}"))


@pytest.mark.slow
def test_schedules_on_the_command_line(app: Stepflow, report, run_worker, url: str) -> None:
    @app.function("nightly", cron="0 2 * * *")
    async def nightly(ctx: Context) -> None: ...

    run_worker(app)
    until(lambda: "nightly" in call("functions", "--redis-url", url).stdout)
    server = ("--redis-url", url)
    words = ("schedules", "create", "shop/s", "shop/report", "--cron", "0 6 * * *", "--timezone", "Europe/Rome")
    created = as_json(*words, "--data", '{"n": 1}', "--window", "22:00-06:30", "--reason", "wanted", *server)
    assert (created["schedule"], created["function"], created["data"]) == ("shop/s", "shop/report", {"n": 1})
    assert_refused(call(*words, *server), 3, "exists already")
    listed = as_json("schedules", "list", *server)
    assert [(one["schedule"], one["function"], one["in_code"]) for one in listed] == [
        ("shop/s", "shop/report", False),
        (None, "shop/nightly", True),
    ]
    table = call("schedules", "list", *server).stdout
    assert "shop/s" in table
    assert "0 6 * * * Europe/Rome in 22:00-06:30" in table
    assert "in code" in table
    assert as_json("schedules", "pause", "shop/s", "--reason", "holiday", *server)["new"] is True
    assert "paused    since 20" in call("schedules", "show", "shop/s", *server).stdout
    assert call("schedules", "resume", "shop/s", *server).stdout == "schedule shop/s is resumed\n"
    run_id = call("schedules", "trigger", "shop/s", *server).stdout.strip()
    assert app.run(run_id).result(30) is None
    assert report() == [{"n": 1}]
    shown = as_json("schedules", "show", "shop/s", *server)
    assert shown["last_run"] == run_id
    missed = as_json("schedules", "backfill", "shop/s", "--since", "2026-01-01T00:00:00Z", "--dry-run", *server)
    assert {one["started"] for one in missed} == {False}
    assert as_json("schedules", "backfill", "shop/s", "--since", "30s", "--dry-run", *server) == []
    assert as_json("schedules", "delete", "shop/s", *server) == {"schedule": "shop/s", "deleted": True}
    assert call("schedules", "delete", "shop/s", *server).returncode == 4
    assert_refused(call("schedules", "show", "shop/s", *server), 4, "there is no schedule 'shop/s'")
    actions = [one["action"] for one in as_json("audit", "--subject", "schedule shop/s", *server)]
    assert actions == ["delete", "trigger", "resume", "pause", "create"]
