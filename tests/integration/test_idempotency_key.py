"""``ctx.step.idempotency_key``: one text for all attempts at a step, and for no other step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stepflow import Context, RunFailedError, Stepflow, SyncContext
from stepflow_engine.ids import step_key


@pytest.mark.parametrize("sticky", [100, 0])
def test_each_attempt_at_a_step_has_the_same_key_made_of_the_run_and_the_step(
    app: Stepflow, run_worker: Callable[..., object], sticky: int
) -> None:
    seen: list[str] = []

    @app.function("pay")
    async def pay(ctx: Context) -> list[str]:
        async def charge() -> str:
            seen.append(ctx.step.idempotency_key)
            if ctx.attempt < 2:
                raise OSError("try again")
            return ctx.step.idempotency_key

        return [await ctx.step.run("charge", charge), await ctx.step.run("charge", charge)]

    run_worker(app, sticky=sticky)
    run = app.start(pay)
    first, second = run.result(20)
    assert first == f"{run.id}:{step_key('charge')}"
    assert second == f"{run.id}:{step_key('charge', 1)}"
    assert seen == [first] * 3 + [second] * 3


def test_steps_that_are_executed_at_once_have_their_own_keys_in_loops_threads_and_tasks(
    app: Stepflow, run_worker: Callable[..., object]
) -> None:
    @app.function("fan")
    async def fan(ctx: Context) -> list[str]:
        async def here() -> str:
            return ctx.step.idempotency_key

        async def in_a_task() -> str:
            await asyncio.sleep(0.01)
            return await asyncio.create_task(here())

        def in_a_thread() -> str:
            return ctx.step.idempotency_key

        handlers = {"here": here, "task": in_a_task, "thread": in_a_thread}
        return await asyncio.gather(*[ctx.step.run(name, handler) for name, handler in handlers.items()])

    run_worker(app)
    run = app.start(fan)
    assert run.result(20) == [f"{run.id}:{step_key(name)}" for name in ("here", "task", "thread")]


def test_a_sync_function_has_it_too_also_in_parallel_and_with_options(
    app: Stepflow, run_worker: Callable[..., object]
) -> None:
    @app.function("plain")
    def plain(ctx: SyncContext) -> list[str]:
        async def later() -> str:
            return ctx.step.idempotency_key

        step = ctx.step.with_options(retries=1)
        first = step.run("first", lambda: step.idempotency_key)
        others = ctx.step.parallel(
            lambda: ctx.step.run("left", lambda: ctx.step.idempotency_key), lambda: ctx.step.run("right", later)
        )
        return [first, *others]

    run_worker(app)
    run = app.start(plain)
    assert run.result(20) == [f"{run.id}:{step_key(name)}" for name in ("first", "left", "right")]


def test_outside_of_a_handler_there_is_none_and_the_error_says_where_there_is(
    app: Stepflow, run_worker: Callable[..., object]
) -> None:
    passes: list[str] = []

    @app.function("between")
    async def between(ctx: Context) -> str:
        await ctx.step.run("a", lambda: None)
        passes.append("once")
        return ctx.step.idempotency_key

    @app.function("between-sync")
    def between_sync(ctx: SyncContext) -> str:
        ctx.step.run("a", lambda: None)
        return ctx.step.idempotency_key

    run_worker(app)
    for function in (between, between_sync):
        with pytest.raises(RunFailedError, match="outside of the handler of a step") as caught:
            app.invoke(function, timeout=20)
        assert caught.value.name == "StepUsageError"
    assert passes == ["once"]
