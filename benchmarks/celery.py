"""Celery: ``python -m benchmarks.celery`` prints JSON, a line a sample.

One process: the solo pool executes in the worker's own process. No results are kept, and a job is acknowledged before
it is executed (Celery's default): one that a crash interrupts is lost. A larger prefetch than the default made no
difference.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from celery import Celery

from benchmarks import queues
from benchmarks.counter import count_job
from benchmarks.queues import URL, Setup


def make_app(url: str) -> Celery:
    """An app on a server, with one task."""
    app = Celery("bench", broker=url, set_as_current=False)
    app.conf.update(
        task_default_queue="bench",
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
    )
    app.task(name="count_job")(count_job)
    return app


def producer(url: str) -> Callable[[int, int], None]:
    """Queues jobs one by one: Celery has no call that sends several in a round trip."""
    app = make_app(url)
    task = app.tasks["count_job"]

    def add(count: int, size: int) -> None:  # noqa: ARG001
        for _ in range(count):
            task.delay()

    return add


def worker(url: str) -> list[str]:  # noqa: ARG001  the worker's app takes it from the environment
    """Celery's own command, without what only several workers need."""
    alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    options = ("--pool", "solo", "--loglevel", "WARNING", *alone)
    return [sys.executable, "-m", "celery", "-A", "benchmarks.celery:app", "worker", *options]


app = make_app(os.environ.get(URL, ""))
SETUPS = (
    Setup(
        "solo pool",
        in_flight=1,
        jobs=6_000,
        length="LLEN bench",
        producer=producer,
        worker=worker,
        starts={1: 5_000},
    ),
)

if __name__ == "__main__":
    queues.run(__doc__, "celery", SETUPS)
