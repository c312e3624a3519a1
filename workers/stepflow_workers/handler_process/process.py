"""HandlerProcess: one process in which isolated handlers execute, seen from the worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from stepflow_engine.errors import HandlerProcessError
from stepflow_engine.product import NAME
from stepflow_workers.handler_process.frames import HEADER, MAX_FAILURE_BYTES, FrameKind, frame

__all__ = ["HandlerProcess", "can_read_memory"]

_PROGRAM = Path(__file__).with_name("handler_process_main.py")
_TERMINATE_S = 2.0
"""How long a handler may unwind after SIGTERM. Then its process is killed."""
_GONE_S = 2.0
_POLL_S = 0.005
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = resource.getpagesize()


class HandlerProcess:
    """A process, with the connection to it. It has a session of its own, so that the terminal sends it no signals.

    Attributes:
        calls: how many calls it has got.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.calls = 0

    @classmethod
    async def start(cls) -> HandlerProcess:
        """Start a process, without waiting for it. Called in the main thread: the process ends with it.

        Raises:
            HandlerProcessError: it cannot start.
        """
        process, connection = _spawn()
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        logger = logging.getLogger(NAME)
        config = {"path": sys.path, "log_level": logging.getLevelName(logger.getEffectiveLevel())}
        writer.write(json.dumps(config).encode() + b"\n")
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, or the negative number of the signal that has ended it; ``None``: it runs."""
        return self._process.poll()

    def memory_bytes(self) -> int:
        """Its resident memory, in bytes; 0: the system does not tell it."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, ValueError, IndexError):
            return 0

    def call(self, text: bytes) -> None:
        """Send a call."""
        self.calls += 1
        self._writer.write(frame(FrameKind.CALL, self.calls, text))

    def cancel(self, reason: str) -> None:
        """Tell the handler that nobody needs its result any more."""
        self._writer.write(frame(FrameKind.CANCEL, self.calls, reason.encode()))

    async def read(self, *, limit_bytes: int) -> tuple[int, bytes]:
        """The next frame of the last call: its kind and its text.

        Args:
            limit_bytes: the largest size of a result.

        Raises:
            asyncio.IncompleteReadError, OSError: the connection has ended.
            ValueError: a frame is over its limit.
        """
        while True:
            kind, call, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            if size > max(limit_bytes, MAX_FAILURE_BYTES):
                raise ValueError(f"a message of {size:,} bytes")
            text = await self._reader.readexactly(size)
            if call == self.calls:
                return kind, text
            await asyncio.sleep(_POLL_S)  # of a thread that an earlier handler has left behind

    async def has_ended(self, within_s: float) -> bool:
        """Whether it ends within a time, in seconds."""
        until = time.monotonic() + within_s
        while self.is_alive and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        return not self.is_alive

    async def terminate(self) -> None:
        """End the handler: it is unwound by SIGTERM, then killed."""
        self._signal(signal.SIGTERM)
        await self.has_ended(_TERMINATE_S)
        await self.kill()

    async def kill(self) -> None:
        """Kill the process, and those that it has started in its session."""
        self.kill_now()
        await self.has_ended(_GONE_S)

    def kill_now(self) -> None:
        """Kill the process, without waiting for its end."""
        self._signal(signal.SIGKILL)
        self._writer.close()

    def wait(self) -> None:
        """Wait for the end of a killed process."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_S)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def can_read_memory() -> bool:
    """Whether the system tells the memory of processes."""
    return _STATM.exists()


def _spawn() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process: it, and the connection to it."""
    ours, theirs = socket.socketpair()
    args = [sys.executable, str(_PROGRAM), str(os.getpid()), str(theirs.fileno())]
    try:
        with theirs:
            process = subprocess.Popen(
                args, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True
            )
    except OSError as error:
        ours.close()
        raise HandlerProcessError(f"the process of the handler cannot start: {error}") from error
    return process, ours
