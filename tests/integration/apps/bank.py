"""An app whose function fails as long as a file exists."""

from __future__ import annotations

from pathlib import Path

from stepflow import Context, Stepflow

app = Stepflow("bank")


async def charge(closed: str) -> str:
    if Path(closed).exists():
        raise ValueError("the bank is closed")
    return "charged"


@app.function("order", retries=0)
async def order(ctx: Context) -> str:
    return await ctx.step.with_options(retries=0).run("charge", charge, ctx.event.data["closed"])
