"""Where the code of a run makes a call: the file and the line, for a message. It is found only when it is needed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from stepflow_engine.product import NAME
from stepflow_engine.steps import StepCall

__all__ = ["frame_of_running_call", "site_of_call", "site_of_running_call"]

_OWN = {NAME, *(f"{NAME}_{part}" for part in ("broker", "cli", "engine", "workers"))}
_NOT_OF_USERS = frozenset({"asyncio", "concurrent", "contextlib", "threading", *_OWN})
_LOOPS = frozenset({"asyncio.base_events", "asyncio.events", "asyncio.runners"})


def site_of_call(call: StepCall, tasks: Iterable[asyncio.Task[Any]], threads: Iterable[int]) -> str:
    """Where the code waits for a step, as ``shop.py:41``; ``""``: unknown.

    Args:
        tasks: those of the run. The call may be a task of its own, for which a gather waits.
        threads: those in which its plain ``def`` code runs.
    """
    waiting = {id(getattr(one, "_fut_waiter", None)): one for one in tasks}
    task = waiting.get(id(call.future))
    gathering = (one for one in tasks if task in getattr(getattr(one, "_fut_waiter", None), "_children", ()))
    frames = (_innermost(reversed(list(_suspended_frames(one)))) for one in (task, *gathering) if one is not None)
    return _site(next(filter(None, frames), None) or _frame_in_threads(call.id, threads))


def site_of_running_call(step_id: str, threads: Iterable[int]) -> str:
    """Where the code makes the call of a step that is executed now. See `site_of_call`."""
    return _site(frame_of_running_call(step_id, threads))


def frame_of_running_call(step_id: str, threads: Iterable[int]) -> FrameType | None:
    """The frame in which the code makes the call of a step that is executed now; ``None``: unknown."""
    return _innermost(_running_frames(sys._getframe(1))) or _frame_in_threads(step_id, threads)


def _suspended_frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """The frames of a suspended task, the outermost first."""
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _running_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers, up to the event loop."""
    while frame is not None and frame.f_globals.get("__name__") not in _LOOPS:
        yield frame
        frame = frame.f_back


def _frame_in_threads(step_id: str, threads: Iterable[int]) -> FrameType | None:
    """Where a thread has called a step tool with this id, and waits."""
    frames = sys._current_frames()
    for ident in threads:
        if ident in frames:
            stack = list(_running_frames(frames[ident]))
            called = next((n for n, one in enumerate(stack) if one.f_locals.get("id") == step_id), len(stack))
            if (frame := _innermost(stack[called:])) is not None:
                return frame
    return None


def _innermost(frames: Iterable[FrameType]) -> FrameType | None:
    """The first of some frames that is code of a user, the innermost first."""
    names = ((frame, str(frame.f_globals.get("__name__", ""))) for frame in frames)
    return next((frame for frame, module in names if module.partition(".")[0] not in _NOT_OF_USERS), None)


def _site(frame: FrameType | None) -> str:
    """The file, from the current folder if it is in it, and the line."""
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename.removeprefix(f'{Path.cwd()}{os.sep}')}:{frame.f_lineno}"
