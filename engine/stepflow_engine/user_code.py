"""The boundary to the code of users: any error may leave it, and none may end the worker.

asyncio ends the event loop when a task raises `SystemExit` or `KeyboardInterrupt`, and the code of the worker catches
`Exception`. So an error that is not an `Exception` leaves user code inside an `EscapedError`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

__all__ = ["EscapedError", "escaped", "original", "shielded"]

T = TypeVar("T")


class EscapedError(Exception):
    """Carries an error that is not an `Exception` out of user code.

    Attributes:
        error: the error.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(type(error).__name__)
        self.error = error


def original(error: BaseException) -> BaseException:
    """The error that user code raised."""
    return error.error if type(error) is EscapedError else error


async def shielded(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Call user code and await it. If the task is cancelled before its first turn, there is no coroutine to await.

    Raises:
        EscapedError: the code raised an error that is not an `Exception`.
        Exception, asyncio.CancelledError: what the code raised.
    """
    try:
        return await call()
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001  user code
        raise escaped(error) from None


def escaped(error: BaseException) -> BaseException:
    """What the coroutine of a task raises in place of an error that is not an `Exception`.

    Only that coroutine itself calls it. The answer is the error itself if the garbage collector closes the coroutine.
    """
    is_closed = isinstance(error, GeneratorExit) and not _is_running(sys._getframe(1))
    return error if is_closed else EscapedError(error)


def _is_running(frame: FrameType) -> bool:
    """Whether the coroutine with this frame is that of the running task.

    It is asked after such an error only. To note the task before each call costs every step more than a system call.
    """
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return task is not None and getattr(task.get_coro(), "cr_frame", None) is frame
