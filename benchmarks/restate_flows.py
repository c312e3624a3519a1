"""The services that the benchmark of Restate runs, served by Hypercorn: ``python -m benchmarks.restate_flows PORT``."""

from __future__ import annotations

import sys

import hypercorn
import hypercorn.asyncio
import restate
import uvloop

from benchmarks.durable import count_step

_NO_LIMIT = 2**31 - 1
bench = restate.Service("bench")


async def noop() -> int:
    """A step that does nothing."""
    return 0


@bench.handler()
async def seq(ctx: restate.Context, size: int) -> int:
    """Sequential steps."""
    for n in range(size):
        await ctx.run_typed(f"s{n}", noop)
        count_step()
    return size


@bench.handler()
async def fan(ctx: restate.Context, size: int) -> int:
    """Parallel steps, and their join."""
    steps = await restate.gather(*[ctx.run_typed(f"s{n}", noop) for n in range(size)])
    for _ in steps:
        count_step()
    return len(steps)


@bench.handler()
async def child(ctx: restate.Context, value: int) -> int:  # noqa: ARG001  every handler has a context
    """A child that does nothing."""
    return value


@bench.handler()
async def invoke(ctx: restate.Context, size: int) -> int:
    """Children, one after the other."""
    for n in range(size):
        await ctx.service_call(child, arg=n)
        count_step()
    return size


app = restate.app([bench])


def main() -> None:
    """Serve until killed, with the limits that Restate's documentation sets for production."""
    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.h2_max_concurrent_streams = config.keep_alive_max_requests = config.keep_alive_timeout = _NO_LIMIT
    uvloop.run(hypercorn.asyncio.serve(app, config))


if __name__ == "__main__":
    main()
