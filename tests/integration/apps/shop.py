"""An app for the tests of the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import BaseModel

from stepflow import Context, NonRetriableError, Stepflow

app = Stepflow("shop")
other = Stepflow("other")
not_an_app = "shop"


class Order(BaseModel):
    """What the order function is given."""

    number: int


async def give(value: object) -> object:
    return value


async def refuse(reason: str) -> None:
    raise NonRetriableError(reason)


async def wait_for_file(path: str) -> str:
    """End when the file exists; say by another file that it has begun."""
    Path(f"{path}.begun").touch()
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "found"


@app.function("order", event="shop/order.placed")
async def order(ctx: Context[Order]) -> dict:
    first = await ctx.step.run("reserve", give, ctx.event.data.number)
    left, right = await asyncio.gather(
        ctx.step.run("pack", give, "packed"),
        ctx.step.run("bill", give, {"total": 40}),
    )
    return {"number": first, "left": left, "right": right}


@app.function("broken", retries=0)
async def broken(ctx: Context) -> None:
    await ctx.step.run("fine", give, 1)
    await ctx.step.run("refused", refuse, "the card was declined")


@app.function("slow")
async def slow(ctx: Context) -> str:
    before = await ctx.step.run("before", give, "before")
    await ctx.step.run("wait", wait_for_file, ctx.event.data["path"])
    return str(before)


@app.function("stubborn", retries=20)
async def stubborn(ctx: Context) -> None:
    async def fail() -> None:
        raise ValueError("not yet")

    await asyncio.gather(ctx.step.run("fail", fail), ctx.step.run("fine", give, 1))
