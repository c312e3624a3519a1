"""An app whose steps fail, take long, or kill their worker, as the data of the event says."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from stepflow import Context, Stepflow, SyncContext

app = Stepflow("shop")


def once(path: str, action: str) -> str:
    """Do something the first time: ``die`` kills the worker, ``hang`` waits until it is killed from outside."""
    mark = Path(path)
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while action == "hang":
            time.sleep(0.05)
    return "done"


@app.function("first", retries=1)
async def first(ctx: Context) -> str:
    """A step of the continuation, after a step that ends."""
    await ctx.step.run("before", lambda: 1)
    return await ctx.step.run("long", once, ctx.event.data["path"], ctx.event.data["action"])


@app.function("parallel", retries=1)
async def parallel(ctx: Context) -> list[str]:
    """Steps that are jobs of their own."""
    data = ctx.event.data
    return list(
        await asyncio.gather(
            ctx.step.run("long", once, data["path"], data["action"]), ctx.step.run("other", lambda: "other")
        )
    )


@app.function("own", retries=1)
async def own(ctx: Context) -> str:
    """The function's own code."""
    return once(ctx.event.data["path"], ctx.event.data["action"])


@app.function("plain", retries=1)
def plain(ctx: SyncContext) -> str:
    """A function that is not asynchronous."""
    return ctx.step.run("long", once, ctx.event.data["path"], ctx.event.data["action"])
