"""Pauses with real workers, and on the command line."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from stepflow import (
    Concurrency,
    ConfigurationError,
    Context,
    FunctionNotFoundError,
    InvokeSkippedError,
    RunStatus,
    Stepflow,
)
from tests.support.command_line import call
from tests.support.processes import until

pytestmark = [
    pytest.mark.roles("producer", "operator"),
    pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"]),
]


class Work:
    """Counts what was executed, for each tenant."""

    def __init__(self) -> None:
        self.done: Counter[object] = Counter()

    async def step(self, tenant: object) -> None:
        await asyncio.sleep(0.02)
        self.done[tenant] += 1


def quiet(work: Work) -> bool:
    """Whether nothing more is done; looked at twice, for what was under way when it was paused."""
    before = work.done.total()
    asyncio.run(asyncio.sleep(0.3))
    return work.done.total() == before


def long_function(app: Stepflow, work: Work):
    @app.function("sync", event="shop/changed", concurrency=Concurrency(1, key="event.data.tenant"))
    async def sync(ctx: Context) -> str:
        for n in range(30):
            await ctx.step.run(f"step {n}", work.step, ctx.event.data["tenant"])
        return "synced"

    return sync


@pytest.mark.parametrize("kind", ["function", "queue"])
def test_what_is_paused_stops_between_two_steps_and_goes_on_where_it_was(app: Stepflow, run_worker, kind: str) -> None:
    work = Work()

    @app.function("sync")
    async def sync(ctx: Context) -> str:
        for n in range(30):
            await ctx.step.run(f"step {n}", work.step, 1)
        return "synced"

    target = {"function": sync} if kind == "function" else {"queue": "shop"}
    run_worker(app)
    runs = [app.start(sync) for _ in range(3)]
    until(lambda: work.done[1] > 3)
    assert app.pause(**target, reason="the stock is counted")
    until(lambda: quiet(work))
    late = app.start(sync)
    assert quiet(work)
    assert work.done[1] < 90
    assert late.explain().kind == "paused"
    assert "the stock is counted" in str(runs[0].explain())
    assert [pause.reason for pause in app.pauses()] == ["the stock is counted"]
    assert app.resume(**target)
    assert [run.result(30) for run in (*runs, late)] == ["synced"] * 4
    assert work.done[1] == 120


def test_a_paused_key_leaves_the_others_alone(app: Stepflow, run_worker) -> None:
    work = Work()
    sync = long_function(app, work)
    run_worker(app)
    app.pause(key="shop/sync:event.data.tenant=1")
    held, free = app.start(sync, {"tenant": 1}), app.start(sync, {"tenant": 2})
    assert free.result(30) == "synced"
    assert (work.done[1], held.status()) == (0, RunStatus.QUEUED)
    app.resume(key="shop/sync:event.data.tenant=1")
    assert held.result(30) == "synced"


def test_a_paused_function_keeps_its_events_and_tells_who_invokes_it(app: Stepflow, run_worker, client) -> None:
    sync = long_function(app, Work())

    @app.function("parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("call", sync, {"tenant": 1})
        except InvokeSkippedError as error:
            return str(error)
        return "completed"

    run_worker(app)
    app.pause(sync)
    assert "paused" in app.invoke(parent, timeout=20)
    app.send("shop/changed", {"tenant": 5})
    until(lambda: client.zcard("stepflow:live") == 1)
    app.resume("sync")
    until(lambda: not client.zcard("stepflow:live"))


async def test_pauses_without_blocking_the_loop(app: Stepflow) -> None:
    assert await app.apause(queue="shop")
    assert [pause.subject for pause in await app.apauses()] == ["queue shop"]
    assert await app.aresume(queue="shop")


def test_one_thing_that_exists_is_to_be_named(app: Stepflow) -> None:
    with pytest.raises(ConfigurationError, match="exactly one of"):
        app.pause()
    with pytest.raises(ConfigurationError, match="exactly one of"):
        app.pause("sync", queue="shop")
    with pytest.raises(FunctionNotFoundError, match="no worker has registered it"):
        app.pause("nowhere")


@pytest.mark.slow
def test_the_command_line_pauses_and_resumes(url: str) -> None:
    def told(*words: str) -> str:
        done = call(*words, STEPFLOW_REDIS_URL=url)
        return done.stdout + done.stderr

    paused = told("pause", "queue", "shop", "--reason", "the stock is counted")
    assert paused == "queue shop is paused\nnote: no function has queue shop; there are no functions yet\n"
    assert "the stock is counted" in told("pauses")
    assert "its reason is updated" in told("pause", "queue", "shop")
    shown = json.loads(call("pauses", "-o", "json", STEPFLOW_REDIS_URL=url).stdout)
    assert [(one["kind"], one["name"], one["reason"]) for one in shown] == [("queue", "shop", "")]
    assert "is resumed" in told("resume", "queue", "shop")
    assert "was not paused" in told("resume", "queue", "shop")
    assert "nothing is paused" in told("pauses")
    assert "APP/NAME" in told("pause", "function", "sync")
    assert "no worker has registered" in told("pause", "function", "shop/sync")


@pytest.mark.slow
def test_a_paused_run_says_so_in_the_list_and_in_its_details(app: Stepflow, url: str, run_worker) -> None:
    sync = long_function(app, Work())
    run_worker(app)
    app.pause(key="shop/sync:event.data.tenant=1", reason="quiet hours")
    held = app.start(sync, {"tenant": 1})
    until(lambda: held.explain().kind == "paused")
    listed = call("runs", "list", STEPFLOW_REDIS_URL=url).stdout
    assert "paused: quiet hours" in listed
    shown = call("runs", "show", held.id, STEPFLOW_REDIS_URL=url).stdout
    assert "paused    key shop/sync:event.data.tenant=1 is paused since 20" in shown
    assert ": quiet hours; stepflow resume key shop/sync:event.data.tenant=1" in shown
    app.resume(key="shop/sync:event.data.tenant=1")
    held.result(30)
    assert "paused" not in call("runs", "list", STEPFLOW_REDIS_URL=url).stdout
