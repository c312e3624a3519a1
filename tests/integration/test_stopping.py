"""Stops of workers whose handlers do not end, and the signals of processes that handlers fork."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.utils import str_if_bytes

from stepflow import Stepflow, SyncContext
from stepflow_broker.protocol.keys import GROUP, Keys
from stepflow_broker.transitions.events import consumers
from tests.integration.apps.ledger import count
from tests.integration.apps.stubborn import STUBBORN
from tests.support.command_line import running
from tests.support.processes import WorkerProcess, until

APP = "tests.integration.apps.stubborn:app"
StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def producer(url: str) -> Stepflow:
    return Stepflow("stubborn", redis_url=url)


def _started(worker: WorkerProcess) -> bool:
    return "worker_started" in worker.log.read_text()


@pytest.mark.parametrize("how", STUBBORN)
def test_nothing_that_a_handler_leaves_behind_keeps_a_worker_alive(
    producer: Stepflow, client: redis.Redis, start_worker: StartWorker, tmp_path: Path, how: str
) -> None:
    worker, ledger = start_worker(APP, grace_s=0.5), tmp_path / "ledger"
    until(lambda: _started(worker))
    producer.start("stay", {"how": how, "ledger": str(ledger)})
    until(lambda: count(ledger)["begun"] == 1)
    time.sleep(0.5)
    assert worker.terminate(seconds=10) == 0
    assert client.scard("rq:workers") == 0


@pytest.mark.slow
@pytest.mark.parametrize("thread", [False, True], ids=["no thread", "a thread that never ends"])
def test_a_handler_that_no_stop_reaches_is_ended_hard_and_executed_again_by_another_worker(
    producer: Stepflow, client: redis.Redis, start_worker: StartWorker, tmp_path: Path, thread: bool
) -> None:
    worker, ledger = start_worker(APP, grace_s=0.5, lease_ms=2_000), tmp_path / "ledger"
    until(lambda: _started(worker))
    run = producer.start("block", {"ledger": str(ledger), "thread": thread})
    until(lambda: count(ledger)["executed"] == 1)
    assert worker.terminate(seconds=30) == 1
    log = worker.log.read_text()
    assert "worker_stopping" in log
    assert "worker_stopped_at_once" in log
    assert client.scard("rq:workers") == 0
    start_worker(APP, lease_ms=2_000)
    assert run.result(30) == 2


@pytest.mark.slow
def test_a_pool_with_a_worker_that_ended_hard_ends_with_1(url: str, producer: Stepflow, tmp_path: Path) -> None:
    log, ledger = tmp_path / "pool.log", tmp_path / "ledger"
    words = (APP, "--processes", "2", "--grace", "1s", "--redis-url", url)
    with running(*words, program="worker", log=log) as pool:
        until(lambda: log.read_text().count("worker_started") == 2)
        producer.start("block", {"ledger": str(ledger), "thread": False})
        until(lambda: count(ledger)["executed"] == 1)
        pool.send_signal(signal.SIGTERM)
        assert pool.wait(30) == 1
    assert log.read_text().count("worker_stopped_at_once") == 1


def test_a_process_that_a_handler_forks_has_the_default_signal_handlers(
    producer: Stepflow, start_worker: StartWorker
) -> None:
    worker = start_worker(APP)
    until(lambda: _started(worker))
    assert producer.start("fork").result(20) == -signal.SIGTERM


@pytest.mark.slow
def test_a_worker_that_another_process_has_removed_from_the_registry_registers_again(
    client: redis.Redis, start_worker: StartWorker
) -> None:
    worker = start_worker(APP)
    until(lambda: client.scard("rq:workers") == 1)
    client.delete("rq:workers")
    until(lambda: client.scard("rq:workers") == 1 and "worker_reregistered" in worker.log.read_text())


def _consumers(client: redis.Redis, stream: str) -> set[str]:
    if not client.exists(Keys()(stream)):
        return set()
    return {str_if_bytes(one["name"]) for one in client.xinfo_consumers(Keys()(stream), GROUP)}


def test_a_worker_that_stops_leaves_no_consumer_on_the_streams(client: redis.Redis, start_worker: StartWorker) -> None:
    workers = [start_worker(APP) for _ in range(2)]
    until(lambda: all(client.exists(Keys()(stream)) for stream in ("EVENTS", "FINISHED")))
    until(lambda: client.scard("rq:workers") == 2)
    for key in client.smembers("rq:workers"):  # as by their first reads of an entry
        for stream in ("EVENTS", "FINISHED"):
            client.xgroup_createconsumer(Keys()(stream), GROUP, key.removeprefix("rq:worker:"))
    assert [len(_consumers(client, stream)) for stream in ("EVENTS", "FINISHED")] == [2, 2]
    assert [worker.terminate(seconds=10) for worker in workers] == [0, 0]
    assert [_consumers(client, stream) for stream in ("EVENTS", "FINISHED")] == [set(), set()]


def test_the_consumer_of_a_killed_worker_is_deleted_by_the_next_one(
    app: Stepflow, client: redis.Redis, run_worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("EVENTS", "FINISHED"):
        client.xgroup_create(Keys()(stream), GROUP, "0", mkstream=True)
        client.xgroup_createconsumer(Keys()(stream), GROUP, "killed")
    monkeypatch.setattr(consumers, "GONE_MS", 0)  # before the worker reads for the first time itself

    @app.function("f")
    def f(ctx: SyncContext) -> int:
        return 1

    run_worker(app)
    until(lambda: not any("killed" in _consumers(client, stream) for stream in ("EVENTS", "FINISHED")))
    assert app.invoke("f", timeout=20) == 1
