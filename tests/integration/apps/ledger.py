"""An app whose handlers write a line each time that they run, to a file that tests read."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

from stepflow import Context, Stepflow, SyncContext
from tests.support.ledgers import whole_lines

app = Stepflow("ledger")


def note(path: str, line: str) -> None:
    """Append a line, and make sure that it is on disk before the handler goes on."""
    with Path(path).open("a") as ledger:
        ledger.write(line + "\n")
        ledger.flush()
        os.fsync(ledger.fileno())


def count(path: Path) -> Counter[str]:
    """How often each line was written."""
    return Counter(whole_lines(path))


async def _step(path: str, name: str, gate: str = "") -> int:
    note(path, name)
    while gate and not Path(gate).exists():
        await asyncio.sleep(0.01)
    return os.getpid()


def _sync_step(path: str, name: str, gate: str = "") -> int:
    note(path, name)
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    return os.getpid()


@app.function("five")
async def five(ctx: Context) -> list[int]:
    """Five steps; the one named in the input waits for a file."""
    data = ctx.event.data
    return [
        await ctx.step.run(f"s{n}", _step, data["ledger"], f"s{n}", data["gate"] if n == data.get("wait_at") else "")
        for n in range(1, 6)
    ]


@app.function("five-sync")
def five_sync(ctx: SyncContext) -> list[int]:
    """The same, as a plain function."""
    data = ctx.event.data
    return [
        ctx.step.run(f"s{n}", _sync_step, data["ledger"], f"s{n}", data["gate"] if n == data.get("wait_at") else "")
        for n in range(1, 6)
    ]


@app.function("fan")
async def fan(ctx: Context) -> list[int]:
    """Parallel steps that wait until as many of them run at once as the input says."""
    data = ctx.event.data
    return await asyncio.gather(
        *[
            ctx.step.run(f"part-{n}", _rendezvous, data["ledger"], f"part-{n}", data["together"])
            for n in range(data["n"])
        ]
    )


async def _rendezvous(path: str, name: str, together: int) -> int:
    note(path, name)
    while sum(count(Path(path)).values()) < together:
        await asyncio.sleep(0.01)
    return os.getpid()


@app.function("block")
async def block(ctx: Context) -> str:
    """A step that blocks the event loop."""

    async def hold() -> str:
        time.sleep(ctx.event.data["seconds"])
        return "done"

    return await ctx.step.run("hold", hold)


@app.function("deadly", retries=0)
async def deadly(ctx: Context) -> str:
    """A step that kills its worker."""

    async def die() -> None:
        note(ctx.event.data["ledger"], "die")
        os._exit(9)

    await ctx.step.run("before", _step, ctx.event.data["ledger"], "before")
    await ctx.step.run("die", die)
    return "never"
