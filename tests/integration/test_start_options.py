"""Options of one start, with real workers."""

from __future__ import annotations

import pytest

from stepflow import Context, EventError, InvokeError, RunCancelledError, RunStatus, Stepflow
from stepflow.options.flow_control import Batch
from tests.support.command_line import assert_refused, call

pytestmark = pytest.mark.roles("producer", "operator")


def test_a_run_has_the_options_of_its_start_and_so_has_its_repetition(app: Stepflow, run_worker, url, client) -> None:
    @app.function("render")
    async def render(ctx: Context) -> str:
        return await ctx.step.run("draw", lambda: "drawn")

    @app.function("nap")
    async def nap(ctx: Context) -> None:
        await ctx.step.sleep("long", "1h")

    @app.function("album")
    async def album(ctx: Context) -> str:
        return await ctx.step.invoke("page", render, queue="gpu", priority=10, retention="1h")

    usual = run_worker(app, queues=["shop"])
    run = app.start(render, queue="gpu", priority=60, retention="30d")
    parent = app.start(album)
    reason = app.start(render, queue="gpu").explain()
    assert "no live worker serves queue gpu: start one" in reason.because[0].text
    assert run.status() is RunStatus.QUEUED
    run_worker(app, queues=["gpu"])
    assert (run.result(30), parent.result(30)) == ("drawn", "drawn")
    assert client.pttl(f"stepflow:run:{run.id}") > 29 * 86_400_000
    [child] = parent.children()
    assert client.hget(f"stepflow:run:{child.id}", "queue") == "gpu"
    assert usual.thread.is_alive()
    again = run.rerun()
    assert again.result(30) == "drawn"
    assert client.hmget(f"stepflow:run:{again.id}", "queue", "priority_ms") == ["gpu", "60000"]
    with pytest.raises(RunCancelledError, match="did not finish within 1ms"):
        app.start(nap, timeout=0.001).result(30)
    words = ["start", "shop/render", "--queue", "gpu", "--priority", "5", "--retention", "1h", "--run-timeout", "1h"]
    assert call(*words, "--wait", STEPFLOW_REDIS_URL=url).stdout.strip() == '"drawn"'


def test_wrong_options_start_nothing(app: Stepflow, run_worker, url, client) -> None:
    @app.function("store", batch=Batch(2, "1s"))
    async def store(ctx: Context) -> None: ...

    @app.function("f")
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.invoke("child", "store", queue="gpu")
        except InvokeError as error:
            return error.message
        return ""

    run_worker(app)
    with pytest.raises(EventError, match="executes several runs as one batch"):
        app.start(store, queue="gpu")
    with pytest.raises(EventError, match="start_many: priority must be a number of seconds from -600 to 600"):
        app.start_many(f, [1], priority=1_000)
    assert client.keys("stepflow:run:*") == []
    assert "executes several runs as one batch" in app.start(f).result(30)
    assert_refused(
        call("start", "shop/f", "--queue", "a b", STEPFLOW_REDIS_URL=url), 2, "queue must not contain ',' or a space"
    )
