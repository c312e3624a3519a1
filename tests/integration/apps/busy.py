"""Runs of every kind, for tests that look at a busy server."""

from __future__ import annotations

import asyncio

from stepflow import Concurrency, Context, Stepflow

app = Stepflow("busy")


async def rest(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.function("child", concurrency=[Concurrency(3, key="event.data.tenant")])
async def child(ctx: Context) -> str:
    """Waits for an event that does not come, and has a step, one of three at a time for each tenant."""
    await ctx.step.wait_for_event("paid", event="busy/paid", timeout=0.2, match="data.number")
    await ctx.step.run("rest", rest, 0.01)
    return "done"


@app.function("parent")
async def parent(ctx: Context) -> list[str]:
    """Steps alone and side by side, a sleep, a step that fails at first, and two children."""
    number = ctx.event.data["number"]
    await ctx.step.run("first", rest, 0.0)
    await asyncio.gather(*[ctx.step.run(f"side-{n}", rest, 0.02) for n in range(3)])
    await ctx.step.sleep("nap", 0.1)
    data = {"number": number, "tenant": number % 2}
    return await asyncio.gather(*[ctx.step.invoke(f"call-{n}", child, data, timeout="1h") for n in range(2)])
