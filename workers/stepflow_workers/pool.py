"""WorkerPool: several worker processes under one parent, which restarts those that die."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType

from stepflow_engine.errors import ConfigurationError, StepflowError
from stepflow_engine.product import NAME, WORKER_LOGGER
from stepflow_workers.apps import load_apps
from stepflow_workers.event_loop import tune_gc
from stepflow_workers.liveness.recycling import RECYCLED
from stepflow_workers.logs import configure_logging
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.terminal_debugger import debug_on_terminal
from stepflow_workers.worker import HARD_END_S, StepWorker

__all__ = ["WorkerPool", "WorkerSpec", "ignore_sigint_in_children", "run_worker"]

_log = logging.getLogger(WORKER_LOGGER)
_RESTART_PAUSE_S = 1.0
_POLL_S = 0.2
_THREADS_LEFT_S = 1.0
_EXIT_S = 5.0
"""How long a process may take to exit after its worker has stopped."""
_KILL_S = HARD_END_S + 3.0
"""How long after the grace period the pool kills a worker. The worker ends itself before, if it can."""
_MISCONFIGURED = 3
"""The exit code of a worker that could not start, and that a restart would not help."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """The configuration of a worker process.

    Attributes:
        apps: the names of the apps, as ``module:app``.
        settings: the settings of the worker.
        log_level: the lowest level that it logs.
        has_terminal_debugger: whether ``breakpoint()`` in a handler opens a debugger on the terminal.
    """

    apps: tuple[str, ...]
    settings: WorkerSettings
    log_level: str = "INFO"
    has_terminal_debugger: bool = False


def run_worker(spec: WorkerSpec, *, on_start: Callable[[], None] | None = None) -> None:
    """Run one worker in this process until it stops.

    Args:
        on_start: called when the worker is ready to claim jobs.

    Raises:
        ConfigurationError, BackendUnavailableError: it cannot start.
    """
    if spec.has_terminal_debugger:
        debug_on_terminal()
    apps = load_apps(spec.apps)
    configure_logging(spec.log_level)  # after the import of the apps, which may configure logging too
    worker = StepWorker(apps, spec.settings, on_start=on_start)
    tune_gc()
    worker.work()
    code = RECYCLED if worker.is_recycled else 0
    _end_despite_exit_functions(code)
    _end_despite_threads(code)
    if code:
        sys.exit(code)


def _end_despite_exit_functions(code: int) -> None:
    """End the process if functions that user code has registered with `atexit` keep it alive."""
    timer = threading.Timer(_EXIT_S, _end_now, (code,))
    timer.daemon = True
    timer.start()


def _end_now(code: int) -> None:
    _log.warning("exit_blocked")
    logging.shutdown()
    os._exit(code)


def _end_despite_threads(code: int) -> None:
    """End the process if threads of handlers would keep it alive. They get a second."""
    deadline = time.monotonic() + _THREADS_LEFT_S
    others = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if left := [thread.name for thread in others if thread.is_alive()]:
        _log.warning("threads_left", extra={"count": len(left), "threads": left[:10]})
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


def _worker_main(spec: WorkerSpec, started: Connection) -> None:
    """The main function of a worker process. The worker stops when the process of the pool is gone.

    Args:
        started: gets a message when the worker is ready to claim jobs.
    """
    threading.Thread(target=_follow_parent, name=f"{NAME}-parent", daemon=True).start()
    try:
        run_worker(spec, on_start=lambda: started.send_bytes(b"started"))
    except StepflowError as error:
        _log.error("worker_not_started", extra={"error": str(error)})
        sys.exit(_MISCONFIGURED if isinstance(error, ConfigurationError) else 1)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def ignore_sigint_in_children() -> Iterator[None]:
    """Let new processes ignore Ctrl+C until they install a handler. Until then only the pool receives it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class WorkerPool:
    """Runs ``count`` workers, each in a process of its own.

    Args:
        spec: the configuration of each worker. If it has a name, the number of the process is appended.
        count: the number of workers.

    Raises:
        ConfigurationError: the count is less than 1.
    """

    def __init__(self, spec: WorkerSpec, count: int) -> None:
        if count < 1:
            raise ConfigurationError(f"processes must be an integer >= 1, got {count}")
        self._spec = spec
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, BaseProcess] = {}
        self._started: dict[int, Connection] = {}
        self._gave_up: set[int] = set()
        self._stop = threading.Event()
        self._kill_at = math.inf

    @property
    def pids(self) -> list[int]:
        """The ids of the running processes."""
        return [process.pid for process in self._processes.values() if process.pid and process.is_alive()]

    def start(self) -> None:
        """Start the processes."""
        for number in range(1, self._count + 1):
            self._start(number)

    def wait(self) -> None:
        """Wait until all have ended. Restart a process that dies, unless the pool stops or a burst worker is done."""
        while any(process.is_alive() for process in self._processes.values()) or self._restart_dead():
            time.sleep(_POLL_S)
            self._restart_dead()
            if time.monotonic() >= self._kill_at:
                self._kill_left()

    def stop(self) -> None:
        """Stop the workers after their current steps. A second call stops them at once."""
        self._kill_at = min(self._kill_at, time.monotonic() + self._spec.settings.grace_s + _KILL_S)
        self._stop.set()
        for process in self._processes.values():
            if process.is_alive():
                process.terminate()

    def run(self) -> int:
        """Start the processes and wait. SIGTERM or SIGINT stops the workers, a second one at once.

        Returns:
            The exit code of the pool: 3 if it has given up a worker that cannot start, 1 if a worker ended with an
            error and was not restarted, 0 otherwise.
        """
        configure_logging(self._spec.log_level)
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            self.wait()
            return self._exit_code()
        finally:
            self.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _start(self, number: int) -> None:
        settings, name = self._spec.settings, self._spec.settings.name
        spec = replace(self._spec, settings=replace(settings, name=f"{name}.{number}" if name else ""))
        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_worker_main, args=(spec, writer), name=f"{NAME}-worker-{number}")
        with ignore_sigint_in_children():
            process.start()
        writer.close()
        if number in self._started:
            self._started[number].close()
        self._processes[number], self._started[number] = process, reader
        if self._stop.is_set():  # a signal came during the start: it was passed to the other processes only
            process.terminate()

    def _exit_code(self) -> int:
        if self._gave_up:
            return _MISCONFIGURED
        codes = {process.exitcode for process in self._processes.values()} - {RECYCLED}
        if self._stop.is_set():
            codes.discard(-signal.SIGTERM)  # of a process that was still starting, and had nothing to finish
        return int(any(codes))

    def _gives_up(self, number: int) -> bool:
        """Whether a worker has ended before it was ready, by an error that a restart would not help."""
        if self._processes[number].exitcode == _MISCONFIGURED and not _has_message(self._started[number]):
            self._gave_up.add(number)
        return number in self._gave_up

    def _restart_dead(self) -> bool:
        if self._stop.is_set():
            return False
        restarted = False
        for number, process in list(self._processes.items()):
            done = self._spec.settings.burst and process.exitcode == 0
            if process.is_alive() or done or self._gives_up(number):
                continue
            if process.exitcode != RECYCLED and self._stop.wait(_RESTART_PAUSE_S):
                return False
            self._start(number)
            restarted = True
        return restarted

    def _kill_left(self) -> None:
        """Kill the workers that cannot end themselves."""
        for process in self._processes.values():
            if process.is_alive():
                _log.warning("worker_killed", extra={"pid": process.pid})
                process.kill()
                process.join(1)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Pass the signal on. A worker that receives a second one stops at once."""
        self.stop()


def _has_message(connection: Connection) -> bool:
    try:
        return connection.poll() and bool(connection.recv_bytes())
    except EOFError:
        return False
