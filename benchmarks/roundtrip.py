"""The yardstick of a single run's steps: one round trip of the worker's own client, with a script of one command."""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import time
from dataclasses import replace

from benchmarks.command import Case
from benchmarks.meter import take_note
from benchmarks.ours import sampled
from benchmarks.rig import Span
from benchmarks.sample import Sample
from benchmarks.servers import RedisServer, redis_server
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.scripts import Script
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_workers.event_loop import WorkerLoop

__all__ = ["round_trip"]

_TEXT = "return redis.call('HSET', KEYS[1], 'field', ARGV[1])"
_VALUE = "x" * 100


def round_trip(case: Case) -> Sample:
    """Calls one after the other; the time is the median of a call, times their number."""
    with redis_server() as server, asyncio.Runner(loop_factory=WorkerLoop) as runner:
        return sampled(case, runner.run(_calls(case, server)), server)


async def _calls(case: Case, server: RedisServer) -> Span:
    broker = AsyncBroker(server.url)
    script = Script("bench", _TEXT, hashlib.sha1(_TEXT.encode(), usedforsecurity=False).hexdigest())
    call = Command(("EVALSHA", script.sha, "1", "bench:roundtrip", _VALUE), int, script)
    for _ in range(case.warm_up):
        await broker.execute(call)
    first = take_note(0, workers=[os.getpid()], servers=[server.pid])
    times = []
    for _ in range(case.count - case.warm_up):
        began = time.perf_counter()
        await broker.execute(call)
        times.append(time.perf_counter() - began)
    last = take_note(len(times), workers=[os.getpid()], servers=[server.pid])
    await broker.close()
    return first, replace(last, at_s=first.at_s + statistics.median(times) * len(times))
