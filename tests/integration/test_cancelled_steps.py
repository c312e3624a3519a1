"""Steps that the code of a run cancels, with real workers: nothing waits for them any more, and children end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
import redis

from stepflow import (
    BackendUnavailableError,
    Context,
    InvokeError,
    NonRetriableError,
    Run,
    RunStatus,
    Singleton,
    Stepflow,
)
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.ids import step_key
from stepflow_engine.retry_policy import Backoff
from stepflow_workers.execution import cancelled_steps
from tests.support.processes import until


async def race(*steps: Coroutine[Any, Any, Any]) -> Any:
    """The result of the first step that ends. The others are cancelled."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    done, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in losers:
        task.cancel()
    return done.pop().result()


@pytest.fixture(params=["", "?partitions=4"], ids=["", "partitions"])
def url(url: str, request: pytest.FixtureRequest) -> str:
    return f"{url.partition('?')[0]}{request.param}"


@pytest.fixture
def slow(app: Stepflow) -> Stepflow:
    """Two functions that sleep for an hour. The runs of ``counted`` are in another partition than most parents."""

    @app.function("child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("long", "1h")

    @app.function("counted", singleton=Singleton(key="event.data", mode="skip"))
    async def counted(ctx: Context) -> None:
        await ctx.step.invoke("grandchild", "child")

    return app


def runs_of(client: redis.Redis, function: str) -> list[str]:
    """The ids of the runs of a function."""
    keys = list(client.scan_iter("stepflow*:run:*"))
    return [key.rpartition(":")[2] for key in keys if client.hget(key, "function") == function]


def statuses(client: redis.Redis, app: Stepflow, function: str) -> set[RunStatus]:
    return {app.run(run).status() for run in runs_of(client, function)}


def waits_of(client: redis.Redis, run: Run) -> list[str]:
    """The timers, waits and jobs of the steps of a run."""
    timers = [one for key in client.scan_iter("stepflow*timeouts") for one in client.zrange(key, 0, -1)]
    keys = [*client.scan_iter(f"stepflow*:timeout:{run.id}:*"), *client.scan_iter(f"rq:job:*{run.id}-*")]
    waits = [one for key in client.scan_iter("stepflow*:waits:*") for one in client.smembers(key)]
    return keys + [one for one in [*timers, *waits] if run.id in one and not one.startswith("job:")]


@pytest.mark.parametrize("sticky", [0, 100])
def test_losers_of_a_race_leave_nothing_while_their_run_lives(
    slow: Stepflow, run_worker, client: redis.Redis, sticky: int
) -> None:
    @slow.function("main")
    async def main(ctx: Context) -> str:
        winner = await race(
            ctx.step.sleep("nap", "1h"),
            ctx.step.wait_for_event("event", event="never", timeout="1h"),
            ctx.step.invoke("child", "child"),
            ctx.step.invoke("counted", "counted", data=ctx.run_id),
            ctx.step.run("winner", lambda: "won"),
        )
        await ctx.step.wait_for_event("last", event="go", match="data.n", timeout="1h")
        return str(winner)

    run_worker(slow, sticky=sticky)
    runs = [slow.start(main, {"n": n}) for n in range(5)]
    for run in runs:
        until(lambda run=run: len(waits_of(client, run)) == 3, what="only the last wait is left")  # type: ignore[misc]
    until(lambda: statuses(client, slow, "child") == {RunStatus.CANCELLED})
    until(lambda: statuses(client, slow, "counted") == {RunStatus.CANCELLED})
    for n, run in enumerate(runs):
        slow.send("go", {"n": n})
        assert run.result(timeout=20) == "won"
    assert len(runs_of(client, "counted")) == 5
    assert not [key for key in client.scan_iter("stepflow*finished") if client.xlen(key)]


@pytest.mark.parametrize("sticky", [0, 100])
def test_a_run_that_ends_in_the_same_moment_cancels_its_losers(
    slow: Stepflow, run_worker, client: redis.Redis, sticky: int
) -> None:
    @slow.function("returns")
    async def returns(ctx: Context) -> str:
        return str(await race(ctx.step.invoke("child", "child"), ctx.step.run("winner", lambda: "won")))

    @slow.function("fails", retries=3)
    async def fails(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.invoke("counted", "counted", data="fails"))
            group.create_task(ctx.step.sleep("nap", "100ms"))
            await ctx.step.run("before", lambda: 1)
            raise NonRetriableError("no")

    run_worker(slow, sticky=sticky)
    assert slow.invoke(returns, timeout=20) == "won"
    run = slow.start(fails)
    until(lambda: run.status() is RunStatus.FAILED)
    until(lambda: statuses(client, slow, "child") == {RunStatus.CANCELLED})
    until(lambda: statuses(client, slow, "counted") <= {RunStatus.CANCELLED})


def test_an_attempt_that_is_repeated_keeps_its_children(app: Stepflow, run_worker) -> None:
    """The next attempt waits for the same child, so the error of the first must not cancel it."""
    attempts = []

    @app.function("child")
    async def child(ctx: Context) -> str:
        await ctx.step.sleep("nap", "300ms")
        return "of the child"

    @app.function("main", retries=2)
    async def main(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ctx.step.invoke("child", child))
            await ctx.step.run("before", lambda: 1)
            if ctx.attempt == 0:
                raise ConnectionError("for a moment")
        return task.result()

    run_worker(app)
    assert app.invoke(main, timeout=20) == "of the child"
    assert 1 in attempts


def test_a_parent_that_fails_without_cancelling_leaves_its_children(
    slow: Stepflow, run_worker, client: redis.Redis
) -> None:
    def fail() -> None:
        raise NonRetriableError("no")

    @slow.function("main", retries=0)
    async def main(ctx: Context) -> None:
        await asyncio.gather(ctx.step.invoke("child", "child"), ctx.step.run("fails", fail))

    run_worker(slow)
    run = slow.start(main)
    until(lambda: run.status() is RunStatus.FAILED)
    (child,) = runs_of(client, "child")
    assert slow.run(child).cancel(), "it is live"


def test_a_shielded_invoke_is_not_cancelled(slow: Stepflow, run_worker, client: redis.Redis) -> None:
    @slow.function("main")
    async def main(ctx: Context) -> None:
        child = asyncio.ensure_future(ctx.step.invoke("child", "child"))
        await race(asyncio.shield(child), ctx.step.run("winner", lambda: 1))
        with contextlib.suppress(InvokeError):
            await child

    run_worker(slow)
    run = slow.start(main)
    until(lambda: statuses(client, slow, "child") == {RunStatus.WAITING})
    (child,) = runs_of(client, "child")
    slow.run(child).cancel()
    assert run.result(timeout=20) is None


def test_a_cancelled_step_that_is_executing_runs_to_its_end_and_is_not_tried_again(
    app: Stepflow, run_worker, client: redis.Redis
) -> None:
    begun, proceed = threading.Event(), threading.Event()

    def loser() -> None:
        begun.set()
        proceed.wait(20)
        raise ValueError("too late")

    async def winner() -> None:
        while not begun.is_set():
            await asyncio.sleep(0.01)

    @app.function("main", retries=9)
    async def main(ctx: Context) -> None:
        await race(ctx.step.run("loser", loser), ctx.step.run("winner", winner))
        await ctx.step.run("after", proceed.set)
        await ctx.step.wait_for_event("last", event="go", timeout="1h")

    run_worker(app, backoff=Backoff(3_600_000, 3_600_000))
    run = app.start(main)
    (key,) = [f"{prefix}:memos:{run.id}" for prefix in _prefixes(client, run)]
    until(lambda: client.hget(key, step_key("loser")), what="the memo of the loser")
    assert json.loads(client.hget(key, step_key("loser")))["error"]["message"] == "too late"
    app.send("go")
    assert run.result(timeout=20) is None


def _prefixes(client: redis.Redis, run: Run) -> list[str]:
    """The beginnings of the keys of a run."""
    return [key.partition(":run:")[0] for key in client.scan_iter(f"stepflow*:run:{run.id}")]


@pytest.mark.slow
def test_another_pass_cancels_what_a_dead_worker_has_left(
    slow: Stepflow, run_worker, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies when the memo of the winner is stored, and the losers are not cancelled yet."""
    interrupted = []

    def interrupts(*args: Any, **options: Any) -> Any:
        if not interrupted:
            interrupted.append(1)
            raise BackendUnavailableError("the worker is gone")
        return cancel_steps(*args, **options)

    monkeypatch.setattr(cancelled_steps, "cancel_steps", interrupts)

    @slow.function("main")
    async def main(ctx: Context) -> str:
        winner = await race(ctx.step.invoke("child", "child"), ctx.step.run("winner", lambda: "won"))
        await ctx.step.wait_for_event("last", event="go", timeout="1h")
        return str(winner)

    run_worker(slow)
    run = slow.start(main)
    until(lambda: len(waits_of(client, run)) == 3 and interrupted)
    until(lambda: statuses(client, slow, "child") == {RunStatus.CANCELLED})
    slow.send("go")
    assert run.result(timeout=20) == "won"
