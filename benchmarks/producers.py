"""What a producer of stepflow starts and sends; no worker runs."""

from __future__ import annotations

import os
from collections.abc import Callable

import redis

from benchmarks import flows
from benchmarks.command import Case
from benchmarks.meter import Note, take_note
from benchmarks.ours import sampled
from benchmarks.rig import Span
from benchmarks.sample import Sample
from benchmarks.servers import ProcessError, RedisServer, redis_server
from stepflow import Event, Stepflow
from stepflow_broker.protocol.keys import Keys

__all__ = ["send", "start"]


def start(case: Case) -> Sample:
    """Start runs of a function, one by one or many in a round trip."""

    def add(app: Stepflow, size: int) -> None:
        if size == 1:
            app.start(flows.seq, 10)
        else:
            app.start_many(flows.seq, [10] * size)

    return _produce(case, add, lambda client: client.zcard(Keys()("LIVE")))


def send(case: Case) -> Sample:
    """Send events, many in a round trip."""
    return _produce(
        case,
        lambda app, size: app.send([Event("bench/event", 10) for _ in range(size)]),
        lambda client: client.xlen(Keys()("EVENTS")),
    )


def _produce(case: Case, add: Callable[[Stepflow, int], object], count: Callable[[redis.Redis], int]) -> Sample:
    """Add as many as the case says, so many in a call as are to be in flight; the first 20 % are the warm-up.

    Args:
        case: what is measured.
        add: adds so many in one call.
        count: how many there are now.
    """
    size = case.in_flight
    warm_up = max(case.warm_up // size, 1)
    calls = max(case.count // size, warm_up + 1)
    with redis_server() as server, redis.Redis.from_url(server.url) as client:
        app = Stepflow(flows.QUEUE, redis_url=server.url)
        for _ in range(warm_up):
            add(app, size)
        first = _note(warm_up * size, server)
        for _ in range(calls - warm_up):
            add(app, size)
        span: Span = first, _note(calls * size, server)
        app.close()
        if (found := count(client)) != calls * size:
            raise ProcessError(f"{calls * size} were sent, and the server has {found}")
        return sampled(case, span, server)


def _note(count: int, server: RedisServer) -> Note:
    return take_note(count, workers=[os.getpid()], servers=[server.pid])
