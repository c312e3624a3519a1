"""step.run, case by case: SEMANTICS §2."""

from __future__ import annotations

import asyncio

from stepflow import Context, Stepflow, SyncContext


async def echo(value: object) -> object:
    return value


def test_steps_in_sequence_run_once_each(app: Stepflow, run_worker) -> None:
    calls = []

    async def note(n: int) -> int:
        calls.append(n)
        return n

    @app.function("count")
    async def count(ctx: Context) -> int:
        return sum([await ctx.step.run(f"step-{n}", note, n) for n in range(5)])

    run_worker(app)
    assert app.invoke(count, timeout=20) == 10
    assert calls == [0, 1, 2, 3, 4]


def test_a_sync_function_runs_parallel_steps(app: Stepflow, run_worker) -> None:
    @app.function("sync")
    def sync(ctx: SyncContext) -> int:
        a, b = ctx.step.parallel(lambda: ctx.step.run("a", lambda: 40), lambda: ctx.step.run("b", lambda: 2))
        return ctx.step.run("sum", lambda: a + b)

    run_worker(app)
    assert app.invoke(sync, timeout=20) == 42


def test_gather_gives_results_in_declared_order(app: Stepflow, run_worker) -> None:
    @app.function("fan")
    async def fan(ctx: Context) -> list[int]:
        return await asyncio.gather(*[ctx.step.run("part", echo, n) for n in range(50)])

    run_worker(app)
    assert app.invoke(fan, timeout=20) == list(range(50))
