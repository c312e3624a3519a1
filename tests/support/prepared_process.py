"""The process that has imported the product, and forks for each program under test.

A program that starts from nothing spends most of a second on imports, which is longer than what most tests do with it.
``tests/support/forking.py`` starts this process and sends it what to run. A forked process has its own environment,
directory, arguments and files, and ends as any interpreter does. Whatever an interpreter reads at its start
(``PYTHON*`` variables, site-packages) is that of the test's process.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import types
from dataclasses import dataclass
from typing import Any

__all__ = ["Program"]

_MODULES = ("stepflow_cli.main", "stepflow_cli.commands.worker", "stepflow_workers.pool", "stepflow_workers.worker")
"""What is imported before the first fork."""

_LARGEST = 1_000_000
_FILES = 4  # standard input, output, error, and the pipe that tells of the process


@dataclass(frozen=True, slots=True)
class Program:
    """What a forked process runs.

    Attributes:
        module: its function ``main`` is called; ``""``: ``code`` is executed.
        arguments: ``sys.argv``.
        path: what ``sys.path`` begins with.
        own_session: whether it leads a session, and so a process group.
    """

    module: str
    code: str
    arguments: list[str]
    environment: dict[str, str]
    cwd: str
    path: list[str]
    own_session: bool


def _serve(requests: socket.socket) -> Program | None:
    """Fork for each request; returns in each forked process, and here when the test's process has gone."""
    pipes: dict[int, int] = {}
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests.fileno(), wake_read], [], [])
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 1_000)
            _report_ends(pipes)
        if requests.fileno() not in ready:
            continue
        text, files = _receive(requests)
        if not text:
            return None
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (requests.detach(), wake_read, wake_write, *pipes.values()):
                os.close(other)
            for number in range(3):
                os.dup2(files[number], number)
            for number in files:
                os.close(number)
            return Program(**json.loads(text))
        pipes[pid] = files.pop()
        for number in files:
            os.close(number)
        os.write(pipes[pid], pid.to_bytes(4, "little"))


def _receive(requests: socket.socket) -> tuple[bytes, list[int]]:
    text, ancillary, _, _ = requests.recvmsg(_LARGEST, socket.CMSG_SPACE(_FILES * 4))
    files = array.array("i")
    for _, _, data in ancillary:
        files.frombytes(data)
    return text, list(files)


def _report_ends(pipes: dict[int, int]) -> None:
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = pipes.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))
        os.close(pipe)


def _run(program: Program) -> Any:
    """Be the program."""
    if program.own_session:
        os.setsid()
    os.chdir(program.cwd)
    os.environ.clear()
    os.environ.update(program.environment)
    sys.argv = program.arguments
    sys.path[:0] = [entry for entry in program.path if entry not in sys.path]
    sys.modules["__main__"] = types.ModuleType("__main__")
    if measured := _coverage():
        measured.process_startup(force=True)
    if program.module:
        return importlib.import_module(program.module).main()
    return exec(compile(program.code, "<string>", "exec"), vars(sys.modules["__main__"]))


def _coverage() -> Any:
    """The package, if this process is measured."""
    return importlib.import_module("coverage") if "COVERAGE_PROCESS_CONFIG" in os.environ else None


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for module in _MODULES:
        importlib.import_module(module)
    if measured := _coverage():
        measured.Coverage.current().stop()  # each forked process is measured by itself
    gc.freeze()
    if program := _serve(requests):
        gc.unfreeze()
        _run(program)


if __name__ == "__main__":
    main()
