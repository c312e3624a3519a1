"""The guard of a replay: code between steps must not reach outside, so a replay refuses it, and notes where.

It is an audit hook of Python, which is called before the operation. It cannot be removed, and outside of a replay it
does nothing. Libraries that call the system in C code, such as the client of a database, do not pass it.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepflow.replay.call_site import CallSite, stack_site

__all__ = ["OutsideCall", "OutsideCallError", "guarded"]

_LONGEST_SLEEP_S = 0.1


@dataclass(frozen=True, slots=True)
class OutsideCall:
    """What the code between steps wanted to do."""

    what: str
    site: CallSite | None


class OutsideCallError(BaseException):
    """Refuses what the code between steps wanted to do. Not an `Exception`, so that the code does not catch it."""


_CALLS: contextvars.ContextVar[list[OutsideCall] | None] = contextvars.ContextVar("outside_calls", default=None)
_REFUSED: dict[str, Callable[[tuple[Any, ...]], str]] = {
    "socket.connect": lambda args: f"connects to {args[1]!r:.100}",
    "socket.bind": lambda _: "opens a port",
    "socket.sendto": lambda args: f"sends data to {args[1]!r:.100}",
    "socket.sendmsg": lambda _: "sends data over a socket",
    "socket.getaddrinfo": lambda args: f"looks up {args[0]!r:.100}",
    "socket.gethostbyname": lambda args: f"looks up {args[0]!r:.100}",
    "subprocess.Popen": lambda args: f"starts the process {args[0]!r:.100}",
    "os.system": lambda _: "starts a process with os.system",
    "os.exec": lambda _: "replaces its process with os.exec",
    "os.posix_spawn": lambda args: f"starts the process {args[0]!r:.100}",
    "os.fork": lambda _: "forks its process",
    "os.forkpty": lambda _: "forks its process",
    "time.sleep": lambda args: f"sleeps for {args[0]:g} s with time.sleep" if args[0] > _LONGEST_SLEEP_S else "",
}
_installed = False


def guarded() -> list[OutsideCall]:
    """Guard the current context, and what inherits it; the list gets what is refused."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_refuse)
    calls: list[OutsideCall] = []
    _CALLS.set(calls)
    return calls


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event not in _REFUSED or (calls := _CALLS.get()) is None:
        return
    if what := _REFUSED[event](args):
        calls.append(OutsideCall(what, stack_site(sys._getframe(1))))
        raise OutsideCallError(what)
