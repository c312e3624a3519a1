"""taskiq: ``python -m benchmarks.taskiq`` prints JSON, a line a sample.

Both of its Redis queues, with an async task and the default of 100 tasks at once: the list, whose jobs are lost when
the worker that popped them dies, and the stream, whose jobs are acknowledged. No results are kept.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from taskiq_redis import ListQueueBroker, RedisStreamBroker

from benchmarks import queues
from benchmarks.counter import count_job
from benchmarks.queues import URL, Setup

AT_ONCE = 100
Broker = ListQueueBroker | RedisStreamBroker


async def count_job_async() -> None:
    """A job."""
    count_job()


def make_broker(kind: type[Broker], url: str) -> Broker:
    """A broker on a server, with one task."""
    broker = kind(url, queue_name="bench")
    broker.register_task(count_job_async, task_name="count_job")
    return broker


def producer(kind: type[Broker], url: str) -> Callable[[int, int], None]:
    """Queues jobs one by one: taskiq has no call that sends several in a round trip."""
    broker, runner = make_broker(kind, url), asyncio.Runner()
    runner.run(broker.startup())
    task = broker.find_task("count_job")
    assert task is not None

    async def send(count: int) -> None:
        for _ in range(count):
            await task.kiq()

    def add(count: int, size: int) -> None:  # noqa: ARG001
        runner.run(send(count))

    return add


def worker(broker: str) -> list[str]:
    """Taskiq's own command; the broker takes the server from the environment."""
    options = ("--workers", "1", "--max-async-tasks", str(AT_ONCE), "--log-level", "WARNING")
    return [sys.executable, "-m", "taskiq", "worker", f"benchmarks.taskiq:{broker}", *options]


def setup(kind: type[Broker], name: str, length: str, settings: str) -> Setup:
    """The setup of a broker."""
    return Setup(
        settings,
        in_flight=AT_ONCE,
        jobs=12_000,
        length=length,
        producer=lambda url: producer(kind, url),
        worker=lambda _: worker(name),
        starts={1: 5_000},
    )


list_broker = make_broker(ListQueueBroker, os.environ.get(URL, "redis://127.0.0.1"))
stream_broker = make_broker(RedisStreamBroker, os.environ.get(URL, "redis://127.0.0.1"))
SETUPS = (
    setup(ListQueueBroker, "list_broker", "LLEN bench", "list, not acknowledged"),
    setup(RedisStreamBroker, "stream_broker", "XLEN bench", "stream, acknowledged"),
)

if __name__ == "__main__":
    queues.run(__doc__, "taskiq", SETUPS)
