"""Functions whose code differs from release to release; a release is named by ``STEPFLOW_VERSION``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from stepflow import Context, Stepflow

app = Stepflow("released")
RELEASE = os.environ.get("STEPFLOW_VERSION", "")


def hold(path: str) -> str:
    """A handler that ends when its file exists, and says that it has begun by another."""
    Path(f"{path}.{RELEASE}").touch()
    while not Path(path).exists():
        time.sleep(0.02)
    return RELEASE


@app.function("contract", pin="version")
async def contract(ctx: Context) -> str:
    return await ctx.step.run("hold", hold, ctx.event.data["path"])


@app.function("order")
async def order(ctx: Context) -> list[str]:
    is_new = RELEASE == "1.5" and ctx.patched("another way")
    first = await ctx.step.run("first", lambda: RELEASE)
    held = await ctx.step.run("hold", hold, ctx.event.data["path"])
    return ["new way" if is_new else "old way", first, held]
