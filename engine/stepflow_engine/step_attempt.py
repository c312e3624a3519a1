"""One attempt of a step: call its handler and convert the result to JSON."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

from stepflow_engine.around_attempt import NOTHING_AROUND, AroundAttempt, Attempt
from stepflow_engine.callables import is_async_callable
from stepflow_engine.codec import Restore, dumps_output, round_trip
from stepflow_engine.declared_types import check_value
from stepflow_engine.durations import show_duration
from stepflow_engine.execution import HANDLER_ATTEMPT
from stepflow_engine.handler_control import HANDLER, HandlerControl
from stepflow_engine.run_loop import ACTIVITY
from stepflow_engine.steps import RunRequest
from stepflow_engine.thread_pool import ThreadPool
from stepflow_engine.user_code import EscapedError, escaped
from stepflow_engine.value_class import value_class

__all__ = ["Result", "attempt_step", "enter_handler", "handler_result"]

_LEFT = "the worker stops, or has left the step to another"


@value_class
class Result:
    """The result of a handler, as JSON text and as the plain data that the text is parsed to."""

    text: bytes
    data: Any


async def attempt_step(
    step_id: str,
    request: RunRequest,
    *,
    function: str,
    run_id: str,
    attempt: int,
    limit_bytes: int,
    threads: ThreadPool,
    control: HandlerControl | None = None,
    around: AroundAttempt = NOTHING_AROUND,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Result:
    """Call a step's handler once.

    Args:
        step_id: the id of the step.
        request: the handler and its arguments.
        function: the function of the run, as ``app/id``.
        run_id: the id of the run.
        attempt: the number of the attempt, 0-based.
        limit_bytes: the largest size of the result, in bytes of JSON.
        threads: where a plain ``def`` handler runs.
        control: the heartbeats of the handler, and its cancellation; ``None``: nobody follows them.
        around: the context managers around the handler.
        loop: the running event loop; ``None``: asks for it, which is a system call before Python 3.12.

    Raises:
        StepOutputError: the result is not JSON, or is over the limit.
        TimeoutError: the attempt took longer than the timeout of the step, or sent no heartbeat for the time that the
            step allows. A handler in a thread cannot be stopped: its next heartbeat raises `StepCancelled`, until then
            it runs on, and its result is dropped.
        EscapedError: the handler raised an error that is not an `Exception`.
        Exception: any other error of the handler.
    """
    context, control = request.context.copy(), control or HandlerControl(step_id)
    context.run(enter_handler, attempt, control)
    described = functools.partial(Attempt, function, run_id, step_id, attempt)  # most attempts need it not
    is_async = is_async_callable(request.handler)
    code = _call(request) if is_async and not around.has_async else _call_around(described, request, around, threads)
    task = (loop or asyncio.get_running_loop()).create_task(code, name=step_id, context=context)
    if is_async:
        control.task = task
    try:
        value = await _result(task, request, control)
    finally:
        control.task = None
    return handler_result(step_id, value, request.adapter, limit_bytes=limit_bytes)


def handler_result(step_id: str, value: Any, adapter: Restore | None, *, limit_bytes: int) -> Result:
    """Convert what a handler has returned to JSON.

    Args:
        adapter: restores the result to the type that the handler declares; ``None``: plain JSON data.
        limit_bytes: the largest size, in bytes of JSON.

    Raises:
        StepOutputError: the result is not JSON, is over the limit, or does not come back.
    """
    text = dumps_output(value, what=f"step {step_id!r}", limit_bytes=limit_bytes)
    data = round_trip(value, text)
    if adapter is not None:
        check_value(adapter, value, data, what=f"step {step_id!r}")
    return Result(text, data)


def enter_handler(attempt: int, control: HandlerControl) -> None:
    """Make the current context that of a handler."""
    ACTIVITY.set(None)
    HANDLER_ATTEMPT.set(attempt)
    HANDLER.set(control)


async def _call(request: RunRequest) -> Any:
    try:
        return await request.handler(*request.args, **request.kwargs)
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001  user code
        raise escaped(error) from None


async def _call_around(
    described: Callable[[], Attempt], request: RunRequest, around: AroundAttempt, threads: ThreadPool
) -> Any:
    try:
        return await _called_around(described(), request, around, threads)
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001  user code
        raise escaped(error) from None


async def _called_around(attempt: Attempt, request: RunRequest, around: AroundAttempt, threads: ThreadPool) -> Any:
    handler: Callable[..., Any] = functools.partial(request.handler, *request.args, **request.kwargs)
    if is_async_callable(request.handler):
        return await around.wait(attempt, handler)
    call = functools.partial(around.call, attempt, handler) if around.has_sync else handler
    value = await _in_thread(call, threads, f"{attempt.function}: {attempt.step_id}")
    if not inspect.isawaitable(value):
        return value
    if (control := HANDLER.get()) is not None:  # a coroutine that a lambda has returned can be cancelled too
        control.task = asyncio.current_task()
    return await (around.wait(attempt, lambda: value) if around.has_async else value)


def _in_thread(function: Callable[[], Any], threads: ThreadPool, name: str) -> asyncio.Future[Any]:
    """Call ``function`` in a thread. A call that is no longer awaited runs on, and nothing else uses its thread."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)
        else:
            is_stop = isinstance(error, StopIteration)  # a future refuses it
            result.set_exception(EscapedError(error) if is_stop else error)

    def work() -> None:
        value, failed = None, None
        try:
            value = context.run(function)
        except BaseException as error:  # noqa: BLE001  user code: any error is the result of the handler
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, value, failed)

    threads.start(work, name=name)
    return result


async def _result(task: asyncio.Task[Any], request: RunRequest, control: HandlerControl) -> Any:
    try:
        if request.timeout_ms is None and request.heartbeat_timeout_ms is None:
            return await task
        late = await _late(task, request, control)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if not task.cancelled() or (caller is not None and caller.cancelling()):
            control.cancel(control.cancelled or _LEFT)  # a handler in a thread runs on
            task.cancel()
            raise
        raise RuntimeError(control.cancelled or "the handler was cancelled by its own code") from None
    if late:
        control.cancel(late)
        task.cancel()
        raise TimeoutError(late)
    if task.cancelled():
        raise RuntimeError("the handler was cancelled by its own code")
    return task.result()


async def _late(task: asyncio.Task[Any], request: RunRequest, control: HandlerControl) -> str:
    """Wait for a handler within its times; why it is late, ``""``: it has ended."""
    began = control.beat_at = time.monotonic()
    timeout_ms, beats_ms = request.timeout_ms, request.heartbeat_timeout_ms
    while not task.done():
        now = time.monotonic()
        if timeout_ms is not None and (now - began) * 1000 >= timeout_ms:
            return f"the handler did not finish within {show_duration(timeout_ms)}"
        if beats_ms is not None and (now - control.beat_at) * 1000 >= beats_ms:
            return f"the handler sent no heartbeat for {show_duration(beats_ms)}"
        ends = [began + timeout_ms / 1000] if timeout_ms is not None else []
        ends += [control.beat_at + beats_ms / 1000] if beats_ms is not None else []
        await asyncio.wait((task,), timeout=max(0.0, min(ends) - now))
    return ""
