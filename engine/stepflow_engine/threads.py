"""ScriptStatus in threads: how a plain ``def`` function takes part in an asyncio execution.

The function's body runs in a thread of its own. When it asks for a step, its thread stops and a task on the loop asks
in its place, so the execution sees the same thing as for ``async def`` code. Threads of one run are started, and
resumed, one at a time: the order in which they ask is the same on every replay.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from stepflow_engine.errors import StepUsageError
from stepflow_engine.execution import HANDLER_ATTEMPT, Execution

__all__ = ["Suspended", "ThreadBridge"]

T = TypeVar("T")


class Suspended(BaseException):
    """Unwinds a thread whose execution was given up; its run goes on elsewhere, from its memos.

    Not an `Exception`, so that ``except Exception`` in a function lets it pass.
    """


class ThreadBridge:
    """Runs the threads of one execution.

    Args:
        execution: the execution that they belong to.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._activity = execution.activity
        self._loop = asyncio.get_running_loop()
        self._threads: set[int] = set()
        self._first_stops: dict[int, asyncio.Future[None]] = {}

    async def run(self, body: Callable[[], T]) -> T:
        """Run ``body`` in a thread, from the loop, and wait for what it returns."""
        _, result = self._start(body)
        return await result

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """From a thread of the run: have the loop run the coroutine that ``make`` makes, and wait for its result.

        Raises:
            StepUsageError: the calling thread is not one of the run's, or it runs a step's handler.
            Suspended: the execution was given up meanwhile.
        """
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError("a step is asked for inside another step's handler, where it could not be kept")
        if threading.get_ident() not in self._threads:
            raise StepUsageError(
                "a step is asked for in a thread that the run does not know: use ctx.step.parallel for threads"
            )
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._ask, make, result, context, threading.get_ident())
        return result.result()

    def parallel(self, bodies: Sequence[Callable[[], Any]]) -> list[Any]:
        """From a thread of the run: run each body in a thread, and return their results in order.

        All of them are waited for; then the first error, in order, is raised.
        """
        outcomes = self.call(lambda: self._parallel(bodies))
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes

    async def _parallel(self, bodies: Sequence[Callable[[], Any]]) -> list[Any]:
        results = []
        for body in bodies:
            first_stop, result = self._start(body)
            results.append(result)
            await first_stop
        return await asyncio.gather(*results, return_exceptions=True)

    def _start(self, body: Callable[[], T]) -> tuple[asyncio.Future[None], asyncio.Future[T]]:
        result: asyncio.Future[T] = self._loop.create_future()
        first_stop: asyncio.Future[None] = self._loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            ident = threading.get_ident()
            self._threads.add(ident)
            self._first_stops[ident] = first_stop
            try:
                value = context.run(body)
            except BaseException as error:  # noqa: BLE001  user code, and Suspended: it belongs to who waits
                self._tell(self._end, ident, result, None, error)
            else:
                self._tell(self._end, ident, result, value, None)
            finally:
                self._threads.discard(ident)

        self._activity.threads += 1
        threading.Thread(target=work, name="stepflow-function", daemon=True).start()
        return first_stop, result

    def _tell(self, callback: Callable[..., Any], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _end(self, ident: int, result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        self._stopped(ident)
        if result.done():
            return
        if error is None:
            result.set_result(value)
        elif isinstance(error, Suspended | StopIteration):
            result.set_exception(RuntimeError(f"{type(error).__name__} left the function's code"))
        else:
            result.set_exception(error)

    def _ask(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        result: concurrent.futures.Future[T],
        context: contextvars.Context,
        ident: int,
    ) -> None:
        if self._execution.closed:  # the thread computes on, until it ends
            result.set_exception(Suspended())
            return
        self._stopped(ident)
        task = self._loop.create_task(make(), context=context)
        task.add_done_callback(lambda done: self._answer(done, result), context=context)

    def _answer(self, task: asyncio.Task[T], result: concurrent.futures.Future[T]) -> None:
        self._activity.threads += 1
        self._activity.touch()
        if task.cancelled():
            result.set_exception(Suspended())
        elif (error := task.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(task.result())

    def _stopped(self, ident: int) -> None:
        """Note that a thread computes no longer: it asked for something, or ended."""
        self._activity.threads -= 1
        self._activity.touch()
        first_stop = self._first_stops.pop(ident, None)
        if first_stop is not None and not first_stop.done():
            first_stop.set_result(None)
