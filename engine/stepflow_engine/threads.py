"""Threads of a run: how a plain ``def`` function takes part in an asyncio execution.

The code of the function runs in a thread. When it requests a step, the thread blocks, and a task in the event loop
makes the request, so the execution is the same as for ``async def`` code. The threads of one run are started and
resumed one at a time, so they make their requests in the same order on every replay.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from stepflow_engine.errors import StepUsageError
from stepflow_engine.execution import HANDLER_ATTEMPT, Execution
from stepflow_engine.thread_pool import ThreadPool

__all__ = ["DetachedThreads", "Suspended", "ThreadBridge"]

T = TypeVar("T")

_IN_HANDLER = (
    "a step must not be inside the handler of another step: call it in the function itself, before or after that step"
)


class Suspended(BaseException):
    """Unwinds a thread whose execution was closed. The run continues elsewhere, from its memos.

    Not an `Exception`, so that ``except Exception`` in a function lets it pass.
    """


class _Body:
    """A callable that runs in a thread of its own until it ends.

    Attributes:
        first_stop: done when the body has made its first request, or has ended.
    """

    __slots__ = ("first_stop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first_stop: asyncio.Future[None] = loop.create_future()


class ThreadBridge:
    """Runs the threads of one execution.

    Args:
        execution: the execution of the threads.
        threads: where the threads come from.
        name: the name of the threads.
    """

    def __init__(self, execution: Execution, threads: ThreadPool, name: str) -> None:
        self._execution = execution
        self._activity = execution.activity
        self._loop = asyncio.get_running_loop()
        self._pool = threads
        self._name = name
        self._bodies: dict[int, _Body] = {}
        execution.threads = self._bodies

    async def run(self, body: Callable[[], T]) -> T:
        """Run ``body`` in a thread and return its result. Called in the event loop."""
        _, result = self._start(body)
        return await result

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that ``make`` makes in the event loop and return its result. Called in a thread of the run.

        Raises:
            StepUsageError: the calling thread is not a thread of the run, or runs the handler of a step.
            Suspended: the execution was closed meanwhile.
        """
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError(_IN_HANDLER)
        body = self._bodies.get(threading.get_ident())
        if body is None:
            raise StepUsageError("a step must be called in a thread of the run: start threads with ctx.step.parallel")
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._request, make, result, context, body)
        try:
            return result.result()
        except Suspended:
            time.sleep(self._execution.refusal_delay_s())
            raise

    def ask(self, question: Callable[[], T]) -> T:
        """Call ``question`` in the event loop and return its result. To the run, the thread computes on meanwhile.

        Raises:
            Suspended: the execution is closed.
        """
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._answer, question, result)
        return result.result()

    def parallel(self, bodies: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run each body in a thread and return their results in order. Called in a thread of the run.

        It waits for all bodies. Then it raises the first error, in the order of the bodies.
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

    def _start(self, function: Callable[[], T]) -> tuple[asyncio.Future[None], asyncio.Future[T]]:
        result: asyncio.Future[T] = self._loop.create_future()
        body = _Body(self._loop)
        context = contextvars.copy_context()

        def work() -> None:
            ident = threading.get_ident()
            self._bodies[ident] = body
            try:
                value = context.run(function)
            except BaseException as error:  # noqa: BLE001  user code, and Suspended: the caller of `run` gets it
                self._in_loop(self._end, body, result, None, error)
            else:
                self._in_loop(self._end, body, result, value, None)
            finally:
                del self._bodies[ident]  # the thread may run a body of another execution next

        self._pool.start(work, name=self._name)
        self._activity.threads += 1
        return body.first_stop, result

    def _in_loop(self, callback: Callable[..., Any], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _end(self, body: _Body, result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        self._stopped(body)
        if result.done():
            return
        if error is None:
            result.set_result(value)
        elif issubclass(type(error), (Suspended, StopIteration)):
            result.set_exception(RuntimeError(f"the function raised {type(error).__name__}"))
        else:
            result.set_exception(error)

    def _request(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        result: concurrent.futures.Future[T],
        context: contextvars.Context,
        body: _Body,
    ) -> None:
        if self._execution.closed:  # the thread runs on until it ends
            result.set_exception(Suspended())
            return
        self._stopped(body)
        task = self._loop.create_task(make(), context=context)
        task.add_done_callback(lambda done: self._reply(done, result), context=context)

    @staticmethod
    def _answer(question: Callable[[], T], result: concurrent.futures.Future[T]) -> None:
        try:
            answer = question()
        except asyncio.CancelledError:
            result.set_exception(Suspended())
        except Exception as error:  # noqa: BLE001  it is raised in the thread
            result.set_exception(error)
        else:
            result.set_result(answer)

    def _reply(self, task: asyncio.Task[T], result: concurrent.futures.Future[T]) -> None:
        self._activity.threads += 1
        self._activity.touch()
        if task.cancelled():
            result.set_exception(Suspended())
        elif (error := task.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(task.result())

    def _stopped(self, body: _Body) -> None:
        """Record that a thread no longer computes: it has made a request, or has ended."""
        self._activity.threads -= 1
        self._activity.touch()
        if not body.first_stop.done():
            body.first_stop.set_result(None)


class DetachedThreads(ThreadBridge):
    """Takes the place of the threads of a run in another process, where only a handler of the run executes."""

    def __init__(self) -> None:
        """There is nothing to bridge."""

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:  # noqa: ARG002
        """Refuse a step.

        Raises:
            StepUsageError: always.
        """
        raise StepUsageError(_IN_HANDLER)
