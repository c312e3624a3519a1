"""An app for tests of rounds: each round adds to a ledger, with keys that no other round has."""

from __future__ import annotations

from stepflow import Context, Stepflow
from tests.integration.apps.ledger import note

app = Stepflow("loops")
ROUNDS = 12


@app.function("child")
async def child(ctx: Context) -> int:
    def add() -> int:
        note(ctx.event.data["path"], ctx.step.idempotency_key)
        return 1

    return await ctx.step.run("add", add)


@app.function("loop")
async def loop(ctx: Context) -> int:
    data = ctx.event.data

    def add() -> int:
        note(data["path"], ctx.step.idempotency_key)
        return 1

    own = await ctx.step.start_child("child", child, {"path": data["path"]})
    total = data.get("total", 0) + await ctx.step.run("add", add) + await own.result()
    return total if ctx.round + 1 == ROUNDS else ctx.continue_as_new({**data, "total": total})
