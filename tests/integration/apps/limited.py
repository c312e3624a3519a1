"""A function of which one step is executed at a time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from stepflow import Context, Stepflow

app = Stepflow("gated")


def hold(ledger: str, gate: str) -> None:
    """Note that it is in, and wait for the gate's file."""
    with Path(ledger).open("a") as lines:
        lines.write("in\n")
        lines.flush()
        os.fsync(lines.fileno())
    while not Path(gate).exists():
        time.sleep(0.01)


@app.function("one", concurrency=1)
async def one(ctx: Context) -> None:
    """One step, one at a time."""
    await ctx.step.run("hold", hold, ctx.event.data["ledger"], ctx.event.data["gate"])
