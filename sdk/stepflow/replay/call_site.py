"""The place of a call in the code of a function: where the code requests a step."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import stepflow_engine
from stepflow_engine.execution import Execution
from stepflow_engine.threads import ThreadBridge

__all__ = ["ORIGIN_DEPTH", "CallSite", "call_site", "raise_site", "stack_site"]

ORIGIN_DEPTH = 8
"""How many frames a coroutine remembers of its creation: `sys.set_coroutine_origin_tracking_depth` of the loop."""
_OWN = tuple(f"{folder}{os.sep}" for folder in (Path(stepflow_engine.__file__).parent, Path(__file__).parent.parent))
_ASYNCIO = f"{Path(asyncio.__file__).parent}{os.sep}"
_STANDARD = f"{sysconfig.get_path('stdlib')}{os.sep}"
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


@dataclass(frozen=True, slots=True)
class CallSite:
    """A line of a file."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def call_site(execution: Execution, step_id: str) -> CallSite | None:
    """Where the code calls the step that it is requesting now; ``None``: unknown.

    Called in `Execution.request`. The code is on the stack, or has made the coroutine of the task, or waits in a thread
    of the run for the end of the request.
    """
    return _caller() or _origin() or _in_thread(execution, step_id)


def raise_site(error: BaseException) -> CallSite | None:
    """The innermost line of the code of a user that raised an error; ``None``: there is none."""
    site, entry = None, error.__traceback__
    while isinstance(entry, TracebackType):
        path = entry.tb_frame.f_code.co_filename
        site = CallSite(path, entry.tb_lineno) if _is_of_user(path) else site
        entry = entry.tb_next
    return site


def stack_site(frame: FrameType) -> CallSite | None:
    """The innermost line of the code of a user on a stack; ``None``: there is none."""
    site = None
    for one in _outwards(frame):
        path = one.f_code.co_filename
        if path.startswith(_OWN):
            return site
        if _is_of_user(path):
            site = site or CallSite(path, one.f_lineno)
            if not any(name in path for name in _INSTALLED):  # the caller of a library says more
                return CallSite(path, one.f_lineno)
    return site


def _is_of_user(path: str) -> bool:
    is_standard = path.startswith(_STANDARD) and not any(name in path for name in _INSTALLED)
    return not (is_standard or path.startswith((*_OWN, "<frozen")))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _caller() -> CallSite | None:
    """The line of the code that is on the stack. Behind the event loop there is none."""
    return _first((one.f_code.co_filename, one.f_lineno) for one in _outwards(sys._getframe(2)))


def _origin() -> CallSite | None:
    """The line of the code that has made the coroutine of the task."""
    task = asyncio.current_task()
    frames = getattr(task.get_coro(), "cr_origin", None) if task is not None else None
    return _first((path, line) for path, line, _ in frames or ())


def _first(lines: Iterable[tuple[str, int]]) -> CallSite | None:
    for path, line in lines:
        if path.startswith(_ASYNCIO):
            return None
        if _is_of_user(path):
            return CallSite(path, line)
    return None


def _in_thread(execution: Execution, step_id: str) -> CallSite | None:
    """Where a thread of the run waits in the call of the step."""
    for innermost in sys._current_frames().values():
        frames = _outwards(innermost)
        if not any(one.f_code is ThreadBridge.call.__code__ and _is_of(one, execution) for one in frames):
            continue
        for one in frames:
            if _is_of_user(one.f_code.co_filename):
                return CallSite(one.f_code.co_filename, one.f_lineno)
            if one.f_locals.get("id", step_id) != step_id:
                break
    return None


def _is_of(frame: FrameType, execution: Execution) -> bool:
    return frame.f_locals["self"]._execution is execution
