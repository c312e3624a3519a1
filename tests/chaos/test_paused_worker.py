"""Workers that are paused, and workers that cannot run: the first lose their leases, the second keep them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from stepflow import Run, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_engine.memo import read_memo
from stepflow_workers.liveness.lease_sidecar_process import is_stopped
from tests.chaos.health import check_health
from tests.support.ledgers import BEGIN, END, EffectLedger
from tests.support.processes import WorkerProcess, until

APP = "tests.chaos.apps:app"


@pytest.fixture
def producer(url: str) -> Stepflow:
    return Stepflow("chaos", redis_url=url)


@pytest.fixture
def effects(tmp_path: Path) -> EffectLedger:
    return EffectLedger(tmp_path / "effects")


def started(producer: Stepflow, client: redis.Redis, function: str, **data: object) -> Run[object]:
    until(lambda: client.hexists("stepflow:functions", f"chaos/{function}"))
    return producer.start(function, {name: str(v) if isinstance(v, Path) else v for name, v in data.items()})


def pids(effects: EffectLedger, mark: str, step: str) -> list[int]:
    return [effect.pid for effect in effects.effects(mark) if effect.step == step]


def lease_sidecar_of(worker: WorkerProcess) -> int:
    """The one child process of a worker, whichever thread has started it."""

    def children() -> list[str]:
        tasks = Path(f"/proc/{worker.pid}/task").glob("*/children")
        return [pid for task in tasks for pid in task.read_text().split()]

    until(children, what="the lease_sidecar's start")
    (pid,) = children()
    return int(pid)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.timeout(300)
def test_what_a_worker_that_was_paused_for_three_leases_commits_is_refused_and_it_goes_on_with_other_runs(
    producer: Stepflow, url: str, client: redis.Redis, start_worker, effects: EffectLedger, tmp_path: Path, long: bool
) -> None:
    lease_s = 10 if long else 1.5
    first = start_worker(APP, lease_ms=round(lease_s * 1000))
    gates = {"one": tmp_path / "one", "two": tmp_path / "two"}
    run = started(producer, client, "gated", ledger=effects.path, **gates)
    until(lambda: pids(effects, BEGIN, "one") == [first.pid])
    first.send(signal.SIGSTOP)
    paused_at = float(client.time()[0])
    second = start_worker(APP, lease_ms=round(lease_s * 1000))
    until(lambda: pids(effects, BEGIN, "one") == [first.pid, second.pid], seconds=lease_s + 20, what="the take-over")
    until(lambda: client.time()[0] > paused_at + 3 * lease_s, seconds=4 * lease_s, what="the end of three leases")
    gates["one"].touch()
    until(lambda: pids(effects, BEGIN, "two") == [second.pid])
    first.send(signal.SIGCONT)
    until(lambda: first.pid in pids(effects, END, "one"), what="the late end of the first worker's handler")
    until(lambda: " lease_lost " in first.log.read_text(), what="the refusal")
    gates["two"].touch()
    assert run.result(30) == [second.pid, second.pid]
    memos = [
        read_memo(text) for _, text in producer.backend.broker.execute(read_memos(producer.backend.partition, run.id))
    ]
    assert [(memo.id, memo.data) for memo in memos] == [("one", second.pid), ("two", second.pid)]
    second.kill()
    other = started(producer, client, "gated", ledger=effects.path, **gates)
    assert other.result(30) == [first.pid, first.pid]
    check_health(url, client)


@pytest.mark.timeout(300)
def test_a_worker_whose_handler_holds_the_gil_for_longer_than_three_leases_keeps_its_lease(
    producer: Stepflow, url: str, client: redis.Redis, start_worker, effects: EffectLedger, long: bool
) -> None:
    lease_s, seconds = (10, 60) if long else (4, 13)
    first = start_worker(APP, lease_ms=lease_s * 1000)
    run = started(producer, client, "grab", ledger=effects.path, seconds=seconds)
    until(lambda: pids(effects, BEGIN, "grab") == [first.pid])
    second = start_worker(APP, lease_ms=lease_s * 1000)
    assert run.result(seconds + 30) == first.pid
    begin, end = effects.effects()
    assert end.at_ns - begin.at_ns > 3 * lease_s * 10**9, "the handler did not hold the GIL for that long"
    assert " worker_blocked " in first.log.read_text(), "the lease_sidecar was not needed"
    until(lambda: " worker_recovered " in first.log.read_text(), what="the lease_sidecar's leave")
    assert "jobs_reclaimed" not in second.log.read_text()
    assert "lease_lost" not in first.log.read_text()
    check_health(url, client)


def test_a_worker_that_is_paused_while_its_sidecar_took_over_loses_its_lease(
    producer: Stepflow, url: str, client: redis.Redis, start_worker, effects: EffectLedger, tmp_path: Path
) -> None:
    first = start_worker(APP, lease_ms=2_000)
    run = started(producer, client, "grab", ledger=effects.path, seconds=5)
    until(lambda: " worker_blocked " in first.log.read_text(), what="the lease_sidecar's help")
    first.send(signal.SIGSTOP)
    second = start_worker(APP, lease_ms=2_000)
    assert run.result(40) == second.pid
    first.send(signal.SIGCONT)
    until(lambda: " worker_recovered " in first.log.read_text(), what="the first worker's return")
    assert run.result(5) == second.pid
    check_health(url, client)


def test_the_sidecar_does_not_take_over_for_a_worker_whose_server_is_away(tmp_path: Path) -> None:
    effects, gate = EffectLedger(tmp_path / "effects"), tmp_path / "gate"
    with EmbeddedServer(tmp_path / "server", fsync="always") as server:
        worker = WorkerProcess(server.url, APP, log=tmp_path / "worker.log", lease_ms=2_000)
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            producer = Stepflow("chaos", redis_url=server.url)
            run = started(producer, client, "gated", ledger=effects.path, one=gate, two=gate)
        until(lambda: pids(effects, BEGIN, "one") == [worker.pid])
        server.kill()
        until(lambda: worker.log.read_text().count(" lease_not_extended ") > 4, what="two seconds of attempts")
        server.start()
        gate.touch()
        assert run.result(30) == [worker.pid, worker.pid]
        assert worker.terminate() == 0
    assert " worker_blocked " not in worker.log.read_text()


def test_the_sidecar_of_a_worker_that_is_killed_ends(client: redis.Redis, start_worker) -> None:
    worker = start_worker(APP)
    until(lambda: " worker_started " in worker.log.read_text())
    lease_sidecar = lease_sidecar_of(worker)
    worker.kill()
    until(lambda: not is_alive(lease_sidecar), seconds=5, what="the lease_sidecar's end")


def ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_the_sidecar_of_a_worker_that_is_stopped_ends_with_it_and_not_before(client: redis.Redis, start_worker) -> None:
    worker = start_worker(APP)
    until(lambda: " worker_started " in worker.log.read_text())
    lease_sidecar = lease_sidecar_of(worker)
    until(lambda: ignores(lease_sidecar, signal.SIGTERM), what="the sidecar's start: before it, a signal ends it")
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(lease_sidecar, number)
    assert is_alive(lease_sidecar)
    assert worker.terminate() == 0
    assert not is_alive(lease_sidecar)


def test_a_sidecar_that_was_killed_is_started_again(client: redis.Redis, start_worker) -> None:
    worker = start_worker(APP)
    until(lambda: " worker_started " in worker.log.read_text())
    lease_sidecar = lease_sidecar_of(worker)
    os.kill(lease_sidecar, signal.SIGKILL)
    until(lambda: " lease_sidecar_died " in worker.log.read_text(), seconds=20, what="the lease_renewer's look")
    assert lease_sidecar_of(worker) != lease_sidecar


def test_no_secret_of_the_url_is_among_the_words_of_the_sidecars_command(
    client: redis.Redis, url: str, start_worker
) -> None:
    worker = start_worker(APP)
    until(lambda: " worker_started " in worker.log.read_text())
    words = Path(f"/proc/{lease_sidecar_of(worker)}/cmdline")
    until(
        lambda: b"lease_sidecar_process" in words.read_bytes(), what="the lease_sidecar's own command, after its fork"
    )
    assert url.encode() not in words.read_bytes()


def test_a_process_is_stopped_or_it_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        until(lambda: is_stopped(process.pid))
        process.send_signal(signal.SIGCONT)
        until(lambda: not is_stopped(process.pid))
        process.kill()
        until(lambda: is_stopped(process.pid))
    assert is_stopped(process.pid)
