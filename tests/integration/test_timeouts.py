"""Events and times that cancel runs, with real workers; and events without the key that controls a run."""

from __future__ import annotations

import asyncio

import pytest

from stepflow import (
    CancelOn,
    Concurrency,
    ConfigurationError,
    Context,
    Event,
    EventError,
    InvokeCancelledError,
    InvokeSkippedError,
    RunCancelledError,
    RunSkippedError,
    RunStatus,
    Stepflow,
    Timeouts,
)
from stepflow_engine.ids import run_id_by_event
from tests.support.processes import until


async def quiet() -> None:
    """A step."""


@pytest.mark.parametrize("if_", [None, "event.data.by == run.event.data.owner"])
def test_an_event_cancels_the_run_that_it_speaks_of(app: Stepflow, run_worker, client, if_: str | None) -> None:
    @app.function("deliver", event="shop/paid", cancel_on=CancelOn("shop/order.cancelled", match="data.order", if_=if_))
    async def deliver(ctx: Context) -> str:
        await ctx.step.run("pack", quiet)
        await ctx.step.sleep("until it is called for", "1h")
        return "delivered"

    run_worker(app)
    runs = [app.start(deliver, {"order": n, "owner": "ann"}) for n in range(3)]
    until(lambda: all(run.status() is RunStatus.WAITING for run in runs))
    app.send("shop/order.cancelled", {"order": 1, "by": "ann"})
    with pytest.raises(RunCancelledError, match=r"cancelled by event shop/order\.cancelled"):
        runs[1].result(10)
    app.send("shop/order.cancelled", {"order": 0, "by": "bob"})
    if if_ is None:
        until(lambda: runs[0].status() is RunStatus.CANCELLED)
    else:
        until(lambda: not client.xlen("stepflow:events"))
        assert runs[0].status() is RunStatus.WAITING
    assert runs[2].status() is RunStatus.WAITING


def test_a_handler_that_is_executed_ends_before_its_run_is_let_go_of(app: Stepflow, run_worker) -> None:
    seen: list[str] = []

    async def slow() -> None:
        seen.append("begun")
        await asyncio.sleep(0.5)
        seen.append("ended")

    @app.function("deliver", cancel_on=[CancelOn("stop")])
    async def deliver(ctx: Context) -> None:
        await ctx.step.run("slow", slow)
        await ctx.step.run("next", slow)

    run_worker(app)
    run = app.start(deliver)
    until(lambda: seen)
    app.send("stop")
    with pytest.raises(RunCancelledError):
        run.result(10)
    until(lambda: len(seen) == 2)
    assert seen == ["begun", "ended"]


@pytest.mark.roles("producer", "read-only")
def test_a_parent_is_told_that_an_event_has_cancelled_its_child(app: Stepflow, run_worker) -> None:
    @app.function("child", cancel_on=CancelOn("stop"))
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("call", child)
        except InvokeCancelledError as error:
            return str(error)
        return "completed"

    run_worker(app)
    run = app.start(parent)
    until(lambda: "sleep" in str(run.explain()))
    app.send("stop")
    assert "cancelled by event stop" in run.result(10)


def test_times_cancel_runs_that_are_late(app: Stepflow, url: str, run_worker) -> None:
    @app.function("late", timeouts=Timeouts(start="200ms", finish="400ms"))
    async def late(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    waits_for_a_worker = app.start(late)
    assert waits_for_a_worker.status() is RunStatus.QUEUED

    run_worker(idle_app(url))
    with pytest.raises(RunCancelledError, match="did not start within"):
        waits_for_a_worker.result(10)
    run_worker(app)
    with pytest.raises(RunCancelledError, match="did not finish within"):
        app.start(late).result(10)


def idle_app(url: str) -> Stepflow:
    """An app whose worker keeps time and serves another queue."""
    other = Stepflow("idle", redis_url=url)

    @other.function("nothing")
    async def nothing(ctx: Context) -> None:
        await ctx.step.run("nothing", quiet)

    return other


@pytest.mark.parametrize(
    ("cancel_on", "words"),
    [
        ([CancelOn("a*")], "must not have a"),
        ([CancelOn("a", match="order")], "must be a path"),
        ([CancelOn("a", if_="event.(")], "not CEL"),
        ([CancelOn("a", timeout=0)], "at least 1ms"),
        ([CancelOn("a", timeout=-1)], "cancel_on: timeout must not be negative"),
        (["a"], "a CancelOn"),
        ([CancelOn("a")] * 6, "at most 5"),
    ],
)
def test_what_cannot_cancel_is_refused_where_it_is_written(app: Stepflow, cancel_on: list, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        app.function("f", cancel_on=cancel_on)


@pytest.mark.parametrize("timeouts", [Timeouts(start=0), Timeouts(finish="-1s"), Timeouts(finish="400d")])
def test_times_that_are_none_are_refused(app: Stepflow, timeouts: Timeouts) -> None:
    with pytest.raises(ConfigurationError, match="timeouts: "):
        app.function("f", timeouts=timeouts)


def test_an_event_without_the_key_is_refused_at_the_start_and_recorded_elsewhere(
    app: Stepflow, run_worker, client
) -> None:
    @app.function("keyed", event="shop/changed", concurrency=Concurrency(1, key="event.data.shop"))
    async def keyed(ctx: Context) -> None:
        await ctx.step.run("nothing", quiet)

    @app.function("parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("call", keyed, {})
        except InvokeSkippedError as error:
            return str(error)
        return "completed"

    with pytest.raises(EventError, match=r"no value for event\.data\.shop"):
        app.start(keyed, {"other": 1})
    run_worker(app)
    assert "no value for event.data.shop" in app.invoke(parent, timeout=20)
    app.send(Event("shop/changed", {}, id="e1"))
    run = app.run(run_id_by_event("e1", keyed.name, keyed.config.pinned_partition))
    until(lambda: client.exists(f"stepflow:run:{run.id}"))
    with pytest.raises(RunSkippedError, match=r"no value for event\.data\.shop"):
        run.result(10)
