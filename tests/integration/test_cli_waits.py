"""Sleeps, waits for events, sends and what starts functions, on the command line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import pytest
import redis

from stepflow import Context, CronTrigger, Event, EventTrigger, Stepflow
from stepflow.options.cron_times import next_start
from stepflow_broker.registry.crons import CronConfig
from tests.support.command_line import as_json, call, register
from tests.support.processes import WorkerThread, until

pytestmark = pytest.mark.slow

TIME = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"


@dataclass(frozen=True)
class Waiting:
    """A run that sleeps and waits for two events, and the run that invoked it."""

    run: str
    parent: str


@pytest.fixture
def waiting(app: Stepflow, client: redis.Redis, run_worker: Callable[..., WorkerThread]) -> Waiting:
    @app.function("waits")
    async def waits(ctx: Context) -> None:
        step = ctx.step
        await asyncio.gather(
            step.sleep("nap", "2h"),
            step.wait_for_event("paid", event="order/paid", timeout="3h", match="data.order_id"),
            step.wait_for_event(
                "big", event="order/paid", timeout="4h", match={"data.order_id": 3}, if_="event.data.total > 100"
            ),
        )

    @app.function("main")
    async def main(ctx: Context) -> None:
        await ctx.step.invoke("call", waits, {"order_id": 3})

    run_worker(app)
    parent = app.start(main).id
    until(lambda: client.zcard("stepflow:timeouts") == 4, what="the start of the waits")
    until(lambda: not client.zcard("stepflow:leases"), what="the parking of the runs")
    [child] = [run for run in client.zrange("stepflow:live", 0, -1) if run != parent]
    return Waiting(child, parent)


def test_runs_show_says_what_each_step_waits_for_and_until_when(waiting: Waiting, url: str) -> None:
    wide = call("runs", "show", waiting.run, STEPFLOW_REDIS_URL=url, COLUMNS="200").stdout
    assert re.search(rf"^nap +waiting .* sleeping until {TIME} \(in 1h 59m\)", wide, re.MULTILINE)
    assert re.search(
        rf"^paid +waiting .* waits for event order/paid with data.order_id = 3 until {TIME}", wide, re.MULTILINE
    )
    assert "waits for event order/paid with data.order_id = 3 if event.data.total > 100 until" in wide
    narrow = call("runs", "show", waiting.run, STEPFLOW_REDIS_URL=url, COLUMNS="80").stdout
    assert max(len(line) for line in narrow.splitlines()) <= 80
    assert "(in 3h 59m)" in " ".join(narrow.split())


def test_runs_show_in_json_has_the_waits(waiting: Waiting, url: str) -> None:
    run = as_json("runs", "show", waiting.run, "--redis-url", url)
    steps = {step["id"]: step for step in run["steps"]}
    assert {step_id: (step["kind"], step["state"]) for step_id, step in steps.items()} == {
        "nap": ("sleep", "waiting"),
        "paid": ("wait", "waiting"),
        "big": ("wait", "waiting"),
    }
    nap, paid, big = (steps[step_id]["wait"] for step_id in ("nap", "paid", "big"))
    assert run["created_at"] <= steps["nap"]["started_at"] < nap["until"] < paid["until"] < big["until"]
    assert (nap["event"], nap["match"], nap["outcome"]) == (None, [], "waiting")
    assert (paid["event"], paid["match"], paid["if"]) == ("order/paid", ["data.order_id"], None)
    assert (big["match"], big["if"]) == (["data.order_id"], "event.data.total > 100")
    assert {step["invoke"] for step in steps.values()} == {None}


def test_the_tree_says_what_the_children_wait_for(waiting: Waiting, url: str) -> None:
    shown = call("runs", "show", waiting.parent, "--redis-url", url).stdout
    tree = shown[shown.rindex("shop/main") :]
    assert "call → shop/waits  waiting" in tree
    assert re.search(rf"sleeping until {TIME} ", tree)
    assert "waits for event order/paid with data.order_id = 3 until" in tree
    [child] = as_json("runs", "show", waiting.parent, "--redis-url", url)["children"]
    assert [(wait["step"], wait["kind"]) for wait in child["waits"]] == [
        ("nap", "sleep"),
        ("paid", "wait"),
        ("big", "wait"),
    ]


def test_runs_list_says_what_waiting_runs_wait_for(waiting: Waiting, url: str) -> None:
    shown = call("runs", "list", "--redis-url", url).stdout
    assert re.search(rf"^{waiting.run} .* sleeping until {TIME} \(in 1h 59m\); waits for event", shown, re.MULTILINE)
    runs = {run["run_id"]: run["waits"] for run in as_json("runs", "list", "--redis-url", url)}
    assert runs[waiting.parent] == []
    assert [wait["step"] for wait in runs[waiting.run]] == ["nap", "paid", "big"]


def test_waits_that_have_ended_say_how(
    app: Stepflow, url: str, client: redis.Redis, run_worker: Callable[..., WorkerThread]
) -> None:
    @app.function("waited")
    async def waited(ctx: Context) -> None:
        await ctx.step.sleep("nap", "50ms")
        await asyncio.gather(
            ctx.step.wait_for_event("came", event="ping", timeout="1h"),
            ctx.step.wait_for_event("never", event="pong", timeout="50ms"),
            ctx.step.send_event("tell", Event("ping", {"n": 17}, id="ping-17")),
        )

    run_worker(app)
    run = app.start(waited)
    run.result(20)
    steps = {step["id"]: step for step in as_json("runs", "show", run.id, "--redis-url", url)["steps"]}
    assert {step_id: step["kind"] for step_id, step in steps.items()} == {
        "nap": "sleep",
        "came": "wait",
        "never": "wait",
        "tell": "send",
    }
    assert {step["state"] for step in steps.values()} == {"done"}
    outcomes = {step_id: step["wait"]["outcome"] for step_id, step in steps.items() if step["wait"]}
    assert outcomes == {"nap": "time", "came": "came", "never": "time"}
    assert all(step["started_at"] and step["ended_at"] for step in steps.values())
    assert steps["came"]["result"]["data"] == {"n": 17}
    shown = call("runs", "show", run.id, "--redis-url", url).stdout
    for step_id, text in (
        ("nap", "slept"),
        ("came", 'received event ping: {"n":17}'),
        ("never", "timed out waiting for event pong"),
        ("tell", 'sent ["ping-17"]'),
    ):
        assert re.search(rf"^{step_id} +done .*{re.escape(text)}", shown, re.MULTILINE), shown


# -- what starts functions -----------------------------------------------------


@pytest.fixture
def triggered(url: str) -> str:
    """The URL of a server on which functions with conditions and schedules are registered."""
    app = Stepflow("mail", redis_url=url)

    @app.function("thank", event="order/paid", if_="event.data.total > 100")
    async def thank(ctx: Context) -> None: ...

    @app.function("report", triggers=[CronTrigger("TZ=Europe/Rome 0 9 * * 1", "all"), EventTrigger("report/*")])
    async def report(ctx: Context) -> None: ...

    register(url, app)
    return url


def test_functions_show_conditions_and_schedules_with_their_next_time(triggered: str) -> None:
    report, thank = as_json("functions", "--redis-url", triggered)
    assert thank["triggers"] == [{"event": "order/paid", "if": "event.data.total > 100"}]
    event, schedule = report["triggers"]
    assert event == {"event": "report/*", "if": None}
    next_at = schedule.pop("next_at")
    assert schedule == {"cron": "0 9 * * 1", "zone": "Europe/Rome", "catch_up": "all", "jitter_ms": 0, "window": None}
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT0[78]:00:00.000Z", next_at)
    shown = call("functions", "--redis-url", triggered).stdout
    assert "order/paid if event.data.total > 100" in shown
    assert re.search(rf"report/\*, 0 9 \* \* 1 Europe/Rome +{TIME[:-5]} ", shown)


@pytest.mark.parametrize(("total", "started"), [(101, ["mail/thank"]), (100, [])])
def test_send_names_the_functions_whose_condition_holds(triggered: str, total: int, started: list[str]) -> None:
    sent = as_json("send", "order/paid", "--data", f'{{"total": {total}}}', "--redis-url", triggered)
    assert sent["functions"] == started


@pytest.mark.parametrize(
    ("cron", "now", "expected"),
    [
        (CronConfig("* * * * *"), "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
        (CronConfig("* * * * *"), "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"),
        (CronConfig("0 9 * * *", "Europe/Rome"), "2026-07-01T08:00:00Z", "2026-07-02T07:00:00Z"),
        (CronConfig("0 0 29 2 *"), "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        (CronConfig("* * 5 1 *"), "2026-02-01T00:00:00Z", "2027-01-05T00:00:00Z"),
        (CronConfig("30 2 * * *", "Europe/Rome"), "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
    ],
)
def test_the_next_time_of_a_schedule(cron: CronConfig, now: str, expected: str) -> None:
    def ms(text: str) -> int:
        return round(datetime.fromisoformat(text).timestamp() * 1000)

    assert next_start(cron, after_ms=ms(now)) == ms(expected)
