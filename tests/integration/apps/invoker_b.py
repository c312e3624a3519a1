"""App ``south``: it invokes functions of app ``north``, whose code it does not have."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from stepflow import Context, Stepflow, reference_function
from tests.integration.apps.ledger import note

app = Stepflow("south")
OTHER = "tests.integration.apps.invoker_a"


@app.function("relay")
async def relay(ctx: Context) -> list[Any]:
    """Invokes the app that invoked it."""
    leaf = reference_function("leaf", app_id="north")
    return [{"pid": os.getpid(), "other_is_here": OTHER in sys.modules}, await ctx.step.invoke("leaf", leaf)]


async def _wait(ledger: str, name: str, gate: str) -> str:
    note(ledger, name)
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return f"{name} came"


@app.function("gated")
async def gated(ctx: Context[dict[str, Any]]) -> str:
    """Ends when a file exists."""
    data = ctx.event.data
    return await ctx.step.run("wait", _wait, data["ledger"], data["name"], data["gate"])


@app.function("B", retries=2)
async def b(ctx: Context) -> None:
    note(ctx.event.data["ledger"], "B")
    await ctx.step.invoke("c", "north/C", data=ctx.event.data)


@app.function("D", retries=2)
async def d(ctx: Context) -> None:
    note(ctx.event.data["ledger"], "D")
    raise ValueError("D always fails")
