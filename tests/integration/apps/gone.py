"""The shop after its function for orders was taken away."""

from __future__ import annotations

from stepflow import Context, Stepflow

app = Stepflow("shop")


@app.function("newsletter")
async def newsletter(ctx: Context) -> None: ...
