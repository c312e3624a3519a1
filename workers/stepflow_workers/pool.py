"""The pool: several worker processes under one, which starts them again when they die."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from types import FrameType

from stepflow_engine.errors import ConfigurationError
from stepflow_workers.apps import load_apps
from stepflow_workers.logs import configure_logging
from stepflow_workers.settings import WorkerSettings
from stepflow_workers.worker import StepWorker

__all__ = ["WorkerPool", "WorkerSpec", "run_worker"]

_RESTART_PAUSE_S = 1.0
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker process is started with.

    Attributes:
        apps: names of apps, as ``module:app``.
        settings: how it works.
        log_level: the lowest level that it logs.
    """

    apps: tuple[str, ...]
    settings: WorkerSettings
    log_level: str = "INFO"


def run_worker(spec: WorkerSpec) -> None:
    """Be one worker, in this process, until it is stopped.

    Raises:
        ConfigurationError, ServerError: it cannot start.
    """
    configure_logging(spec.log_level)
    StepWorker(load_apps(spec.apps), spec.settings).work()


class WorkerPool:
    """Runs ``count`` workers, each in a process of its own.

    Args:
        spec: what each is started with; a given name gets the process's number appended.
        count: how many.
    """

    def __init__(self, spec: WorkerSpec, count: int) -> None:
        if count < 1:
            raise ConfigurationError(f"processes must be 1 or more, not {count}")
        self._spec = spec
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, BaseProcess] = {}
        self._stopping = False

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that run now."""
        return [process.pid for process in self._processes.values() if process.pid and process.is_alive()]

    def start(self) -> None:
        """Start the processes."""
        for number in range(1, self._count + 1):
            self._start(number)

    def wait(self) -> None:
        """Wait until all have ended; those that die are started again, unless the pool stops or is in burst mode."""
        while any(process.is_alive() for process in self._processes.values()) or self._restart_dead():
            time.sleep(_LOOK_S)
            self._restart_dead()

    def stop(self) -> None:
        """Tell the workers to stop after the steps at hand; told again, they stop at once."""
        self._stopping = True
        for process in self._processes.values():
            if process.is_alive():
                process.terminate()

    def run(self) -> None:
        """Start, and wait; SIGTERM and SIGINT stop the workers, a second one at once."""
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            self.wait()
        finally:
            self.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _start(self, number: int) -> None:
        settings, name = self._spec.settings, self._spec.settings.name
        spec = replace(self._spec, settings=replace(settings, name=f"{name}.{number}" if name else ""))
        process = self._context.Process(target=run_worker, args=(spec,), name=f"stepflow-worker-{number}")
        process.start()
        self._processes[number] = process

    def _restart_dead(self) -> bool:
        if self._stopping:
            return False
        restarted = False
        for number, process in list(self._processes.items()):
            if process.is_alive() or (self._spec.settings.burst and process.exitcode == 0):
                continue
            time.sleep(_RESTART_PAUSE_S)
            self._start(number)
            restarted = True
        return restarted

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Pass the signal on; a worker that gets a second one stops at once."""
        self.stop()
