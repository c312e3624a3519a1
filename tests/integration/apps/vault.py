"""An app whose keys come from the environment, and the markers that no reader of the server may see."""

from __future__ import annotations

from stepflow import Concurrency, Context, Stepflow

SECRET = "swordfish"
app = Stepflow("vault")


def guard(word: str) -> dict[str, str]:
    """A step's result that has the word."""
    return {"kept": word}


@app.function("keep", event="vault/keep", concurrency=Concurrency(5, key="event.data.n"))
async def keep(ctx: Context) -> dict[str, str]:
    """Give the word back, through a step."""
    return await ctx.step.run("guard", guard, ctx.event.data["word"])
