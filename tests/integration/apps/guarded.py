"""An app for tests of secrets and TLS: all that it, its libraries and stepflow log is on standard error."""

from __future__ import annotations

import ctypes
import logging
import os

from stepflow import Context, Stepflow

logging.basicConfig(level=logging.DEBUG)
app = Stepflow("guarded")


async def held(seconds: int) -> int:
    """Sleep in C code that does not give the GIL back, so that the lease sidecar is needed."""
    ctypes.PyDLL(None).sleep(seconds)
    return os.getpid()


@app.function("grab")
async def grab(ctx: Context) -> int:
    return await ctx.step.run("held", held, ctx.event.data["seconds"])


@app.function("tells", retries=0)
async def tells(ctx: Context) -> None:
    """Fail with all that a handler can find out about its app."""
    backend = app.backend
    raise ValueError(
        f"{app!r} {backend!r} {backend.broker!r} {backend.broker.client(backend.partition.keys)!r} {ctx!r}"
    )


@app.function("passes-on")
async def passes_on(ctx: Context) -> str:
    await ctx.step.run("send", app.asend, "guarded/sent", {"by": ctx.run_id})
    return "sent"
