"""The functions that the benchmarks of stepflow run."""

from __future__ import annotations

import asyncio

from stepflow import Context, Stepflow

app = Stepflow("bench", retention="10m")


async def noop(value: int) -> int:
    """A step that does nothing."""
    return value


@app.function("seq")
async def seq(ctx: Context) -> int:
    """Sequential steps."""
    for n in range(ctx.event.data):
        await ctx.step.run(f"s{n}", noop, n)
    return ctx.event.data


@app.function("fan")
async def fan(ctx: Context) -> int:
    """Parallel steps, and their join."""
    return len(await asyncio.gather(*[ctx.step.run("s", noop, n) for n in range(ctx.event.data)]))


@app.function("child")
async def child(ctx: Context) -> int:
    """A child that does nothing."""
    return ctx.event.data


@app.function("invoke")
async def invoke(ctx: Context) -> int:
    """Children, one after the other."""
    for n in range(ctx.event.data):
        await ctx.step.invoke(f"c{n}", child, data=n)
    return ctx.event.data


@app.function("invoke-fan")
async def invoke_fan(ctx: Context) -> int:
    """Children, all at once, and their join."""
    return len(await asyncio.gather(*[ctx.step.invoke("c", child, data=n) for n in range(ctx.event.data)]))
