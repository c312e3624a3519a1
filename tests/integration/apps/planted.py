"""An app whose runs have all kinds of keys, for a test that plants a stranger's data in them."""

from __future__ import annotations

import asyncio

from stepflow import Batch, CancelOn, Concurrency, Context, Singleton, Stepflow, Throttle, Timeouts

app = Stepflow("planted")


def fail() -> None:
    """A step whose attempts fail."""
    raise ValueError("again")


@app.function("child")
async def child(ctx: Context) -> None:
    """It waits for its parent's good."""
    await ctx.step.sleep("long", "1h")


@app.function(
    "main",
    event="begin",
    cancel_on=CancelOn("stop", match="data.n"),
    timeouts=Timeouts(finish="2h"),
    concurrency=Concurrency(100, key="event.data.n"),
    throttle=Throttle(100, "1s", burst=100),
)
async def main(ctx: Context) -> object:
    """It has a memo, then waits for a child, a time, an event by its value, and one that a worker looks at."""
    first = await ctx.step.run("first", lambda: {"n": ctx.event.data["n"]})
    await asyncio.gather(
        ctx.step.run("failing", fail),
        ctx.step.invoke("child", child, timeout="1h"),
        ctx.step.sleep("sleep", "1h"),
        ctx.step.wait_for_event("match", event="go", timeout="1h", match="data.n"),
        ctx.step.wait_for_event("look", event="go", timeout="1h", if_="event.data.n == run.event.data.n"),
        return_exceptions=True,
    )
    return first


@app.function("alone", singleton=Singleton("event.data.n"), idempotency="event.data.n")
async def alone(ctx: Context) -> None:
    """One at a time."""
    await ctx.step.sleep("long", "1h")


@app.function("batched", batch=Batch(10, "1h"))
async def batched(ctx: Context) -> None:
    """A batch that is never full."""


@app.function("daily", cron="0 3 * * *")
async def daily(ctx: Context) -> None:
    """A schedule."""


@app.function("echo")
async def echo(ctx: Context) -> object:
    """Show that the worker lives."""
    return await ctx.step.run("back", lambda: ctx.event.data)
