"""Worker processes: kills, shutdowns, several of them, and what RQ sees."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from rq import Queue, Worker
from rq.job import Job
from rq.suspension import resume, suspend

from stepflow import Context, RunFailedError, RunStatus, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.jobs.leases import reclaim_leases
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_engine.memo import read_memo
from stepflow_workers.partition import dispatcher
from tests.integration.apps.ledger import count
from tests.support.command_line import call
from tests.support.processes import WorkerProcess, until
from tests.support.roles import as_role

APP = "tests.integration.apps.ledger:app"
StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def producer(url: str) -> Stepflow:
    return Stepflow("ledger", redis_url=url)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def started(producer: Stepflow, client: redis.Redis, function: str, **data: object):
    until(lambda: client.hexists("stepflow:functions", f"ledger/{function}"))
    return producer.start(function, {name: str(v) if isinstance(v, Path) else v for name, v in data.items()})


@pytest.mark.parametrize("function", ["five", pytest.param("five-sync", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sticky", [pytest.param(0, marks=pytest.mark.slow), 100])
def test_a_worker_killed_in_the_third_of_five_steps(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path, gate: Path, function: str, sticky: int
) -> None:
    first = start_worker(APP, sticky=sticky)
    run = started(producer, client, function, ledger=ledger, gate=gate, wait_at=3)
    until(lambda: count(ledger)["s3"] == 1)
    first.kill()
    gate.touch()
    second = start_worker(APP, sticky=sticky)
    pids = run.result(30)
    assert count(ledger) == {"s1": 1, "s2": 1, "s3": 2, "s4": 1, "s5": 1}
    assert pids == [first.pid] * 2 + [second.pid] * 3


@pytest.mark.slow
def test_the_jobs_of_a_dead_worker_are_taken_within_20_s_with_default_settings(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path, gate: Path
) -> None:
    first = start_worker(APP, lease_ms=10_000)
    run = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=3)
    until(lambda: count(ledger)["s3"] == 1)
    start_worker(APP, lease_ms=10_000)
    first.kill()
    until(lambda: count(ledger)["s3"] == 2, seconds=20, what="the reclaim")
    gate.touch()
    run.result(30)


def test_parallel_steps_are_taken_by_several_processes(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path
) -> None:
    workers = [start_worker(APP, concurrency=2) for _ in range(2)]
    pids = started(producer, client, "fan", ledger=ledger, n=4, together=4).result(30)
    assert set(pids) == {worker.pid for worker in workers}
    assert count(ledger) == {f"part-{n}": 1 for n in range(4)}


@pytest.mark.slow
def test_a_holder_that_dies_while_others_do_its_steps_loses_nothing(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path
) -> None:
    first = start_worker(APP, concurrency=1)
    run = started(producer, client, "fan", ledger=ledger, n=3, together=3)
    until(lambda: sum(count(ledger).values()) == 1)
    first.kill()
    for _ in range(3):
        start_worker(APP, concurrency=1)
    assert len(run.result(40)) == 3
    assert sum(count(ledger).values()) <= 4


def test_sigterm_lets_the_step_finish_and_hands_the_run_on(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path, gate: Path
) -> None:
    first = start_worker(APP)
    run = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=3)
    until(lambda: count(ledger)["s3"] == 1)
    first.send(signal.SIGTERM)
    second = start_worker(APP)
    gate.touch()
    assert first.process.wait(20) == 0
    pids = run.result(30)
    assert count(ledger) == {f"s{n}": 1 for n in range(1, 6)}
    assert pids[:3] == [first.pid] * 3
    assert pids[3:] == [second.pid] * 2


def test_a_step_that_outlasts_the_grace_is_handed_back(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path, gate: Path
) -> None:
    first = start_worker(APP, grace_s=0.3, lease_ms=60_000)
    run = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=3)
    until(lambda: count(ledger)["s3"] == 1)
    assert first.terminate() == 0
    gate.touch()
    start_worker(APP)
    run.result(30)
    assert count(ledger)["s3"] == 2


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_the_job_is_not_lost(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path, gate: Path
) -> None:
    first = start_worker(APP)
    run = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=3)
    until(lambda: count(ledger)["s3"] == 1)
    first.send(signal.SIGTERM)
    until(lambda: "worker_stopping" in first.log.read_text())

    def told_again() -> bool:
        first.send(signal.SIGTERM)
        return first.process.poll() is not None

    until(told_again)
    assert first.process.returncode == 1
    gate.touch()
    start_worker(APP)
    run.result(30)
    assert count(ledger) == {"s1": 1, "s2": 1, "s3": 2, "s4": 1, "s5": 1}


@pytest.mark.slow
def test_a_stopped_process_that_comes_back_is_refused(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path, gate: Path
) -> None:
    first = start_worker(APP, lease_ms=1_000)
    run = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=3)
    until(lambda: count(ledger)["s3"] == 1)
    first.send(signal.SIGSTOP)
    start_worker(APP, lease_ms=1_000)
    until(lambda: count(ledger)["s3"] == 2)
    gate.touch()
    pids = run.result(30)
    assert first.pid not in pids[2:]
    first.send(signal.SIGCONT)
    until(lambda: "lease_lost" in first.log.read_text() or client.hget(f"rq:worker:{_name(first)}", "state") == "idle")
    assert run.result(5) == pids
    assert first.terminate() == 0


def _name(worker: WorkerProcess) -> str:
    for line in worker.log.read_text().splitlines():
        if "worker_started" in line:
            return line.split("worker=")[1].split()[0]
    return ""


@pytest.mark.slow
def test_a_step_that_kills_its_workers_fails_as_poison(
    producer: Stepflow, client, start_worker: StartWorker, ledger: Path
) -> None:
    start_worker(APP)
    run = started(producer, client, "deadly", ledger=ledger)
    for deaths in range(1, 4):
        until(lambda: count(ledger)["die"] == deaths)  # noqa: B023
        start_worker(APP)
    with pytest.raises(
        RunFailedError, match=r"3 workers died.*: \S+ at 20\S+Z; \S+ at 20\S+Z; \S+ at 20\S+Z; it is not retried"
    ) as failed:
        run.result(30)
    assert failed.value.name == "PoisonError"
    assert count(ledger) == {"before": 1, "die": 3}


@pytest.mark.slow
def test_a_blocked_event_loop_is_reported_with_its_line_and_keeps_its_lease(
    producer: Stepflow, client, start_worker: StartWorker
) -> None:
    worker = start_worker(APP, lease_ms=1_000)
    run = started(producer, client, "block", seconds=4)
    until(lambda: run.status() is RunStatus.RUNNING)
    until(lambda: "loop_blocked" in worker.log.read_text())
    broker = Broker(as_role(producer.backend.url, "worker"))
    assert broker.execute(reclaim_leases(producer.backend.partition)) == []
    broker.close()
    assert run.result(20) == "done"
    assert 'time.sleep(ctx.event.data["seconds"])' in worker.log.read_text()


# -- RQ ------------------------------------------------------------------------------------


@pytest.mark.single_server("RQ and its command line know one queue of a name")
def test_rq_sees_the_truth(
    producer: Stepflow, client, url: str, start_worker: StartWorker, ledger: Path, gate: Path
) -> None:
    rq_client = redis.Redis.from_url(as_role(url, "admin"))
    worker = start_worker(APP, concurrency=1, sticky=100)  # the run keeps its first job
    running = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=3)
    until(lambda: count(ledger)["s3"] == 1)
    waiting = [started(producer, client, "five", ledger=ledger, gate=gate, wait_at=0) for _ in range(2)]
    queue = Queue("ledger", connection=rq_client, serializer="json")
    assert queue.job_ids == [run.id for run in waiting]
    assert queue.started_job_registry.get_job_ids() == [running.id]
    job = Job.fetch(running.id, connection=rq_client, serializer="json")
    assert (job.get_status(), job.origin, tuple(job.args)) == ("started", "ledger", (running.id,))
    (seen,) = Worker.all(connection=rq_client)
    until(lambda: Worker.all(connection=rq_client)[0].get_state() == "busy")
    assert (seen.pid, seen.queue_names()) == (worker.pid, ["ledger:steps", "ledger"])
    info = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--url", as_role(url, "admin")],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert "ledger " in info
    assert "2, 1 executing, 0 finished, 0 failed" in info
    assert "busy" in info
    gate.touch()
    for run in [running, *waiting]:
        run.result(30)
    until(lambda: Worker.all(connection=rq_client)[0].get_state() == "idle")
    assert queue.count == queue.started_job_registry.count == 0
    worker.terminate()
    assert Worker.all(connection=rq_client) == []


@pytest.mark.single_server("RQ knows one registry of a queue")
def test_a_failed_run_is_in_rqs_failed_registry(producer: Stepflow, client, url: str, start_worker) -> None:
    start_worker(APP)
    run = started(producer, client, "five", ledger="/nowhere/at/all", gate="", wait_at=0)
    with pytest.raises(RunFailedError):
        run.result(30)
    queue = Queue("ledger", connection=redis.Redis.from_url(as_role(url, "admin")), serializer="json")
    assert queue.failed_job_registry.get_job_ids() == [run.id]
    assert queue.fetch_job(run.id).get_status() == "failed"


@pytest.mark.slow
@pytest.mark.single_server("RQ knows one key that suspends")
def test_rq_suspend_and_resume(producer: Stepflow, client, url: str, start_worker: StartWorker, ledger, gate) -> None:
    rq_client = redis.Redis.from_url(as_role(url, "admin"))
    start_worker(APP)
    until(lambda: client.hexists("stepflow:functions", "ledger/five"))
    suspend(rq_client)
    run = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=0)
    until(
        lambda: [worker.get_state() for worker in Worker.all(connection=rq_client)] == ["suspended"],
        what="the suspended worker",
    )
    assert run.status() is RunStatus.QUEUED
    resume(rq_client)
    run.result(30)


def test_a_worker_that_the_server_has_forgotten_registers_itself_and_its_functions_again(
    client, start_worker: StartWorker
) -> None:
    worker = start_worker(APP)
    until(lambda: client.smembers("rq:workers"))
    (key,) = client.smembers("rq:workers")
    before, functions = client.hgetall(key), client.hgetall("stepflow:functions")
    client.delete("stepflow:functions", "rq:workers", key)
    until(lambda: client.smembers("rq:workers") == {key}, what="the registration")
    seen = client.hgetall(key)
    assert (seen["pid"], seen["queues"]) == (str(worker.pid), before["queues"])
    assert client.ttl(key) > 0
    assert client.hgetall("stepflow:functions") == functions
    assert worker.log.read_text().count("worker_reregistered") == 1


def test_a_worker_that_registers_again_leaves_the_configs_of_newer_code(client, start_worker: StartWorker) -> None:
    start_worker(APP)
    until(lambda: client.smembers("rq:workers"))
    newer = client.hget("stepflow:functions", "ledger/five").replace('"retries":', '"retries":1')
    client.hset("stepflow:functions", "ledger/five", newer)
    client.delete("rq:workers")
    until(lambda: client.smembers("rq:workers"), what="the registration")
    assert client.hget("stepflow:functions", "ledger/five") == newer


@pytest.mark.slow
def test_a_worker_registers_functions_again_that_were_forgotten_while_it_was_paused(
    client, url: str, start_worker: StartWorker
) -> None:
    worker = start_worker(APP)
    until(lambda: client.smembers("rq:workers"))
    worker.send(signal.SIGSTOP)
    client.delete("stepflow:codes")  # as after 90 s
    assert call("functions", "forget", "ledger/five", STEPFLOW_REDIS_URL=url).returncode == 0
    assert not client.hexists("stepflow:functions", "ledger/five")
    worker.send(signal.SIGCONT)
    until(lambda: client.hexists("stepflow:functions", "ledger/five"), seconds=40, what="the registration")


def test_rqs_shutdown_command_stops_a_worker(client, start_worker: StartWorker) -> None:
    from rq.command import send_shutdown_command

    worker = start_worker(APP)
    until(lambda: client.hexists("stepflow:functions", "ledger/five"))

    def told() -> bool:
        for key in client.smembers("rq:workers"):
            send_shutdown_command(client, key.removeprefix("rq:worker:"))
        return "worker_stopping" in worker.log.read_text()

    until(told, what="a worker that is told to stop, and says so")
    assert worker.process.wait(30) == 0


def test_burst_ends_when_nothing_is_ready(producer: Stepflow, client, start_worker, ledger, gate) -> None:
    first = start_worker(APP)
    until(lambda: client.hexists("stepflow:functions", "ledger/five"))
    first.kill()
    runs = [started(producer, client, "five", ledger=ledger, gate=gate, wait_at=0) for _ in range(3)]
    assert start_worker(APP, burst=True).process.wait(30) == 0
    assert [run.status() for run in runs] == [RunStatus.COMPLETED] * 3


def test_memos_say_who_did_what(producer: Stepflow, client, start_worker, ledger, gate) -> None:
    start_worker(APP, name="worker-a")
    run = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=0)
    run.result(30)
    broker = Broker(as_role(producer.backend.url, "read-only"))
    memos = broker.execute(read_memos(producer.backend.partition, run.id))
    broker.close()
    details = [read_memo(text) for _, text in memos]
    assert [memo.id for memo in details] == [f"s{n}" for n in range(1, 6)]
    assert {memo.detail["worker"] for memo in details} == {"worker-a"}
    assert all(memo.detail["attempts"] == 1 for memo in details)


@pytest.mark.single_server("RQ and its worker know one queue of a name")
def test_jobs_that_rq_empty_or_a_plain_rq_worker_took_come_back(
    producer: Stepflow, client, url: str, start_worker: StartWorker, ledger: Path, gate: Path
) -> None:
    first = start_worker(APP)
    until(lambda: client.hexists("stepflow:functions", "ledger/five"))
    first.kill()
    emptied = [started(producer, client, "five", ledger=ledger, gate=gate, wait_at=0) for _ in range(3)]
    rq_client = redis.Redis.from_url(as_role(url, "admin"))
    assert Queue("ledger", connection=rq_client, serializer="json").empty() == 3
    taken = started(producer, client, "five", ledger=ledger, gate=gate, wait_at=0)
    plain = [
        sys.executable,
        "-m",
        "rq.cli",
        "worker",
        "--burst",
        "--serializer",
        "json",
        "--url",
        as_role(url, "admin"),
        "ledger",
    ]
    subprocess.run(plain, check=True, timeout=30, capture_output=True)
    assert client.hget(f"rq:job:{taken.id}", "status") == "failed"
    start_worker(APP)
    for run in [*emptied, taken]:
        run.result(30)
    assert count(ledger) == {f"s{n}": 4 for n in range(1, 6)}


def test_a_run_that_waits_for_a_step_beside_a_timer_holds_no_slot(app: Stepflow, run_worker) -> None:
    @app.function("beside")
    async def beside(ctx: Context) -> str:
        async with asyncio.timeout(20):
            return await ctx.step.run("one", lambda: "done")

    run_worker(app, concurrency=1)
    assert app.invoke(beside, timeout=20) == "done"


def test_a_handler_that_never_returns_takes_no_other_handlers_place(app: Stepflow, run_worker) -> None:
    gate = threading.Event()

    @app.function("hangs")
    async def hangs(ctx: Context) -> str:
        return await ctx.step.with_options(timeout=0.2, retries=1).run(
            "hang", lambda: gate.wait(60) if ctx.attempt == 0 else "second"
        )

    worker = run_worker(app, concurrency=1)
    assert app.invoke(hangs, timeout=20) == "second"
    worker.stop()
    gate.set()


@pytest.mark.slow
def test_a_worker_that_was_killed_leaves_its_name_to_its_successor(client, start_worker: StartWorker) -> None:
    first = start_worker(APP, name="worker-a")
    until(lambda: client.exists("rq:worker:worker-a"))
    second = start_worker(APP, name="worker-a")
    assert second.process.wait(20) == 1
    assert "choose another --name" in second.log.read_text()
    first.kill()
    third = start_worker(APP, name="worker-a")
    until(lambda: client.hget("rq:worker:worker-a", "pid") == str(third.pid))


@pytest.mark.slow
def test_a_worker_goes_on_after_its_server_was_emptied(app: Stepflow, run_worker, client: redis.Redis) -> None:
    @app.function("again", event="again/asked")
    async def again(ctx: Context) -> str:
        return await ctx.step.run("one", lambda: "done")

    run_worker(app)
    assert app.invoke(again, timeout=20) == "done"
    client.flushall()
    client.script_flush()
    assert app.invoke(again, timeout=20) == "done"
    until(lambda: client.exists("stepflow:finished") and client.exists("stepflow:events"))


def test_a_worker_goes_on_after_its_server_was_killed_and_restarted(start_worker, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "server", fsync="always").start()
    try:
        worker = WorkerProcess(server.url, APP, log=tmp_path / "worker.log")
        producer = Stepflow("ledger", redis_url=server.url)
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            run = started(producer, client, "five", ledger=tmp_path / "l", gate=tmp_path / "g", wait_at=3)
        until(lambda: count(tmp_path / "l")["s3"] == 1)
        server.kill()
        (tmp_path / "g").touch()
        server.start()
        run.result(30)
        assert count(tmp_path / "l") == {f"s{n}": 1 for n in range(1, 6)}
        assert producer.invoke("five", {"ledger": str(tmp_path / "l"), "gate": ""}, timeout=30)
        assert worker.terminate() == 0
    finally:
        server.stop()


@pytest.mark.single_server("RQ knows one queue of a name")
def test_the_jobs_of_another_program_stay_in_the_queue_and_are_logged_once(
    producer: Stepflow, client, url: str, start_worker: StartWorker, ledger: Path
) -> None:
    queue = Queue("ledger", connection=redis.Redis.from_url(as_role(url, "admin")))
    jobs = [queue.enqueue("os.getpid") for _ in range(3)]
    worker = start_worker(APP)
    for _ in range(2):
        assert started(producer, client, "fan", ledger=ledger, n=2, together=2).result(20) == [worker.pid] * 2
    worker.terminate()
    assert queue.job_ids == [job.id for job in jobs]
    lines = [line for line in worker.log.read_text().splitlines() if "foreign_jobs" in line]
    assert len(lines) == 1
    assert "count=3" in lines[0]


@pytest.mark.single_server("RQ knows one queue of a name")
def test_jobs_behind_those_of_another_program_do_not_wait_for_a_poll(
    app: Stepflow, client, url: str, run_worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for period in ("_POLL_S", "_IDLE_POLL_S"):
        monkeypatch.setattr(dispatcher, period, 3_600.0)

    @app.function("f")
    async def f(ctx: Context) -> int:
        return await ctx.step.run("one", lambda: 1)

    def is_idle() -> bool:
        (worker,) = client.smembers("rq:workers")
        return client.hget(worker, "state") == "idle"

    run_worker(app)
    assert app.start(f).result(20) == 1
    queue = Queue(app.id, connection=redis.Redis.from_url(as_role(url, "admin")))
    for _ in range(3):
        until(is_idle)
        queue.enqueue("os.getpid")
        assert app.start(f).result(20) == 1
    assert len(queue.job_ids) == 3


@pytest.mark.slow
def test_an_eviction_policy_that_is_set_while_workers_work_is_reported(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "server").start()
    worker = WorkerProcess(server.url, APP, log=tmp_path / "log")
    try:
        until(lambda: " worker_started " in worker.log.read_text(), what="the worker")
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("maxmemory-policy", "allkeys-lru")
        until(lambda: " server_unsafe " in worker.log.read_text(), seconds=20, what="the warning")
        assert "maxmemory-policy is allkeys-lru" in worker.log.read_text()
        assert worker.process.poll() is None
        assert "the server evicts keys (allkeys-lru)" in call("doctor", "--redis-url", server.url).stdout
    finally:
        worker.kill()
        server.stop()
