"""The app whose workers go on while their server and their network fail. Every handler writes a ledger."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from stepflow import Context, Stepflow, SyncContext
from tests.support.ledgers import EffectLedger

app = Stepflow("faults")
FUNCTIONS = ("five", "slow", "five-sync", "fan", "family")
"""Those that `Load` starts by name; ``ordered`` and ``billed`` are started by the event ``order/made``."""


def note(ledger: str, run_id: str, step: str) -> str:
    """Write down an execution, and return what no other execution returns."""
    value = f"{os.getpid()}-{time.monotonic_ns()}"
    EffectLedger(ledger).write(run_id, step, note=value)
    return value


async def anote(ledger: str, run_id: str, step: str, seconds: float = 0.005) -> str:
    """As `note`, and it takes a while."""
    await asyncio.sleep(seconds)
    return note(ledger, run_id, step)


@app.function("five", retries=0)
async def five(ctx: Context) -> list[str]:
    """Five steps, one after the other."""
    ledger = ctx.event.data["ledger"]
    return [await ctx.step.run(f"s{n}", anote, ledger, ctx.run_id, f"s{n}") for n in range(5)]


@app.function("slow", retries=0)
async def slow(ctx: Context) -> list[str]:
    """Steps that take long enough for most faults to come between them."""
    ledger = ctx.event.data["ledger"]
    return [await ctx.step.run(f"s{n}", anote, ledger, ctx.run_id, f"s{n}", 0.2) for n in range(8)]


@app.function("five-sync", retries=0)
def five_sync(ctx: SyncContext) -> list[str]:
    """The same, as a plain function."""
    ledger = ctx.event.data["ledger"]
    return [ctx.step.run(f"s{n}", note, ledger, ctx.run_id, f"s{n}") for n in range(5)]


@app.function("fan", retries=0)
async def fan(ctx: Context) -> list[str]:
    """Three steps at once, which any worker may take, and one after them."""
    ledger = ctx.event.data["ledger"]
    parts = [ctx.step.run(f"part{n}", anote, ledger, ctx.run_id, f"part{n}") for n in range(3)]
    return [*await asyncio.gather(*parts), await ctx.step.run("last", anote, ledger, ctx.run_id, "last")]


@app.function("family", retries=0)
async def family(ctx: Context) -> list[str]:
    """A step, a child, a short sleep, another step."""
    ledger = ctx.event.data["ledger"]
    first = await ctx.step.run("first", anote, ledger, ctx.run_id, "first")
    child = await ctx.step.invoke("child", "child", {"ledger": ledger})
    await ctx.step.sleep("nap", 0.05)
    return [first, child, await ctx.step.run("last", anote, ledger, ctx.run_id, "last")]


@app.function("child", retries=0)
async def child(ctx: Context) -> str:
    """One step."""
    return await ctx.step.run("only", anote, ctx.event.data["ledger"], ctx.run_id, "only")


@app.function("ordered", event="order/made", retries=0)
async def ordered(ctx: Context) -> list[str]:
    """One step, started by an event."""
    return [await ctx.step.run("only", anote, ctx.event.data["ledger"], ctx.run_id, "only")]


@app.function("billed", event="order/*", retries=0)
async def billed(ctx: Context) -> list[str]:
    """One step, started by the same event."""
    return [await ctx.step.run("only", anote, ctx.event.data["ledger"], ctx.run_id, "only")]


@app.function("nap", retries=0)
async def nap(ctx: Context) -> list[str]:
    """A sleep for as long as the event says, then, if it says until when, another."""
    data = ctx.event.data
    before = await ctx.step.run("before", anote, data["ledger"], ctx.run_id, "before")
    await ctx.step.sleep("for", data["for"])
    slept = await ctx.step.run("slept", anote, data["ledger"], ctx.run_id, "slept")
    if "until" not in data:
        return [before, slept]
    await ctx.step.sleep_until("until", data["until"])
    return [before, slept, await ctx.step.run("woke", anote, data["ledger"], ctx.run_id, "woke")]


@app.function("gated", retries=0)
async def gated(ctx: Context) -> list[str]:
    """Steps that wait for files, one after the other."""
    data: dict[str, Any] = ctx.event.data
    return [
        await ctx.step.run(f"g{n}", _wait_for, data["ledger"], ctx.run_id, f"g{n}", gate)
        for n, gate in enumerate(data["gates"])
    ]


async def _wait_for(ledger: str, run_id: str, step: str, gate: str) -> str:
    value = note(ledger, run_id, step)
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return value
