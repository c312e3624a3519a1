"""ctx.now, ctx.uuid and ctx.random in runs that are replayed before every step."""

from __future__ import annotations

from typing import Any

from stepflow import Context, Stepflow


async def noop() -> None: ...


def test_every_replay_of_a_run_sees_the_same_values(app: Stepflow, run_worker) -> None:
    passes: list[list[Any]] = []

    @app.function("child")
    async def child(ctx: Context) -> None: ...

    @app.function("code", retries=2)
    async def code(ctx: Context) -> int:
        seen: list[Any] = []
        passes.append(seen)

        def look() -> None:
            seen.append((ctx.now(), ctx.uuid(), ctx.random().random()))

        look()
        await ctx.step.run("a", noop)
        look()
        await ctx.step.invoke("child", child)
        look()
        await ctx.step.sleep("pause", 0.01)
        look()
        if ctx.attempt == 0:
            raise ValueError("once")
        return ctx.attempt

    run_worker(app, sticky=0)
    run = app.start(code)
    assert run.result(30) == 1
    whole = passes[-1]
    assert len(whole) == 4
    assert len(passes) > 3
    assert all(seen == whole[: len(seen)] for seen in passes)
    times = [now for now, *_ in whole]
    assert times == sorted(times)
    ends = {step.id: step.ended_at for step in run.steps()}
    assert times == [run.info().started_at, ends["a"], ends["child"], ends["pause"]]
