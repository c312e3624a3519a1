"""One attempt at a step."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from stepflow import StepOutputError
from stepflow_engine.codec import result_adapter
from stepflow_engine.execution import HANDLER_ATTEMPT
from stepflow_engine.step_attempt import Result, attempt_step
from stepflow_engine.steps import RunRequest
from stepflow_engine.thread_pool import ThreadPool
from stepflow_engine.user_code import EscapedError, original, shielded


async def attempt(
    handler: Callable[..., Any],
    *args: Any,
    timeout_ms: int | None = None,
    limit_bytes: int = 1_000,
    **kwargs: Any,
) -> Result:
    """Make an attempt at a step, the fourth."""
    request = RunRequest(handler, args, kwargs, timeout_ms=timeout_ms, adapter=result_adapter(handler))
    return await attempt_step(
        "s", request, function="shop/f", run_id="run1", attempt=3, limit_bytes=limit_bytes, threads=ThreadPool()
    )


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def test_an_async_handler_gets_its_arguments_and_its_result_becomes_json() -> None:
    async def add(a: int, *, b: int) -> tuple[int, int]:
        return a, b

    assert await attempt(add, 1, b=2) == Result(b"[1,2]", [1, 2])


@pytest.mark.parametrize(
    "handler", [lambda a: a, functools.partial(lambda x, a: a, 0), [7, 8].__getitem__], ids=["def", "partial", "method"]
)
async def test_any_callable_is_a_handler(handler: Callable[..., Any]) -> None:
    assert (await attempt(handler, 1)).data in (1, 8)


async def test_an_object_with_an_async_call_is_a_handler() -> None:
    class Adds:
        async def __call__(self, a: int) -> int:
            return a + 1

    assert (await attempt(Adds(), 1)).data == 2


async def test_what_a_sync_handler_returns_is_awaited_if_it_can_be() -> None:
    async def later() -> str:
        return "later"

    assert (await attempt(lambda: later())).data == "later"


async def test_the_handlers_error_is_raised_as_it_is() -> None:
    async def fails() -> None:
        raise KeyError("k")

    def fails_in_thread() -> None:
        raise KeyError("k")

    for handler in (fails, fails_in_thread):
        with pytest.raises(KeyError):
            await attempt(handler)


class Limit(BaseException):
    """As the timeouts of some libraries: not an `Exception`."""


NOT_EXCEPTIONS = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    Limit("5 s"),
    BaseExceptionGroup("several", [Limit("5 s"), SystemExit(1)]),
]


@pytest.mark.parametrize("error", NOT_EXCEPTIONS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_handler_cannot_end_its_worker(error: BaseException, in_thread: bool) -> None:
    async def ends() -> None:
        raise error

    def ends_in_thread() -> None:
        raise error

    with pytest.raises(EscapedError) as escaped:
        await asyncio.wait_for(attempt(ends_in_thread if in_thread else ends), 10)
    assert original(escaped.value) is error


async def test_a_handler_in_a_thread_may_raise_stop_iteration() -> None:
    with pytest.raises(EscapedError) as escaped:
        await asyncio.wait_for(attempt(lambda: next(iter(()))), 10)
    assert isinstance(original(escaped.value), StopIteration)


async def test_a_handler_that_the_garbage_collector_closes_raises_nothing() -> None:
    code = shielded(never)

    async def begin() -> None:
        code.send(None)

    await asyncio.create_task(begin())
    code.close()


async def test_a_handler_that_cancels_itself_has_failed() -> None:
    async def cancels() -> None:
        raise asyncio.CancelledError

    for timeout_ms in (None, 10_000):
        with pytest.raises(RuntimeError, match="cancelled by its own code"):
            await attempt(cancels, timeout_ms=timeout_ms)


async def test_a_handler_that_takes_too_long_has_failed_and_is_cancelled() -> None:
    unwound = asyncio.Event()

    async def slow() -> None:
        try:
            await never()
        finally:
            unwound.set()

    with pytest.raises(TimeoutError, match="did not finish within 5ms"):
        await attempt(slow, timeout_ms=5)
    await asyncio.wait_for(unwound.wait(), 10)


async def test_an_attempt_that_is_cancelled_cancels_its_handler() -> None:
    begun, unwound = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        try:
            await never()
        finally:
            unwound.set()

    for timeout_ms in (None, 60_000):
        begun.clear()
        unwound.clear()
        task = asyncio.create_task(attempt(slow, timeout_ms=timeout_ms))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(unwound.wait(), 10)


async def test_a_result_that_is_not_json_is_refused_with_the_steps_name() -> None:
    with pytest.raises(StepOutputError, match="step 's': result must be JSON"):
        await attempt(lambda: object())


async def test_a_result_over_the_limit_is_refused() -> None:
    assert (await attempt(lambda: "x" * 98, limit_bytes=100)).data == "x" * 98
    with pytest.raises(StepOutputError, match="at most 100 bytes of JSON, got 101"):
        await attempt(lambda: "x" * 99, limit_bytes=100)


class Item(BaseModel):
    name: str


async def test_a_result_that_does_not_fit_its_declared_type_is_refused() -> None:
    def wrong() -> Item:
        return {"name": 7}  # type: ignore[return-value]

    with pytest.raises(StepOutputError, match="does not fit the declared return type: name"):
        await attempt(wrong)


async def test_the_attempts_number_is_known_in_the_handler_and_only_there() -> None:
    async def reads() -> int | None:
        return HANDLER_ATTEMPT.get()

    assert (await attempt(reads)).data == 3
    assert (await attempt(HANDLER_ATTEMPT.get)).data == 3
    assert HANDLER_ATTEMPT.get() is None


async def test_a_handlers_context_variables_do_not_leak() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def sets() -> int:
        variable.set(1)
        return variable.get()

    assert (await attempt(sets)).data == 1
    assert variable.get() == 0
