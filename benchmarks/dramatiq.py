"""dramatiq: ``python -m benchmarks.dramatiq`` prints JSON, a line a sample.

One process with the default of 8 threads and the default middleware; no results are kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks import queues
from benchmarks.counter import count_job
from benchmarks.queues import URL, Setup

THREADS = 8


def make_broker(url: str) -> RedisBroker:
    """A broker on a server, with one actor."""
    broker = RedisBroker(url=url)
    dramatiq.actor(count_job, broker=broker, queue_name="bench")
    return broker


def producer(url: str) -> Callable[[int, int], None]:
    """Queues jobs one by one: dramatiq has no call that sends several in a round trip."""
    actor = make_broker(url).get_actor("count_job")

    def add(count: int, size: int) -> None:  # noqa: ARG001
        for _ in range(count):
            actor.send()

    return add


def worker(url: str) -> list[str]:  # noqa: ARG001  the worker's broker takes it from the environment
    """Dramatiq's own command."""
    return [
        sys.executable,
        "-m",
        "dramatiq",
        "benchmarks.dramatiq:broker",
        "--processes",
        "1",
        "--threads",
        str(THREADS),
    ]


broker = make_broker(os.environ.get(URL, "redis://127.0.0.1"))
SETUPS = (
    Setup(
        f"{THREADS} threads",
        in_flight=THREADS,
        jobs=10_000,
        length="LLEN dramatiq:bench",
        producer=producer,
        worker=worker,
        starts={1: 5_000},
    ),
)

if __name__ == "__main__":
    queues.run(__doc__, "dramatiq", SETUPS)
