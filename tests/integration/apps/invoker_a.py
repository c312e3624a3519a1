"""App ``north``: it invokes functions of app ``south``, whose code it does not have."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, TypedDict

from stepflow import Context, Stepflow, reference_function
from tests.integration.apps.ledger import note

app = Stepflow("north")
OTHER = "tests.integration.apps.invoker_b"


class Scope(TypedDict):
    """Where a function ran, and whether the other app's code was there."""

    pid: int
    other_is_here: bool


def here() -> Scope:
    return {"pid": os.getpid(), "other_is_here": OTHER in sys.modules}


@app.function("leaf")
async def leaf(ctx: Context) -> Scope:
    return here()


@app.function("there-and-back")
async def there_and_back(ctx: Context) -> list[Scope]:
    """South invokes north again."""
    relay = reference_function("relay", app_id="south", output=list[Scope])
    return [here(), *await ctx.step.invoke("relay", relay)]


@app.function("parent")
async def parent(ctx: Context[dict[str, Any]]) -> str:
    """Waits for one child."""
    return str(await ctx.step.invoke("child", "south/gated", data={**ctx.event.data, "name": "child"}))


@app.function("many")
async def many(ctx: Context[dict[str, Any]]) -> list[str]:
    """Waits for ten children."""
    data = ctx.event.data
    gated = reference_function("gated", app_id="south", output=str)
    return await asyncio.gather(
        *[ctx.step.invoke("child", gated, data={**data, "name": f"child-{n}"}) for n in range(10)]
    )


@app.function("A", retries=2)
async def a(ctx: Context) -> None:
    note(ctx.event.data["ledger"], "A")
    await ctx.step.invoke("b", "south/B", data=ctx.event.data)


@app.function("C", retries=2)
async def c(ctx: Context) -> None:
    note(ctx.event.data["ledger"], "C")
    await ctx.step.invoke("d", "south/D", data=ctx.event.data)
