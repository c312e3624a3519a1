"""RQ: ``python -m benchmarks.rq`` prints JSON, a line a sample.

`SimpleWorker` does jobs in the worker's process; the worker that RQ starts by default forks for each. Both keep RQ's
defaults: pickle, a result kept for 500 s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import rq
from redis import Redis

from benchmarks import queues
from benchmarks.queues import Setup


def producer(url: str, job: str) -> Callable[[int, int], None]:
    """Queues jobs with `enqueue`, or `enqueue_many` when several go in a round trip."""
    queue = rq.Queue("bench", connection=Redis.from_url(url))

    def add(count: int, size: int) -> None:
        for _ in range(0, count, size):
            if size == 1:
                queue.enqueue(job)
            else:
                queue.enqueue_many([rq.Queue.prepare_data(job) for _ in range(size)])

    return add


def worker(url: str, *options: str) -> list[str]:
    """RQ's own command."""
    quiet = ("--logging_level", "WARNING", "--disable-job-desc-logging")
    return [sys.executable, "-m", "rq.cli", "worker", "bench", "--url", url, *quiet, *options]


SETUPS = (
    Setup(
        "SimpleWorker",
        in_flight=1,
        jobs=2_500,
        length="LLEN rq:queue:bench",
        producer=lambda url: producer(url, "benchmarks.counter.count_job"),
        worker=lambda url: worker(url, "--worker-class", "rq.SimpleWorker"),
        starts={1: 2_500, 1_000: 50_000},
    ),
    Setup(
        "forking worker",
        in_flight=1,
        jobs=400,
        length="LLEN rq:queue:bench",
        producer=lambda url: producer(url, "benchmarks.counter.count_job_of_child"),
        worker=worker,
    ),
)

if __name__ == "__main__":
    queues.run(__doc__, "rq", SETUPS)
