"""What starts functions: conditions, times, and the failure of others; with real workers."""

from __future__ import annotations

import time

import pytest

from stepflow import Concurrency, Context, CronTrigger, Encryption, Event, RunFailedError, RunStatus, Stepflow
from stepflow.event import encode_event
from stepflow_engine.codec import dumps, loads
from stepflow_workers.consumers import event_router
from tests.support.command_line import as_json, call
from tests.support.processes import until


def test_a_condition_picks_the_events_that_start_a_function(app: Stepflow, run_worker) -> None:
    big: list[int] = []
    all_: list[int] = []

    @app.function("big", event="shop/order.placed", if_="event.data.total > 100")
    async def on_big(ctx: Context) -> None:
        big.append(ctx.event.data["total"])

    @app.function("all", event="shop/order.*")
    async def on_all(ctx: Context) -> None:
        all_.append(ctx.event.data["total"])

    run_worker(app)
    app.send([Event("shop/order.placed", {"total": total}) for total in (50, 150, 100, 101)])
    until(lambda: len(all_) == 4)
    until(lambda: len(big) == 2)
    assert sorted(big) == [101, 150]


def test_a_time_starts_one_run_however_many_workers_there_are(app: Stepflow, run_worker, client) -> None:
    ticks: list[str] = []

    @app.function("tick", triggers=[CronTrigger("TZ=Europe/Rome * * * * *", "all")])
    async def tick(ctx: Context) -> None:
        ticks.append(ctx.event.data["time"])

    workers = [run_worker(app) for _ in range(3)]
    field = "shop/tick\nEurope/Rome\n* * * * *"
    until(lambda: client.hexists("stepflow:cron", field))
    for worker in workers:
        worker.stop()
    assert ticks == []
    client.hset("stepflow:cron", field, int(client.hget("stepflow:cron", field)) - 180_000)  # an outage of 3 minutes
    for _ in range(3):
        run_worker(app)
    until(lambda: len(ticks) >= 3)
    until(lambda: not client.zcard("stepflow:live"))
    assert len(set(ticks)) == len(ticks) in (3, 4)


def test_a_schedule_that_is_new_starts_nothing_for_the_past(app: Stepflow, run_worker, client) -> None:
    @app.function("yearly", triggers=[CronTrigger("0 0 1 1 *", "all")])
    async def yearly(ctx: Context) -> None: ...

    run_worker(app)
    until(lambda: client.exists("stepflow:cron"))
    assert not client.exists("stepflow:live", "stepflow:expiry")
    assert abs(int(client.hvals("stepflow:cron")[0]) - time.time() * 1000) < 60_000


def test_a_failed_run_starts_its_functions_once(app: Stepflow, run_worker, client) -> None:
    told: list[tuple[str, object]] = []

    async def refund(ctx: Context) -> None:
        told.append(("refund", ctx.event.data))
        raise ValueError("this fails too")

    @app.function("pay", retries=1, on_failure=refund)
    async def pay(ctx: Context) -> None:
        raise ValueError(f"no money for {ctx.event.data}")

    @app.function("ship", retries=0)
    async def ship(ctx: Context) -> None:
        raise ValueError("no ship")

    @app.on_failure
    async def any_failure(ctx: Context) -> None:
        told.append(("any", ctx.event.data["function"]))

    run_worker(app)
    run = app.start(pay, 17)
    for failing in (run, app.start(ship)):
        try:
            failing.result(20)
        except RunFailedError:
            continue
        raise AssertionError("it did not fail")
    until(lambda: len(told) >= 3)
    until(lambda: not client.zcard("stepflow:live") and not client.xlen("stepflow:events"))
    names = sorted((who, data if isinstance(data, str) else data["function"]) for who, data in told)
    assert names[:2] == [("any", "shop/pay"), ("any", "shop/ship")]
    (seen,) = {str(data) for who, data in told if who == "refund"}
    data = next(data for who, data in told if who == "refund")
    assert isinstance(data, dict)
    assert (data["run_id"], data["event"]["data"], data["error"]["message"]) == (run.id, 17, "no money for 17")
    assert seen


def test_a_cancelled_run_starts_no_failure_function(app: Stepflow, run_worker, client) -> None:
    told: list[int] = []

    async def tell(ctx: Context) -> None:
        told.append(1)

    @app.function("long", on_failure=tell)
    async def long(ctx: Context) -> None:
        await ctx.step.sleep("x", "1h")

    @app.function("after")
    async def after(ctx: Context) -> None: ...

    run_worker(app)
    run = app.start(long)
    until(lambda: client.zcard("stepflow:timeouts") == 1)
    run.cancel()
    app.invoke(after, timeout=20)
    until(lambda: not client.xlen("stepflow:events"))
    assert told == []


POISON = {"items": [{"owner": "a"}] * 20_000, "others": ["b"] * 20_000}
LISTED = "event.data.items.all(i, i.owner in event.data.others)"


