"""How apps are loaded by worker processes, and when a pool gives up."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from stepflow import ConfigurationError
from stepflow_workers import pool as pools
from stepflow_workers.apps import load_app
from stepflow_workers.pool import WorkerPool, WorkerSpec
from stepflow_workers.state.settings import WorkerSettings


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    """A pool of one worker, whose process is never started."""
    monkeypatch.setattr(pools, "_RESTART_PAUSE_S", 0.0)
    return WorkerPool(WorkerSpec(("shop:app",), WorkerSettings("redis://127.0.0.1:1/0")), 1)


def ended(pool: WorkerPool, code: int, *, was_ready: bool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the worker of the pool end with a code; returns the numbers of the workers that it restarts."""
    reader, writer = pool._context.Pipe(duplex=False)
    if was_ready:
        writer.send_bytes(b"started")
    writer.close()
    pool._processes[1] = SimpleNamespace(exitcode=code, is_alive=lambda: False)  # type: ignore[assignment]
    pool._started[1] = reader
    restarted: list[int] = []
    monkeypatch.setattr(pool, "_start", restarted.append)
    pool._restart_dead()
    return restarted


def test_a_worker_that_cannot_start_is_given_up_and_the_pool_says_so(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(pool, 3, was_ready=False, monkeypatch=monkeypatch) == []
    assert pool._exit_code() == 3


@pytest.mark.parametrize(("code", "was_ready"), [(3, True), (0, True), (1, False), (-9, True)])
def test_a_worker_that_ends_otherwise_is_restarted(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, code: int, was_ready: bool
) -> None:
    assert ended(pool, code, was_ready=was_ready, monkeypatch=monkeypatch) == [1]
    assert pool._exit_code() == int(code != 0)


class Unstoppable:
    """A process that only a kill ends."""

    pid, exitcode = 17, None

    def __init__(self) -> None:
        self.calls: list[str] = []

    def is_alive(self) -> bool:
        return "kill" not in self.calls

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")

    def join(self, _timeout: float) -> None: ...


def test_a_worker_that_does_not_end_after_a_stop_is_killed(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pools, "_KILL_S", -pool._spec.settings.grace_s)
    process = Unstoppable()
    pool._processes[1] = process  # type: ignore[assignment]
    pool.stop()
    pool.wait()
    assert process.calls == ["terminate", "kill"]
    assert "worker_killed" in caplog.messages


def test_a_worker_that_has_time_left_to_stop_is_not_killed(pool: WorkerPool) -> None:
    process = Unstoppable()
    pool._processes[1] = process  # type: ignore[assignment]
    pool.stop()
    assert pool._kill_at > time.monotonic() + pool._spec.settings.grace_s
    pool.stop()
    assert process.calls == ["terminate", "terminate"]


def test_a_pool_whose_workers_cannot_start_ends_with_their_exit_code() -> None:
    pool = WorkerPool(WorkerSpec(("no_such_module:app",), WorkerSettings("redis://127.0.0.1:1/0")), 1)
    assert pool.run() == 3


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import sys; sys.exit(3)", r"calls sys.exit\(3\) while it is imported"),
        ("raise GeneratorExit", "cannot be imported: GeneratorExit"),
    ],
)
def test_a_module_that_ends_the_process_while_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, text: str
) -> None:
    name = f"leaves_{os.getpid()}_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=text):
        load_app(f"{name}:app")


def test_a_signal_during_the_start_of_a_process_stops_it_too(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Starting(Unstoppable):
        """A process during whose start the pool gets a signal."""

        terminated = False

        def start(self) -> None:
            pool.stop()

        def terminate(self) -> None:
            self.terminated = True

    process = Starting()
    monkeypatch.setattr(pool._context, "Process", lambda **_: process)
    pool._start(1)
    assert process.terminated
