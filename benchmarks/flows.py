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
