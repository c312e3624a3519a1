"""What the workers of the fault tests serve. Every handler writes the ledger of effects that its event names."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import secrets
import time
from pathlib import Path

from stepflow import Concurrency, Context, Stepflow
from tests.support.ledgers import EffectLedger

STEPS = 5
MEMORY_BYTES = 512 * 1024 * 1024
SECOND_QUEUE = "chaos-aside"

app = Stepflow("chaos")


async def _work(ctx: Context, step: str, seconds: float) -> str:
    """Take some time; the result is one that no other execution has, and the ledger has it too."""
    token = secrets.token_hex(8)
    with EffectLedger(ctx.event.data["ledger"]).span(ctx.run_id, step, attempt=ctx.attempt, note=token):
        await asyncio.sleep(seconds)
    return token


async def _until(gate: str) -> None:
    while not Path(gate).exists():
        await asyncio.sleep(0.01)


# -- journeys --------------------------------------------------------------------


@app.function("journey")
async def journey(ctx: Context) -> list[str]:
    """Five steps; half-way, an invoke, a sleep or two steps at once, if the event says so."""
    data = ctx.event.data
    tokens = []
    for n in range(1, STEPS + 1):
        tokens.append(await ctx.step.run(f"s{n}", _work, ctx, f"s{n}", data["seconds"]))
        if n == 2 and data["detour"] == "invoke":
            await ctx.step.invoke("errand", errand, data=data)
        elif n == 2 and data["detour"] == "sleep":
            await ctx.step.sleep("nap", 0.3)
        elif n == 2 and data["detour"] == "fan":
            await asyncio.gather(*[ctx.step.run(name, _work, ctx, name, data["seconds"]) for name in ("left", "right")])
    return tokens


@app.function("maps")
async def maps(ctx: Context) -> tuple[list[str], list[int]]:
    """Two maps at once: of a handler, whose results say of which item they are, and of a function."""
    count, ledger = ctx.event.data["count"], EffectLedger(ctx.event.data["ledger"])

    async def item(number: int) -> str:
        token = secrets.token_hex(8)
        await asyncio.sleep(0.02)
        ledger.write(ctx.run_id, f"item {number}", note=token)
        return f"{number} {token}"

    handled, invoked = await asyncio.gather(
        ctx.step.map("items", item, range(count), at_once=20),
        ctx.step.map("children", double, range(count // 10), at_once=5),
    )
    return handled, invoked


@app.function("double")
async def double(ctx: Context) -> int:
    """A child of a map."""
    return int(ctx.event.data) * 2


@app.function("errand")
async def errand(ctx: Context) -> str:
    """One step."""
    return await ctx.step.run("errand", _work, ctx, "errand", ctx.event.data["seconds"])


# -- one at a time for each key ---------------------------------------------------


@app.function("keyed", concurrency=Concurrency(1, key="event.data.key"))
async def keyed(ctx: Context) -> str:
    """A step that no other of its key may overlap."""
    return await ctx.step.run("alone", _alone, ctx)


async def _alone(ctx: Context) -> str:
    data = ctx.event.data
    with EffectLedger(data["ledger"]).span(ctx.run_id, "alone", attempt=ctx.attempt, note=data["key"]):
        await asyncio.sleep(data["seconds"])
    return str(data["key"])


# -- timers -----------------------------------------------------------------------


@app.function("alarm")
async def alarm(ctx: Context) -> int:
    """A sleep until a time, and a step that says when it was executed."""
    data = ctx.event.data
    await ctx.step.sleep_until("until", data["due"])
    return await ctx.step.run("fired", _fired, ctx)


async def _fired(ctx: Context) -> int:
    """The clock of this machine is the server's, since they are the same machine."""
    EffectLedger(ctx.event.data["ledger"]).write(ctx.run_id, "fired", note=str(time.time()))
    return os.getpid()


@app.function("aside", queue=SECOND_QUEUE)
async def aside(ctx: Context) -> str:
    """Other work, on a queue of its own."""
    return await ctx.step.run("aside", _work, ctx, "aside", 0)


# -- workers that are held up ------------------------------------------------------


@app.function("gated")
async def gated(ctx: Context) -> list[int]:
    """Two steps, each of which waits for a file."""
    return [await ctx.step.run(name, _behind, ctx, name) for name in ("one", "two")]


async def _behind(ctx: Context, name: str) -> int:
    data = ctx.event.data
    with EffectLedger(data["ledger"]).span(ctx.run_id, name):
        await _until(data[name])
    return os.getpid()


@app.function("grab")
async def grab(ctx: Context) -> int:
    """A step whose C code sleeps without giving the GIL back: no thread of its process runs meanwhile."""
    return await ctx.step.run("grab", _grab, ctx)


async def _grab(ctx: Context) -> int:
    with EffectLedger(ctx.event.data["ledger"]).span(ctx.run_id, "grab"):
        ctypes.PyDLL(None).sleep(ctx.event.data["seconds"])
    return os.getpid()


# -- steps that take their worker with them -----------------------------------------


@app.function("deadly", retries=0)
async def deadly(ctx: Context) -> str:
    """Its second step ends the process, in the way that the event says."""
    await ctx.step.run("before", _work, ctx, "before", 0)
    await ctx.step.run("die", _die, ctx)
    return "never"


async def _die(ctx: Context) -> None:
    EffectLedger(ctx.event.data["ledger"]).write(ctx.run_id, "die", attempt=ctx.attempt)
    if ctx.event.data["how"] == "exit":
        os._exit(9)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, most))
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    while malloc(1024 * 1024):
        pass
    os.abort()  # as C code does that cannot go on without memory


@app.function("hungry", retries=1)
async def hungry(ctx: Context) -> str:
    """A step that takes all the memory that its process may have."""
    return await ctx.step.run("eat", _eat, ctx)


async def _eat(ctx: Context) -> str:
    EffectLedger(ctx.event.data["ledger"]).write(ctx.run_id, "eat", attempt=ctx.attempt)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY, "this would take the machine's memory"
    eaten = []
    while True:
        eaten.append(bytearray(16 * 1024 * 1024))
