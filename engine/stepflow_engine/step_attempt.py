"""One attempt of a step: call its handler and convert the result to JSON."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepflow_engine.callables import is_async_callable
from stepflow_engine.codec import dumps_output, result_adapter, round_trip
from stepflow_engine.declared_types import check_value
from stepflow_engine.durations import show_duration
from stepflow_engine.execution import HANDLER_ATTEMPT, HANDLER_KEY
from stepflow_engine.product import NAME
from stepflow_engine.run_loop import ACTIVITY
from stepflow_engine.steps import RunRequest
from stepflow_engine.user_code import EscapedError, shielded

__all__ = ["Result", "attempt_step"]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a handler, as JSON text and as the plain data that the text is parsed to."""

    text: bytes
    data: Any


async def attempt_step(
    step_id: str, request: RunRequest, *, attempt: int, limit_bytes: int, idempotency_key: str = ""
) -> Result:
    """Call a step's handler once.

    Args:
        step_id: the id of the step, for errors.
        request: the handler and its arguments.
        attempt: the number of the attempt, 0-based.
        limit_bytes: the largest size of the result, in bytes of JSON.
        idempotency_key: the key that all attempts of the step have; the handler can read it.

    Raises:
        StepOutputError: the result is not JSON, or is over the limit.
        TimeoutError: the attempt took longer than the timeout of the step. A handler in a thread cannot be stopped. It
            runs on, and its result is dropped.
        EscapedError: the handler raised an error that is not an `Exception`.
        Exception: any other error of the handler.
    """
    context = request.context.copy()
    context.run(ACTIVITY.set, None)
    context.run(HANDLER_ATTEMPT.set, attempt)
    context.run(HANDLER_KEY.set, idempotency_key)
    task = asyncio.get_running_loop().create_task(shielded(_call(request)), context=context)
    value = await _result(task, request.timeout_ms)
    text = dumps_output(value, what=f"step {step_id!r}", limit_bytes=limit_bytes)
    data = round_trip(value, text)
    adapter = result_adapter(request.handler)
    if adapter is not None:
        check_value(adapter, value, data, what=f"step {step_id!r}")
    return Result(text, data)


async def _call(request: RunRequest) -> Any:
    handler: Callable[..., Any] = request.handler
    if is_async_callable(handler):
        return await handler(*request.args, **request.kwargs)
    value = await _in_thread(functools.partial(handler, *request.args, **request.kwargs))
    return await value if inspect.isawaitable(value) else value


def _in_thread(function: Callable[[], Any]) -> asyncio.Future[Any]:
    """Call ``function`` in a new thread, not in a pool: a call that never returns would block a thread of the pool.

    The thread is a daemon. A process that has released its job does not wait for it.
    """
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

    threading.Thread(target=work, name=f"{NAME}-handler", daemon=True).start()
    return result


async def _result(task: asyncio.Task[Any], timeout_ms: int | None) -> Any:
    try:
        if timeout_ms is None:
            return await task
        done, _ = await asyncio.wait((task,), timeout=timeout_ms / 1000)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if not task.cancelled() or (caller is not None and caller.cancelling()):
            task.cancel()
            raise
        raise RuntimeError("the handler was cancelled by its own code") from None
    if not done:
        task.cancel()
        raise TimeoutError(f"the handler did not finish within {show_duration(timeout_ms)}")
    if task.cancelled():
        raise RuntimeError("the handler was cancelled by its own code")
    return task.result()
