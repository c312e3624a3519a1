"""Functions that wait for many signals and for answers, for workers that are killed meanwhile."""

from __future__ import annotations

import os

from stepflow import Context, Stepflow

app = Stepflow("listener", redis_url=os.environ.get("STEPFLOW_REDIS_URL"))


@app.function("listen")
async def listen(ctx: Context) -> list[object]:
    """What the run was sent, in order, and the answer to a last question."""
    received: list[object] = []
    while len(received) < ctx.event.data["count"]:
        signal = await ctx.step.wait_for_signal("word", "word", timeout="2m")
        received.append(signal.data if signal else None)
        ctx.set("received", len(received))
        await ctx.step.run("work", lambda: None)
    return [*received, await ctx.step.ask("done", schema=bool, timeout="2m")]
