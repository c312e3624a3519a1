"""Two editions of one app. Runs that began under the first go on under the second."""

from __future__ import annotations

import asyncio
from pathlib import Path

from stepflow import Context, Stepflow
from tests.support.ledgers import EffectLedger

STEPS = {
    "first": ["one", "two", "three", "four", "five"],
    "second": ["four", "new", "one", "three", "five"],
}
"""The second has a step more, one less, and one that has moved to the front."""
PARALLEL = {"first": ["kept", "removed"], "second": ["kept", "added"]}

first = Stepflow("editions")
second = Stepflow("editions")


async def _note(ctx: Context, edition: str, step: str) -> str:
    """Note that the step was executed, and wait, if it is the one that the event names, for a file."""
    data = ctx.event.data
    EffectLedger(data["ledger"]).write(ctx.run_id, step, note=edition)
    while step in data["gates"] and not Path(data["gates"][step]).exists():
        await asyncio.sleep(0.01)
    return f"{step} of the {edition}"


def _declare(app: Stepflow, edition: str) -> None:
    @app.function("serial")
    async def serial(ctx: Context) -> list[str]:
        """One step after the other."""
        return [await ctx.step.run(step, _note, ctx, edition, step) for step in STEPS[edition]]

    @app.function("parallel", retries=0)
    async def parallel(ctx: Context) -> list[str]:
        """Two steps at once."""
        return await asyncio.gather(*[ctx.step.run(step, _note, ctx, edition, step) for step in PARALLEL[edition]])


_declare(first, "first")
_declare(second, "second")
