"""An app whose steps return the database of their worker, from the variable DATABASE."""

from __future__ import annotations

import asyncio
import os

from stepflow import Context, Event, Stepflow

app = Stepflow("databases")


async def _here() -> str:
    await asyncio.sleep(0.05)
    return os.environ["DATABASE"]


@app.function("child")
async def child(ctx: Context) -> str:
    """One step."""
    return await ctx.step.run("here", _here)


@app.function("visit")
async def visit(ctx: Context) -> list[str]:
    """Steps one after the other and at once, an invoke, and an event to itself."""
    visited = [await ctx.step.run("alone", _here)]
    visited += await asyncio.gather(
        ctx.step.run("left", _here), ctx.step.run("right", _here), ctx.step.invoke("child", child)
    )
    await ctx.step.send_event("say", Event("said", {"run": ctx.run_id, "where": os.environ["DATABASE"]}))
    said = await ctx.step.wait_for_event(
        "hear", event="said", match={"data.run": ctx.run_id}, timeout="30s", lookback="1m"
    )
    assert said is not None
    return [*visited, said.data["where"]]


@app.function("stay")
async def stay(ctx: Context) -> None:
    """Wait for an event that nobody sends."""
    await ctx.step.wait_for_event("never", event="never", timeout="1h")
