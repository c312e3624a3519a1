"""Worker processes for tests: real ones, that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stepflow import Stepflow
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker
from tests.support.forking import ForkedProcess, fork_program
from tests.support.roles import as_role

ROOT = Path(__file__).parents[2]
_MAIN = """
import json, sys
from stepflow_engine.retry_policy import Backoff
from stepflow_workers.pool import WorkerSpec, run_worker
from stepflow_workers.state.settings import WorkerSettings
apps, settings = json.loads(sys.argv[1])
settings["backoff"] = Backoff(*settings.pop("backoff"))
run_worker(WorkerSpec(tuple(apps), WorkerSettings(**settings), "INFO"))
"""


_READ_AT_START = ("LD_", "PYTHON")
"""What the variables begin with that a process reads when it starts. A forked process has started before."""


def until(condition: Callable[[], object], *, seconds: float = 30.0, what: str = "the condition") -> None:
    """Wait until ``condition`` holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.01)


class WorkerProcess:
    """A worker in a process of its own.

    Args:
        url: the server's.
        apps: names of apps, ``module:app``, importable from the project's root.
        env: variables that it has besides those of the test.
        settings: of the worker; ``backoff`` as (first_ms, max_ms).
    """

    def __init__(
        self, url: str, *apps: str, log: Path, env: Mapping[str, str] | None = None, **settings: object
    ) -> None:
        settings = {"redis_url": as_role(url, "worker"), "lease_ms": 3_000, "backoff": (20, 100)} | settings
        self.log = log
        arguments, environment = json.dumps([apps, settings]), {**os.environ, **(env or {})}
        self.process: ForkedProcess | subprocess.Popen[bytes]
        with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            if any(name.startswith(_READ_AT_START) for name in env or ()):
                command = [sys.executable, "-c", _MAIN, arguments]
                self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
                return
            files = (nothing, output, output)
            self.process = fork_program(arguments, code=_MAIN, cwd=ROOT, environment=environment, files=files)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def terminate(self, *, seconds: float = 30.0) -> int:
        """Ask it to stop, and wait for its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class WorkerThread:
    """A worker in a thread of the test, for tests that need no process to die."""

    def __init__(self, app: Stepflow, settings: WorkerSettings) -> None:
        self.worker = StepWorker([app], settings)
        self.thread = threading.Thread(target=self.worker.work, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        until(lambda: self.worker._loop is not None, what="the worker's start")
        self.worker.stop()
        self.thread.join(20)
        assert not self.thread.is_alive(), "the worker did not stop"
