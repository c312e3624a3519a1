"""An app whose handlers upload a file in parts, and send a heartbeat after each."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from stepflow import Context, Stepflow, SyncContext
from tests.integration.apps.ledger import note

app = Stepflow("uploads")
_PARTS = 10


async def _upload(ctx: Context, ledger: str, gate: str) -> Any:
    before = ctx.step.last_heartbeat
    for part in range((before or {"part": 0})["part"] + 1, _PARTS + 1):
        note(ledger, f"part {part}")
        ctx.step.heartbeat({"part": part})
        while part == 5 and not Path(gate).exists():
            await asyncio.sleep(0.01)
    return before


def _upload_sync(ctx: SyncContext, ledger: str, gate: str) -> Any:
    before = ctx.step.last_heartbeat
    for part in range((before or {"part": 0})["part"] + 1, _PARTS + 1):
        note(ledger, f"part {part}")
        ctx.step.heartbeat({"part": part})
        while part == 5 and not Path(gate).exists():
            time.sleep(0.01)
    return before


@app.function("upload")
async def upload(ctx: Context) -> Any:
    """Ten parts; after the fifth it waits for a file. It returns the heartbeat that its last attempt began with."""
    return await ctx.step.run("upload", _upload, ctx, *ctx.event.data)


@app.function("upload-sync")
def upload_sync(ctx: SyncContext) -> Any:
    """The same, as plain functions."""
    return ctx.step.run("upload", _upload_sync, ctx, *ctx.event.data)


@app.function("upload-beside")
async def upload_beside(ctx: Context) -> Any:
    """The same, in a step with a job of its own."""
    return (
        await asyncio.gather(
            ctx.step.run("upload", _upload, ctx, *ctx.event.data), ctx.step.run("other", asyncio.sleep, 0)
        )
    )[0]
