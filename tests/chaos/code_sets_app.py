"""An app of which each worker has a part: FUNCTIONS has the names of its functions, MOVED those with another queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from stepflow import Concurrency, Context, Stepflow

__all__ = ["FUNCTIONS", "app"]

Body = Callable[[Context], Awaitable[int]]
app = Stepflow("parts")


async def _number(n: int) -> int:
    await asyncio.sleep(0.01)
    return n


async def _fan(ctx: Context) -> int:
    return sum(await asyncio.gather(*[ctx.step.run(f"part-{n}", _number, n) for n in range(3)]))


async def _chain(ctx: Context) -> int:
    return sum([await ctx.step.run(f"part-{n}", _number, n) for n in range(3)])


async def _nap(ctx: Context) -> int:
    await ctx.step.sleep("nap", "200ms")
    return await ctx.step.run("after", _number, 3)


async def _call(ctx: Context) -> int:
    return int(await ctx.step.invoke("call", "fan"))


FUNCTIONS: dict[str, tuple[Body, dict[str, Any]]] = {
    "fan": (_fan, {}),
    "keyed": (_chain, {"concurrency": Concurrency(1, key="event.data.key")}),
    "limited": (_fan, {"concurrency": [Concurrency(2), Concurrency(3, scope="app", key="event.data.key")]}),
    "ranked": (_chain, {"priority": "event.data.key * 10"}),
    "nap": (_nap, {}),
    "call": (_call, {}),
}
"""The body of each function, and its options. Each returns 3."""

_here = os.environ.get("FUNCTIONS", ",".join(FUNCTIONS)).split(",")
_moved = os.environ.get("MOVED", "").split(",")
for _name in _here:
    _body, _options = FUNCTIONS[_name]
    app.function(_name, **_options, **({"queue": "moved"} if _name in _moved else {}))(_body)
