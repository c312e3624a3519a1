"""Programs under test, forked from a process that has imported the product: see ``prepared_process.py``."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.support.prepared_process import Program

__all__ = ["ForkedProcess", "fork_program"]

_ROOT = Path(__file__).parents[2]


class ForkedProcess:
    """A forked process: what tests use of ``subprocess.Popen``."""

    returncode: int | None

    def __init__(self, pipe: int, args: list[str]) -> None:
        self.args, self.returncode, self._pipe = args, None, pipe
        self.pid = int.from_bytes(os.read(pipe, 4), "little")
        assert self.pid, "the process that forks has ended"

    def poll(self) -> int | None:
        """Its exit code; a negative one is the signal that ended it; ``None``: it still runs."""
        return self._await(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._await(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._pipe], [], [], seconds)[0]:
            self.returncode = int.from_bytes(os.read(self._pipe, 4), "little", signed=True)
            os.close(self._pipe)
        return self.returncode


def fork_program(
    *arguments: str,
    module: str = "",
    code: str = "",
    environment: Mapping[str, str],
    cwd: Path,
    files: tuple[IO[bytes], IO[bytes], IO[bytes]],
    own_session: bool = False,
) -> ForkedProcess:
    """Start a program.

    Args:
        arguments: of the program, without its name.
        module: its function ``main`` is the program; else ``code`` is.
        files: standard input, output and error.
        own_session: whether it leads a session, and so a process group.
    """
    entries = [str(cwd), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    name = module or "-c"
    program = Program(module, code, [name, *arguments], dict(environment), str(cwd), entries, own_session)
    read, write = os.pipe()
    text = json.dumps({name: getattr(program, name) for name in Program.__slots__}).encode()
    socket.send_fds(_prepared(os.getpid()), [text], [*(file.fileno() for file in files), write])
    os.close(write)
    return ForkedProcess(read, [name, *arguments])


@functools.cache
def _prepared(of: int) -> socket.socket:
    """The socket of the process that forks, one for each process of tests; it ends with the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.prepared_process", str(theirs.fileno())],
        cwd=_ROOT,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours
