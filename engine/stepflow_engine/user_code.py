"""The boundary to the code of users: any error may leave it, and none may end the worker.

asyncio ends the event loop when a task raises `SystemExit` or `KeyboardInterrupt`, and the code of the worker catches
`Exception`. So an error that is not an `Exception` leaves user code inside an `EscapedError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["EscapedError", "original", "shielded"]

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


async def shielded(code: Coroutine[Any, Any, T]) -> T:
    """Await user code.

    Raises:
        EscapedError: the code raised an error that is not an `Exception`.
        Exception, asyncio.CancelledError: what the code raised.
    """
    task = asyncio.current_task()
    try:
        return await code
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        if isinstance(error, GeneratorExit) and not _is_running(task):
            raise  # the garbage collector closes the coroutine
        raise EscapedError(error) from None


def _is_running(task: asyncio.Task[Any] | None) -> bool:
    return asyncio._get_running_loop() is not None and asyncio.current_task() is task
