"""Handlers of every form in a worker, and the context variables that they see."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from stepflow import Attempt, Context, RunFailedError, Stepflow, SyncContext
from tests.support.processes import until

TENANT = contextvars.ContextVar("TENANT", default="none")


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(wrapped(function))


class Calls:
    async def __call__(self, ctx: Context) -> int:
        return await ctx.step.run("three", self.three)

    async def three(self) -> int:
        return 3


def test_decorated_handlers_and_async_objects_are_executed_as_async(app: Stepflow, run_worker) -> None:
    @app.function("decorated")
    @traced
    async def decorated(ctx: Context) -> int:
        return await ctx.step.run("two", traced(lambda: 2))

    @app.function("hidden", retries=0)
    @wrapped
    async def hidden(ctx: Context) -> int:
        return 1

    app.function("object")(Calls())
    run_worker(app)
    assert app.invoke("decorated", timeout=20) == 2
    assert app.invoke("object", timeout=20) == 3
    with pytest.raises(RunFailedError, match=r"returns a coroutine: write its decorator with @functools\.wraps"):
        app.invoke("hidden", timeout=20)


@pytest.mark.parametrize("sticky", [0, 100])
def test_a_handler_sees_the_context_variables_of_its_code_and_changes_none(
    app: Stepflow, run_worker, sticky: int
) -> None:
    def read() -> str:
        return TENANT.get()

    async def aread() -> str:
        return TENANT.get()

    def write() -> None:
        TENANT.set("of a step")

    @app.function("asynchronous", retries=0)
    async def asynchronous(ctx: Context) -> list[str]:
        TENANT.set(ctx.event.data)
        values = [await ctx.step.run("plain", read), await ctx.step.run("async", aread)]
        values += await asyncio.gather(ctx.step.run("first", read), ctx.step.run("second", aread))
        await ctx.step.run("write", write)
        return [*values, TENANT.get()]

    @app.function("blocking", retries=0)
    def blocking(ctx: SyncContext) -> list[str]:
        TENANT.set(ctx.event.data)
        values = [ctx.step.run("plain", read), ctx.step.run("async", aread)]
        return [*values, *ctx.step.parallel(lambda: ctx.step.run("a", read), lambda: ctx.step.run("b", read))]

    @app.function("unset", retries=0)
    async def unset(ctx: Context) -> list[str]:
        return [TENANT.get(), await ctx.step.run("plain", read)]

    run_worker(app, sticky=sticky)
    assert app.invoke("asynchronous", "acme", timeout=20) == ["acme"] * 5
    assert app.invoke("blocking", "acme", timeout=20) == ["acme"] * 4
    assert app.invoke("unset", timeout=20) == ["none", "none"]


@pytest.mark.parametrize("sticky", [0, 100])
def test_sync_steps_share_the_kept_threads_of_the_worker(app: Stepflow, run_worker, sticky: int) -> None:
    """A library that keeps a connection per thread opens a few, not one for each step."""
    connections = list[object]()
    local = threading.local()

    def query() -> None:
        if not hasattr(local, "connection"):
            local.connection = object()
            connections.append(local.connection)

    @app.function("asynchronous", retries=0)
    async def asynchronous(ctx: Context) -> None:
        for n in range(30):
            await ctx.step.run(f"query-{n}", query)
        await asyncio.gather(*[ctx.step.run(f"wide-{n}", query) for n in range(30)])

    @app.function("blocking", retries=0)
    def blocking(ctx: SyncContext) -> None:
        for n in range(30):
            ctx.step.run(f"query-{n}", query)

    worker = run_worker(app, sticky=sticky, concurrency=4)
    runs = [app.start(name) for name in ("asynchronous", "blocking") for _ in range(4)]
    for run in runs:
        run.result(timeout=20)
    assert 1 <= len(connections) <= 40, "360 steps share the threads"
    worker.stop()
    until(lambda: not any(thread.name == "stepflow idle" for thread in threading.enumerate()))


def test_an_error_around_an_attempt_is_tried_again_like_one_of_the_handler(app: Stepflow, run_worker) -> None:
    seen = list[Attempt]()

    @app.around_attempt
    def refuses_the_first(attempt: Attempt) -> Iterator[None]:
        seen.append(attempt)
        if attempt.number == 0:
            raise ConnectionError("the database restarts")
        yield

    @app.around_attempt
    async def refuses_the_first_too(attempt: Attempt) -> AsyncIterator[None]:
        seen.append(attempt)
        yield
        if attempt.number == 0:
            raise SystemExit(3)

    async def aread() -> str:
        return "read"

    @app.function("reads", retries=1)
    async def reads(ctx: Context) -> list[str]:
        return [await ctx.step.run("plain", lambda: "read"), await ctx.step.run("async", aread)]

    run_worker(app)
    run = app.start("reads")
    assert run.result(timeout=20) == ["read", "read"]
    name = f"{app.id}/reads"
    assert seen == [Attempt(name, run.id, step, number) for step in ("plain", "async") for number in (0, 1)]