def test_an_event_that_is_too_expensive_for_a_condition_is_set_aside_and_can_be_sent_again(
    app: Stepflow, run_worker, client, url: str
) -> None:
    @app.function("guarded", event="order", if_=LISTED)
    async def guarded(ctx: Context) -> None: ...

    @app.function("plain", event="order")
    async def plain(ctx: Context) -> int:
        return len(ctx.event.data["items"])

    @app.function("waiter")
    async def waiter(ctx: Context) -> bool:
        wait = ctx.step.wait_for_event("order", event="order", timeout="20s", if_=LISTED)
        return await wait is not None

    run_worker(app)
    waiting = app.start(waiter)
    until(lambda: waiting.status() == RunStatus.WAITING)
    app.send("order", POISON, id="order-17")
    until(lambda: client.xlen("stepflow:events-aside") == 1)
    assert client.xlen("stepflow:events") == 0
    until(lambda: [run for run in runs_of(client, "plain") if run["status"] == "completed"])
    assert runs_of(client, "guarded") == []
    assert waiting.status() == RunStatus.WAITING

    (aside,) = as_json("events", "aside", "--redis-url", url)
    assert (aside["event"], aside["id"]) == ("order", "order-17")
    assert "function shop/guarded: expression" in aside["reason"]
    assert f"a wait of run {waiting.id}: expression" in aside["reason"]
    assert as_json("events", "resend", aside["entry"], "--redis-url", url) == [{"entry": aside["entry"], "sent": True}]
    until(lambda: client.xlen("stepflow:events") == 0 and client.xlen("stepflow:events-aside") == 1)
    assert len(runs_of(client, "plain")) == 1
    again = call("events", "resend", aside["entry"], "--redis-url", url)
    assert (again.returncode, again.stdout) == (4, f"no event {aside['entry']} is set aside\n")
    waiting.cancel()


def runs_of(client, function: str) -> list[dict[str, str]]:
    runs = [client.hgetall(key) for key in client.scan_iter("stepflow:run:*")]
    return [run for run in runs if run["function"] == function]


def test_an_event_that_is_too_expensive_for_a_key_is_set_aside_and_starts_the_other_functions(
    app: Stepflow, run_worker, client, url: str
) -> None:
    key = "string(event.data.items.filter(i, i.owner in event.data.others).size())"

    @app.function("keyed", event="order", concurrency=Concurrency(1, key=key))
    async def keyed(ctx: Context) -> None: ...

    @app.function("plain", event="order")
    async def plain(ctx: Context) -> None: ...

    run_worker(app)
    app.send("order", POISON, id="order-17")
    until(lambda: [run for run in runs_of(client, "plain") if run["status"] == "completed"])
    until(lambda: client.xlen("stepflow:events-aside") == 1)
    assert client.xlen("stepflow:events") == 0
    assert runs_of(client, "keyed") == []
    (aside,) = as_json("events", "aside", "--redis-url", url)
    assert aside["reason"].startswith("function shop/keyed: expression")


def test_an_event_that_ends_the_workers_that_route_it_is_set_aside_after_three(start_worker, url: str, client) -> None:
    first = start_worker("tests.integration.apps.deadly:app")
    until(lambda: client.exists("stepflow:functions"), what="the functions")
    sender = Stepflow("deadly", redis_url=url)
    ids = [sender.send("order", {"number": number, "is_deadly": number == 3}) for number in range(6)]
    deaths = [first.process.wait(20)]
    while client.xlen("stepflow:events-aside") == 0 and len(deaths) < 5:
        worker = start_worker("tests.integration.apps.deadly:app")
        until(lambda: worker.process.poll() is not None or client.xlen("stepflow:events-aside"), what="an end")  # noqa: B023
        if worker.process.poll() is not None:
            deaths.append(worker.process.returncode)
    assert deaths == [9, 9, 9]
    until(lambda: len(runs_of(client, "take")) == 5, what="the runs of the other events")
    until(lambda: client.xlen("stepflow:events") == 0 and not client.exists("stepflow:suspect-events"), what="the end")
    (aside,) = as_json("events", "aside", "--redis-url", url)
    assert aside["id"] == ids[3]
    assert "workers ended while they routed it" in aside["reason"]


def test_an_event_that_is_left_often_or_was_altered_is_set_aside_with_its_reason(
    url: str, run_worker, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_TAKE_OVER_MS", "_BLOCK_MS"):
        monkeypatch.setattr(event_router, name, 100)
    monkeypatch.setattr(event_router, "_MAX_DELIVERIES", 4)
    keys = [Encryption.generate_key() for _ in range(2)]
    sender = Stepflow("shop", redis_url=url, encryption=Encryption(keys=[keys[0]]))
    app = Stepflow("shop", redis_url=url, encryption=Encryption(keys=[keys[1]]))

    @app.function("f", event="order")
    async def f(ctx: Context) -> None: ...

    run_worker(app)
    missing = sender.send("order", {"a": 1})
    until(lambda: client.xlen("stepflow:events-aside") == 1, what="the event whose key no worker has")
    cipher = app.backend.cipher
    event = loads(encode_event(Event("order", {"a": 1}), event_id="x", now_ms=1, limit_bytes=999, cipher=cipher))
    client.xadd("stepflow:events", {"event": dumps({**event, "id": "y"}), "id": "y", "dedupe": "0"})
    until(lambda: client.xlen("stepflow:events-aside") == 2, what="the event that was altered")
    first, second = as_json("events", "aside", "--redis-url", url)
    assert (first["id"], second["id"]) == (missing, "y")
    assert "does not have its key" in first["reason"]
    assert "was altered" in second["reason"]
