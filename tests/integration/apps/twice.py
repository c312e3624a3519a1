"""Two functions with one id."""

from __future__ import annotations

from stepflow import Context, Stepflow

app = Stepflow("twice")


@app.function("same")
async def first(ctx: Context) -> None: ...


@app.function("same")
async def second(ctx: Context) -> None: ...
