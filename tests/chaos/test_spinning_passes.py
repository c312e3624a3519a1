"""Passes that catch their cancellation and request a step again: their worker goes on with other runs, and stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from stepflow import RunCancelledError, RunStatus, Stepflow
from tests.chaos.health import check_health
from tests.support.processes import WorkerProcess, until

APP = "tests.chaos.spinning_app:app"
SPINNING = [
    ("spin", "run"),
    ("spin", "sleep"),
    ("spin", "invoke"),
    ("spin", "wait"),
    ("spin-in-tasks", None),
    ("spin-plain", None),
    ("spin-parallel", None),
]


@pytest.mark.timeout(900)
def test_passes_that_spin_after_a_cancel_keep_neither_the_loop_of_their_worker_nor_its_process(
    url: str, client: redis.Redis, start_worker: Callable[..., WorkerProcess], long: bool
) -> None:
    worker = start_worker(APP, grace_s=2.0)
    until(lambda: client.hexists("stepflow:functions", "spinning/spin"))
    producer = Stepflow("spinning", redis_url=url)
    for _ in range(50 if long else 2):
        runs = [producer.start(function, data) for function, data in SPINNING]
        until(lambda runs=runs: all(run.status() is not RunStatus.QUEUED for run in runs), what="the runs to begin")  # type: ignore[misc]
        neighbours = producer.start_many("neighbour", [None] * 20)
        for run in runs:
            run.cancel()
        assert [run.result(30) for run in neighbours] == [6] * 20
        for run in runs:
            with pytest.raises(RunCancelledError):
                run.result(1)
    assert producer.start("neighbour").result(30) == 6
    assert worker.terminate() == 0
    assert "Traceback" not in worker.log.read_text()
    until(lambda: not client.exists("stepflow:live"), what="the end of the children")
    check_health(url, client)
