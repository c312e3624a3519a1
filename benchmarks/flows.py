"""The functions that the benchmarks of stepflow run. Their data is how many steps or children they have."""

from __future__ import annotations

import asyncio
import time

from stepflow import Context, Stepflow

__all__ = ["QUEUE", "UNSERVED", "app"]

QUEUE = "bench"
"""The queue that the workers serve."""
UNSERVED = "nobody"
"""A queue that they do not serve."""
_PAUSE_S = 0.02
_EDGE = 100

app = Stepflow(QUEUE, retention="10m")


async def noop(value: int) -> int:
    """A step that does nothing."""
    return value


async def now() -> float:
    """A step that says when it is executed, by the clock that all processes of a machine share."""
    return time.monotonic()


async def pause(value: int) -> int:
    """A step that waits, as for the answer of another service."""
    await asyncio.sleep(_PAUSE_S)
    return value


@app.function("seq")
async def seq(ctx: Context) -> int:
    """Sequential steps."""
    for n in range(ctx.event.data):
        await ctx.step.run(f"s{n}", noop, n)
    return int(ctx.event.data)


@app.function("timed")
async def timed(ctx: Context) -> tuple[float, float]:
    """Sequential steps; the seconds that the first 100 and the last 100 took.

    The times are the steps' own results, so that a replay sees the same ones.
    """
    times = [await ctx.step.run(f"s{n}", now) for n in range(ctx.event.data)]
    return times[_EDGE] - times[0], times[-1] - times[-1 - _EDGE]


@app.function("pauses")
async def pauses(ctx: Context) -> int:
    """Sequential steps that wait 20 ms each."""
    for n in range(ctx.event.data):
        await ctx.step.run(f"s{n}", pause, n)
    return int(ctx.event.data)


@app.function("fan")
async def fan(ctx: Context) -> int:
    """Parallel steps, and their join."""
    return len(await asyncio.gather(*[ctx.step.run("s", noop, n) for n in range(ctx.event.data)]))


@app.function("map")
async def mapped(ctx: Context) -> int:
    """The items of a map."""
    return len(await ctx.step.map("s", noop, range(ctx.event.data)))


@app.function("child")
async def child(ctx: Context) -> int:
    """A child that does nothing."""
    return int(ctx.event.data)


@app.function("invoke")
async def invoke(ctx: Context) -> int:
    """Children, one after the other."""
    for n in range(ctx.event.data):
        await ctx.step.invoke(f"c{n}", child, data=n)
    return int(ctx.event.data)


@app.function("invoke-fan")
async def invoke_fan(ctx: Context) -> int:
    """Children, all at once, and their join."""
    return len(await asyncio.gather(*[ctx.step.invoke("c", child, data=n) for n in range(ctx.event.data)]))


@app.function("invoke-map")
async def invoke_map(ctx: Context) -> int:
    """Children, as the items of a map."""
    return len(await ctx.step.map("c", child, range(ctx.event.data)))


@app.function("endless", queue=UNSERVED)
async def endless(ctx: Context) -> None:
    """A child that does not end: no worker serves its queue."""


@app.function("parked")
async def parked(ctx: Context) -> None:
    """Waits for a child that does not end."""
    await ctx.step.invoke("endless", endless)
