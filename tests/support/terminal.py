"""Commands on a terminal of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.command_line import environment

__all__ = ["Screen", "in_terminal"]


def in_terminal(words: Sequence[str], *, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A command that a terminal of its own controls; the process, and the other end of the terminal."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_TERMINAL, *words],
        cwd=folder,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


_ON_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv = ["stepflow", *sys.argv[1:]]
from stepflow_cli.main import main
if __name__ == "__main__":
    main()
"""


class Screen:
    """What a terminal has shown so far."""

    def __init__(self, ours: int) -> None:
        self._ours = ours
        self.text = ""
        os.set_blocking(ours, False)

    def has(self, text: str) -> bool:
        with contextlib.suppress(BlockingIOError, OSError):
            while part := os.read(self._ours, 65_536):
                self.text += part.decode(errors="replace")
        return text in self.text

    def type(self, text: str) -> None:
        os.write(self._ours, f"{text}\n".encode())
