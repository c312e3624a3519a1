"""``breakpoint()`` in a handler, in a worker process whose standard input is not the terminal."""

from __future__ import annotations

import os
import pdb
import sys
from pathlib import Path
from typing import Any

from stepflow_engine.product import NAME

__all__ = ["debug_on_terminal"]

_TERMINAL = Path("/dev/tty")


def debug_on_terminal() -> None:
    """Let ``breakpoint()`` in this process open a debugger on the terminal that the process belongs to.

    A child process that Python starts has no standard input, so the debugger of the standard library would end at once.
    ``PYTHONBREAKPOINT`` still chooses another debugger, or none.
    """
    if not os.environ.get("PYTHONBREAKPOINT"):
        sys.breakpointhook = _open_debugger


def _open_debugger(*_args: Any, **_options: Any) -> None:
    """The breakpoint hook.

    Raises:
        RuntimeError: the process belongs to no terminal.
    """
    try:
        stdin, stdout = _TERMINAL.open(), _TERMINAL.open("w")  # the debugger uses them until it ends
    except OSError:
        raise RuntimeError(
            f"breakpoint() found no terminal: run '{NAME} dev' in one, or set PYTHONBREAKPOINT to the function of a "
            "debugger that needs none, such as debugpy.breakpoint; PYTHONBREAKPOINT=0 ignores breakpoints"
        ) from None
    pdb.Pdb(stdin=stdin, stdout=stdout, nosigint=True).set_trace(sys._getframe(1))
