"""An app whose handler keeps memory."""

from __future__ import annotations

import os

from stepflow import Context, Stepflow

app = Stepflow("leaking")
_KEPT: list[bytes] = []


async def _leak(size_mib: int) -> int:
    _KEPT.append(b"x" * (size_mib * 1024 * 1024))
    return os.getpid()


@app.function("leak", concurrency=1)
async def leak(ctx: Context) -> int:
    """Keep so many MiB; the id of the process."""
    return await ctx.step.run("leak", _leak, ctx.event.data)
