"""An app whose functions invoke one that is limited, and so lives in one partition, from all of them."""

from __future__ import annotations

import asyncio
from typing import Any

from stepflow import Concurrency, Context, Stepflow
from tests.integration.apps.ledger import note

app = Stepflow("away")


@app.function("limited", concurrency=Concurrency(limit=4))
async def limited(ctx: Context[dict[str, Any]]) -> int:
    """Notes each run once it has begun, and doubles a number in a step."""
    data = ctx.event.data

    async def work() -> int:
        await asyncio.sleep(0.06)
        return 2 * int(data["n"])

    note(data["ledger"], ctx.run_id)
    return await ctx.step.run("work", work)


@app.function("parent")
async def parent(ctx: Context[dict[str, Any]]) -> int:
    """Invokes it twice at once."""
    data = ctx.event.data
    calls = [ctx.step.invoke("call", limited, data={**data, "n": data["n"] + more}) for more in (0, 1)]
    return sum(await asyncio.gather(*calls))
