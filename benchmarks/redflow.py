"""redflow: ``python -m benchmarks.redflow`` prints JSON, a line a sample.

Runs are queued first, and then a worker is started. It has hiredis, which redflow recommends, uvloop, as our workers
have, and with 200 runs the number of slots that was the fastest: 20 for steps; 50 for children, because a parent polls
every 250 ms for a child that another slot has taken.
"""

from __future__ import annotations

import asyncio
import functools
import sys

from redflow import create_client
from redflow.registry import get_default_registry

from benchmarks import durable
from benchmarks.durable import DEADLINE_S, Load, Setup
from benchmarks.redflow_flows import APP
from benchmarks.servers import redis_ask, redis_server, started, wait_until

_AT_ONCE = 50
"""How many runs are being queued at once."""


def execute(load: Load, *, slots: int) -> str:
    """Queue runs, start a worker, and wait until they have succeeded."""
    with redis_server() as server:
        asyncio.run(queue(server.url, load))
        worker = [sys.executable, "-m", "benchmarks.redflow_flows", server.url, str(slots)]
        with started(worker, log=load.log, env=load.env(server.pid)) as process:
            load.wait(process)
            count = load.runs * (1 + load.size * (load.function == "invoke"))
            wait_until(
                lambda: int(redis_ask(server.port, "ZCARD redflow:v1:runs:status:succeeded")) == count,
                process=process,
                log=load.log,
                what=f"the success of {count} runs",
                deadline_s=DEADLINE_S,
            )
        return server.version


async def queue(url: str, load: Load) -> None:
    """Queue the runs of a load."""
    client = create_client(app=APP, url=url)
    await client.sync_registry(get_default_registry(), app=APP)
    for first in range(0, load.runs, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, load.runs))
        await asyncio.gather(*[client.run_by_name(load.function, load.size) for _ in some])
    await client.redis.aclose()


def setup(slots: int, counts: dict[tuple[str, int], int]) -> Setup:
    """The setup with so many slots."""
    settings = f"{slots} slot{'s' * (slots > 1)}, uvloop, AOF everysec"
    return Setup(settings, functools.partial(execute, slots=slots), counts)


SETUPS = (
    setup(1, {("seq10", 1): 4_000, ("fan1000", 200): 5_000, ("invoke", 1): 800}),
    setup(20, {("seq10", 200): 10_000}),
    setup(50, {("invoke", 200): 2_000}),
)

if __name__ == "__main__":
    durable.run(__doc__, "redflow", "redflow", SETUPS)
