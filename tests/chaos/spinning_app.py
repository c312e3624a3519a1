"""Functions that catch everything around a step and request it again: code that no cancellation ends."""

from __future__ import annotations

import asyncio

from stepflow import Context, Stepflow, SyncContext

app = Stepflow("spinning", retries=0)


async def _slow() -> None:
    await asyncio.sleep(0.5)


async def _request(ctx: Context) -> object:
    match ctx.event.data:
        case "run":
            return await ctx.step.run("step", _slow)
        case "sleep":
            return await ctx.step.sleep("step", "1h")
        case "invoke":
            return await ctx.step.invoke("step", "stay")
        case _:
            return await ctx.step.wait_for_event("step", event="never", timeout="1h")


@app.function("spin")
async def spin(ctx: Context) -> object:
    """Request a step again and again."""
    while True:
        try:
            return await _request(ctx)
        except BaseException:
            continue


@app.function("spin-in-tasks")
async def spin_in_tasks(ctx: Context) -> None:
    """The same in two tasks of the run."""

    async def one(name: str) -> None:
        while True:
            try:
                await ctx.step.wait_for_event(name, event="never", timeout="1h")
                return
            except BaseException:
                continue

    await asyncio.gather(one("left"), one("right"))


@app.function("spin-plain")
def spin_plain(ctx: SyncContext) -> object:
    """The same in a thread."""
    while True:
        try:
            return ctx.step.wait_for_event("step", event="never", timeout="1h")
        except BaseException:
            continue


@app.function("spin-parallel")
def spin_parallel(ctx: SyncContext) -> None:
    """The same in several threads."""

    def one(name: str) -> None:
        while True:
            try:
                ctx.step.sleep(name, "1h")
                return
            except BaseException:
                continue

    ctx.step.parallel(lambda: one("left"), lambda: one("right"))


@app.function("stay")
async def stay(ctx: Context) -> None:
    """Wait for an event that nobody sends."""
    await ctx.step.wait_for_event("never", event="never", timeout="1h")


@app.function("neighbour")
async def neighbour(ctx: Context) -> int:
    """Steps of another run."""
    return sum([await ctx.step.run(f"s{n}", lambda n=n: n) for n in range(4)])
