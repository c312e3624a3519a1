"""Steps that wait: sleep, wait_for_event, and events sent as a step; with real workers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepflow import (
    Batch,
    Context,
    Debounce,
    Event,
    RunFailedError,
    RunNotFoundError,
    RunStatus,
    Stepflow,
    StepUsageError,
    SyncContext,
)
from stepflow_engine.ids import run_id_by_event
from tests.support.processes import until


def parked(client, count: int = 1) -> bool:
    """Whether so many runs wait with no lease, no job and no slot."""
    live = client.zrange("stepflow:live", 0, -1)
    waiting = [run for run in live if client.hget(f"stepflow:run:{run}", "status") == "waiting"]
    return len(waiting) == count and not client.zcard("stepflow:leases")


def nothing_left(client) -> bool:
    """Whether no wait of any run has left a trace."""
    return not [*client.scan_iter("stepflow:timeout:*"), *client.scan_iter("stepflow:waits:*")] and not client.zcard(
        "stepflow:timeouts"
    )


@pytest.mark.parametrize("sticky", [0, 100])
def test_a_sleep_takes_its_time_once(app: Stepflow, run_worker, client, sticky: int) -> None:
    passes = []

    @app.function("sleepy")
    async def sleepy(ctx: Context) -> list[float]:
        passes.append(1)
        before = await ctx.step.run("before", time.time)
        await ctx.step.sleep("nap", "300ms")
        return [before, await ctx.step.run("after", time.time)]

    run_worker(app, sticky=sticky)
    before, after = app.invoke(sleepy, timeout=20)
    assert after - before >= 0.3
    assert nothing_left(client)


@pytest.mark.slow
def test_a_run_that_sleeps_holds_no_lease_and_no_slot(app: Stepflow, run_worker, client) -> None:
    @app.function("sleepy")
    async def sleepy(ctx: Context) -> str:
        await ctx.step.sleep("long", "6s")
        return "rested"

    worker = run_worker(app, concurrency=1)
    runs = [app.start(sleepy) for _ in range(5)]
    until(lambda: parked(client, 5))
    worker.stop()
    run_worker(app)
    assert [run.result(20) for run in runs] == ["rested"] * 5


def test_a_time_that_is_past_is_no_sleep(app: Stepflow, run_worker, client) -> None:
    @app.function("late")
    async def late(ctx: Context) -> str:
        await ctx.step.sleep_until("a", datetime(2020, 1, 1, tzinfo=UTC))
        await ctx.step.sleep_until("b", "2020-01-01T09:00:00+01:00")
        await ctx.step.sleep_until("c", 1_577_836_800)
        await ctx.step.sleep("d", 0)
        return "at once"

    run_worker(app)
    assert app.invoke(late, timeout=20) == "at once"
    assert nothing_left(client)


def test_a_sleep_until_ends_at_its_time(app: Stepflow, run_worker) -> None:
    @app.function("until")
    async def until_then(ctx: Context) -> float:
        await ctx.step.sleep_until("then", datetime.fromtimestamp(ctx.event.data, UTC))
        return await ctx.step.run("now", time.time)

    run_worker(app)
    then = time.time() + 0.5
    assert app.invoke(until_then, then, timeout=20) >= then - 0.001


@pytest.mark.parametrize("sticky", [0, 100])
def test_an_event_ends_a_wait(app: Stepflow, run_worker, client, sticky: int) -> None:
    @app.function("order", event="order/placed")
    async def order(ctx: Context) -> object:
        paid = await ctx.step.wait_for_event("paid", event="order/paid", timeout="1m", match="data.order")
        assert isinstance(paid, Event)
        return [paid.name, paid.data, paid.id]

    run_worker(app, sticky=sticky)
    app.send([Event("order/placed", {"order": n}, id=f"placed-{n}") for n in range(3)])
    until(lambda: client.hget("stepflow:wait-counts:order/paid", "data.order") == "3")
    app.send([Event("order/paid", {"order": n}, id=f"paid-{n}") for n in (2, 9, 0)])
    until(lambda: client.zcard("stepflow:live") == 1)
    ended = [app.run(run).result(5) for run in client.zrange("stepflow:index:ended shop/order", 0, -1)]
    ended.sort(key=lambda result: result[2])
    assert ended == [["order/paid", {"order": 0}, "paid-0"], ["order/paid", {"order": 2}, "paid-2"]]
    assert client.hget("stepflow:wait-counts:order/paid", "data.order") == "1"


def test_a_wait_whose_time_is_over_gives_none(app: Stepflow, run_worker, client) -> None:
    @app.function("patient")
    async def patient(ctx: Context) -> object:
        return await ctx.step.wait_for_event("x", event="never", timeout="200ms", match={"data.a": 1, "data.b": [2]})

    run_worker(app)
    assert app.invoke(patient, timeout=20) is None
    assert nothing_left(client)


def test_several_values_all_have_to_match(app: Stepflow, run_worker, client) -> None:
    @app.function("both")
    async def both(ctx: Context) -> object:
        match = {"data.user.id": "u1", "data.kind": 2}
        event = await ctx.step.wait_for_event("x", event="seen", timeout="20s", match=match)
        return event.data if event else None

    run_worker(app)
    run = app.start(both)
    until(lambda: client.exists("stepflow:wait-counts:seen"))
    for data in ({"kind": 2}, {"user": {"id": "u1"}, "kind": "2"}, {"user": {"id": "u1"}, "kind": 2, "more": True}):
        app.send("seen", data)
    assert run.result(20) == {"user": {"id": "u1"}, "kind": 2, "more": True}


def test_an_expression_is_looked_at_by_a_worker(app: Stepflow, run_worker, client) -> None:
    @app.function("picky")
    async def picky(ctx: Context) -> object:
        condition = "event.data.total > 100 && event.data.user == run.event.data.user"
        event = await ctx.step.wait_for_event("x", event="sale", timeout="20s", if_=condition)
        return event.data if event else None

    run_worker(app)
    run = app.start(picky, {"user": "ann"})
    until(lambda: client.exists("stepflow:wait-counts:sale"))
    for data in (
        {"total": 200},
        {"user": "ann", "total": 99},
        {"user": "bob", "total": 500},
        {"user": "ann", "total": 101},
    ):
        app.send("sale", data)
    assert run.result(20) == {"user": "ann", "total": 101}
    until(lambda: nothing_left(client) and not client.xlen("stepflow:events"))


def test_an_event_of_the_same_gather_is_not_missed(app: Stepflow, run_worker) -> None:
    @app.function("both")
    async def both(ctx: Context) -> object:
        ids, event = await asyncio.gather(
            ctx.step.send_event("send", Event("ping", {"n": ctx.event.data})),
            ctx.step.wait_for_event("wait", event="ping", timeout="20s", match={"data.n": ctx.event.data}),
        )
        return [ids == [event.id], event.data]

    run_worker(app)
    runs = [app.start(both, n) for n in range(50)]
    assert [run.result(30) for run in runs] == [[True, {"n": n}] for n in range(50)]


def test_a_look_back_finds_an_event_that_came_before_the_run(app: Stepflow, run_worker, client) -> None:
    @app.function("late")
    async def late(ctx: Context) -> object:
        event = await ctx.step.wait_for_event(
            "x", event="came", timeout=ctx.event.data, match={"data.n": 2}, lookback="5m"
        )
        return event.data if event else None

    @app.function("on-came", event="came")
    async def on_came(ctx: Context) -> None: ...

    run_worker(app)
    app.send([Event("came", {"n": n}) for n in range(4)])
    until(lambda: client.zcard("stepflow:index:ended shop/on-came") == 4)
    for _ in range(2):  # the first finds it by a search, the second by the index
        assert app.invoke(late, "20s", timeout=20) == {"n": 2}
    assert nothing_left(client)


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
@pytest.mark.parametrize("how", ["match", "if", "both"])
def test_a_wait_ends_with_an_event_that_came_since_its_run_began(app: Stepflow, run_worker, how: str) -> None:
    """The webhook of a payment comes while the step before the wait still executes."""
    paid_if = "event.data.order == run.event.data.order"
    by: dict[str, Any] = {
        "match": {"match": "data.order"},
        "if": {"if_": paid_if},
        "both": {"match": "data.order", "if_": "event.data.total > 10"},
    }[how]
    may_wait = threading.Event()

    @app.function("pay")
    async def pay(ctx: Context) -> list[object]:
        await ctx.step.run("charge", asyncio.to_thread, may_wait.wait, 30)
        found = []
        for step in ("first", "second"):
            event = await ctx.step.wait_for_event(step, event="paid", timeout="20s", **by)
            found.append(event and event.data["total"])
        last = await ctx.step.wait_for_event("none", event="paid", timeout="100ms", **by)
        return [*found, last]

    routed = []

    @app.function("on-paid", event="paid")
    async def on_paid(ctx: Context) -> None:
        routed.append(ctx.event.id)

    run_worker(app)
    for _ in range(2):
        may_wait.clear()
        before = app.send("paid", {"order": 17, "total": 11})
        until(lambda before=before: before in routed)
        run = app.start(pay, {"order": 17})
        until(lambda run=run: run.status() is RunStatus.RUNNING)
        sent = [Event("paid", {"order": order, "total": total}) for order, total in ((18, 12), (17, 13), (17, 14))]
        early = app.send(sent)
        until(lambda early=early: set(early) <= set(routed))
        may_wait.set()
        *both, none = run.result(30)
        assert (sorted(both), none) == ([13, 14], None)


def test_the_event_that_has_started_a_run_is_no_early_event_of_its_waits(app: Stepflow, run_worker) -> None:
    @app.function("next", event="changed")
    async def next_change(ctx: Context) -> object:
        event = await ctx.step.wait_for_event("next", event="changed", timeout="300ms", match="data.doc")
        return event and event.data["n"]

    run_worker(app)
    app.send(Event("changed", {"doc": 1, "n": 0}, id="c0"))
    assert result_of(app, "c0") is None
    app.send([Event("changed", {"doc": 1, "n": 1}, id="c1"), Event("changed", {"doc": 1, "n": 2}, id="c2")])
    assert result_of(app, "c1") == 2
    assert result_of(app, "c2") is None


def result_of(app: Stepflow, event_id: str) -> object:
    """The result of the run that an event starts, once it has started."""
    run = app.run(run_id_by_event(event_id, "shop/next"))

    def exists() -> bool:
        with contextlib.suppress(RunNotFoundError):
            return bool(run.status())
        return False

    until(exists)
    return run.result(20)


@pytest.mark.parametrize("collected", [{"debounce": Debounce("300ms")}, {"batch": Batch(2, timeout="5s")}])
def test_an_event_that_a_run_has_collected_is_no_early_event_of_its_waits(
    app: Stepflow, run_worker, collected: dict[str, Any]
) -> None:
    seen = []

    @app.function("collect", event="changed", **collected)
    async def collect(ctx: Context) -> None:
        seen.append(await ctx.step.wait_for_event("next", event="changed", timeout="1s", match={"data.doc": 1}))

    run_worker(app)
    app.send([Event("changed", {"doc": 1, "n": n}) for n in range(2)])
    until(lambda: bool(seen))
    assert seen == [None]


def test_a_wait_for_any_event_of_a_name_waits_for_the_next(app: Stepflow, run_worker) -> None:
    @app.function("any")
    async def any_event(ctx: Context) -> object:
        await ctx.step.send_event("send", Event("tick"))
        await ctx.step.sleep("until it is routed", "300ms")
        early = await ctx.step.wait_for_event("now", event="tick", timeout="100ms")
        before = await ctx.step.wait_for_event("before", event="tick", timeout="100ms", lookback="1m")
        none = await ctx.step.wait_for_event(
            "matched", event="tick", timeout="100ms", match={"name": "tick"}, lookback=0
        )
        return [early, before and before.name, none]

    run_worker(app)
    assert app.invoke(any_event, timeout=20) == [None, "tick", None]


def test_the_loser_of_a_race_is_cleaned_up_with_its_run(app: Stepflow, run_worker, client) -> None:
    @app.function("race")
    async def race(ctx: Context) -> str:
        waits = {
            asyncio.create_task(ctx.step.sleep("nap", "100ms"), name="nap"),
            asyncio.create_task(ctx.step.wait_for_event("x", event="never", timeout="1h"), name="event"),
        }
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().get_name()

    run_worker(app)
    assert app.invoke(race, timeout=20) == "nap"
    assert nothing_left(client)


def test_events_are_sent_once_and_start_functions(app: Stepflow, run_worker) -> None:
    started = []

    @app.function("fan-out", retries=3)
    async def fan_out(ctx: Context) -> list[str]:
        ids = await ctx.step.send_event("tell", [Event("told", n) for n in range(3)])
        if ctx.attempt < 2:
            raise ValueError("after the events were sent")
        return ids

    @app.function("told", event="told")
    async def told(ctx: Context) -> None:
        started.append((ctx.event.id, ctx.event.data))

    run_worker(app)
    ids = app.invoke(fan_out, timeout=20)
    until(lambda: len(started) >= 3)
    assert sorted(started) == sorted(zip(ids, range(3), strict=True))


def test_a_sync_function_waits_too(app: Stepflow, run_worker) -> None:
    @app.function("sync")
    def sync(ctx: SyncContext) -> object:
        ctx.step.sleep("nap", 0.05)
        ctx.step.sleep_until("then", datetime.now(UTC) + timedelta(milliseconds=50))
        sent = ctx.step.send_event("send", Event("sync/ping"))
        event = ctx.step.wait_for_event("wait", event="sync/ping", timeout="20s", lookback="1m")
        return event is not None and sent == [event.id]

    run_worker(app)
    assert app.invoke(sync, timeout=20) is True


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda step: step.sleep("x", -1), "sleep: duration must not be negative"),
        (lambda step: step.sleep("x", "367d"), "at most 366d"),
        (lambda step: step.sleep("x", "soon"), "must be a duration"),
        (lambda step: step.sleep_until("x", "tomorrow"), "when must be a time"),
        (lambda step: step.sleep_until("x", datetime(2030, 1, 1)), "must have a time zone"),
        (lambda step: step.sleep_until("x", datetime(2999, 1, 1, tzinfo=UTC)), "at most 366 days ahead"),
        (lambda step: step.wait_for_event("x", event="", timeout=1), "event must be non-empty text"),
        (lambda step: step.wait_for_event("x", event="e", timeout="400d"), "at most 366d"),
        (lambda step: step.wait_for_event("x", event="e", timeout=1, match="total > 3"), "must be a path"),
        (
            lambda step: step.wait_for_event("x", event="e", timeout=1, match="data.missing"),
            "with a value in the event",
        ),
        (lambda step: step.wait_for_event("x", event="e", timeout=1, match={"data.x": {1}}), "match must be JSON"),
        (lambda step: step.wait_for_event("x", event="e", timeout=1, if_="event.data. >"), "is not CEL"),
        (lambda step: step.wait_for_event("x", event="e", timeout=1, lookback="2h"), "at most 1h"),
    ],
)
def test_bad_input_is_refused_where_it_is_written(app: Stepflow, run_worker, call, message: str) -> None:
    @app.function("bad", retries=0)
    async def bad(ctx: Context) -> str:
        with pytest.raises(StepUsageError, match=message):
            await call(ctx.step)
        return "refused"

    run_worker(app)
    assert app.invoke(bad, {"x": 1}, timeout=20) == "refused"


def test_a_cancelled_run_leaves_no_wait(app: Stepflow, run_worker, client) -> None:
    @app.function("waits")
    async def waits(ctx: Context) -> None:
        await asyncio.gather(
            ctx.step.sleep("nap", "1h"), ctx.step.wait_for_event("x", event="e", timeout="1h", match={"data.a": 1})
        )

    run_worker(app)
    run = app.start(waits)
    until(lambda: client.exists("stepflow:wait-counts:e") and client.zcard("stepflow:timeouts") == 2)
    run.cancel()
    assert run.status() is RunStatus.CANCELLED
    assert nothing_left(client)


def test_a_sleep_in_a_steps_handler_is_refused(app: Stepflow, run_worker) -> None:
    @app.function("nested", retries=0)
    async def nested(ctx: Context) -> None:
        async def handler() -> None:
            await ctx.step.sleep("inner", 1)

        await ctx.step.run("outer", handler)

    run_worker(app)
    with pytest.raises(RunFailedError, match="inside the handler of another step"):
        app.invoke(nested, timeout=20)


@pytest.mark.parametrize(
    "wanted", [{}, {"match": {"data.n": 1}}, {"if_": "event.data.n == 1"}], ids=["any", "match", "if"]
)
def test_an_event_that_is_sent_again_ends_only_the_first_of_two_waits(
    app: Stepflow, run_worker, client, wanted: dict[str, object]
) -> None:
    @app.function("twice")
    async def twice(ctx: Context) -> list[str | None]:
        ends = []
        for step in ("first", "second", "third"):
            event = await ctx.step.wait_for_event(step, event="paid", timeout="20s", **wanted)
            ends.append(event and event.id)
        return ends

    run_worker(app)
    run = app.start(twice)
    for step, sent in (("first", "p1"), ("second", "p1"), ("second", "p2"), ("third", "p1"), ("third", "p3")):
        until(lambda step=step: step in client.hvals(f"stepflow:steps:{run.id}"))
        app.send("paid", {"n": 1}, id=sent)
        until(lambda: client.xlen("stepflow:events") == 0)
    assert run.result(20) == ["p1", "p2", "p3"]


def test_two_waits_with_a_lookback_share_an_event_only_beside_each_other(app: Stepflow, run_worker, client) -> None:
    @app.function("beside")
    async def beside(ctx: Context) -> list[str | None]:
        found = await asyncio.gather(
            *[ctx.step.wait_for_event(step, event="paid", timeout="5s", lookback="1m") for step in "ab"]
        )
        later = await ctx.step.wait_for_event("later", event="paid", timeout="1s", lookback="1m")
        return [event and event.id for event in [*found, later]]

    run_worker(app)
    app.send("paid", id="p1")
    until(lambda: client.xlen("stepflow:event-history:paid") == 1)
    assert app.invoke(beside, timeout=20) == ["p1", "p1", None]
