"""A saga whose handlers write a line each time that they run, and wait for a file where the input says so."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from stepflow import Context, NonRetriableError, Stepflow, SyncContext
from tests.integration.apps.ledger import note

app = Stepflow("saga")


def _passes(data: dict[str, Any], line: str) -> bool:
    return line != data.get("wait_at") or Path(data["gate"]).exists()


async def book(data: dict[str, Any], name: str) -> str:
    note(data["ledger"], f"book {name}")
    while not _passes(data, f"book {name}"):
        await asyncio.sleep(0.01)
    return name


def undo(data: dict[str, Any], name: str) -> None:
    note(data["ledger"], f"undo {name}")
    while not _passes(data, f"undo {name}"):
        time.sleep(0.01)


@app.function("trip", retries=0)
async def trip(ctx: Context) -> None:
    """Three bookings, two of them at once, and a failure."""
    data = ctx.event.data
    await ctx.step.run("a", book, data, "a", undo=lambda name: undo(data, name))
    await asyncio.gather(
        *[ctx.step.run(one, book, data, one, undo=lambda name: undo(data, name)) for one in ("b", "c")]
    )
    raise NonRetriableError("full")


@app.function("trip-sync", retries=0)
def trip_sync(ctx: SyncContext) -> None:
    """The same, as a plain function."""
    data = ctx.event.data
    for one in ("a", "b", "c"):
        ctx.step.run(one, book, data, one, undo=lambda name: undo(data, name))
    raise NonRetriableError("full")


@app.function("deadly", retries=0)
async def deadly(ctx: Context) -> None:
    """Its code kills the worker once its step has completed."""
    data = ctx.event.data
    await ctx.step.run("a", book, data, "a", undo=lambda name: undo(data, name))
    os.kill(os.getpid(), signal.SIGKILL)
