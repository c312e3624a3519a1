"""Context managers around each attempt of a step."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from stepflow import Attempt, ConfigurationError, Stepflow
from stepflow_engine.step_attempt import attempt_step
from stepflow_engine.steps import RunRequest
from stepflow_engine.thread_pool import ThreadPool
from stepflow_engine.user_code import EscapedError, original
from tests.support.processes import until

ATTEMPT = Attempt("shop/f", "run1", "copy", 2)


@pytest.fixture
def app() -> Stepflow:
    return Stepflow("shop")


async def attempt(app: Stepflow, handler: Callable[[], Any], *, timeout_ms: int | None = None) -> Any:
    function = app.function("f")(lambda _ctx: None) if "f" not in app.functions else app.functions["f"]
    request = RunRequest(handler, (), {}, timeout_ms=timeout_ms)
    around = function.around
    return (
        await attempt_step(
            ATTEMPT.step_id,
            request,
            function=ATTEMPT.function,
            run_id=ATTEMPT.run_id,
            attempt=ATTEMPT.number,
            limit_bytes=1_000,
            threads=ThreadPool(),
            around=around,
        )
    ).data


def pair(app: Stepflow, name: str, log: list[Any]) -> None:
    """Declare a context manager for threads and one for tasks."""

    @app.around_attempt
    def sync(attempt: Attempt) -> Iterator[None]:
        log.append(f"{name} before")
        try:
            yield
        except BaseException as error:
            log.append(f"{name} {type(error).__name__}")
            raise
        log.append(f"{name} after")

    @app.around_attempt
    async def asynchronous(attempt: Attempt) -> AsyncIterator[None]:
        log.append(f"{name} before")
        try:
            yield
        except BaseException as error:
            log.append(f"{name} {type(error).__name__}")
            raise
        log.append(f"{name} after")


def handler(action: Callable[[], Any], *, in_thread: bool) -> Callable[[], Any]:
    async def in_task() -> Any:
        return action()

    return action if in_thread else in_task


both = pytest.mark.parametrize("in_thread", [True, False], ids=["def", "async def"])


@both
async def test_the_first_is_the_outermost(app: Stepflow, in_thread: bool) -> None:
    log: list[Any] = []
    pair(app, "outer", log)
    pair(app, "inner", log)
    assert await attempt(app, handler(lambda: log.append("handler") or 7, in_thread=in_thread)) == 7  # type: ignore[func-returns-value]
    assert log == ["outer before", "inner before", "handler", "inner after", "outer after"]


@both
async def test_it_runs_where_the_handler_runs_with_the_attempt_and_the_context(app: Stepflow, in_thread: bool) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[Any] = []

    def place() -> Any:
        return threading.get_ident() if in_thread else asyncio.current_task()

    @app.around_attempt
    def sync(attempt: Attempt) -> Iterator[None]:
        seen.append((attempt, place()))
        variable.set("set")
        yield
        seen.append((attempt, place()))

    @app.around_attempt
    async def asynchronous(attempt: Attempt) -> AsyncIterator[None]:
        seen.append((attempt, place()))
        variable.set("set")
        yield
        seen.append((attempt, place()))

    inside: list[Any] = []
    assert await attempt(app, handler(lambda: inside.append(place()) or variable.get(), in_thread=in_thread)) == "set"  # type: ignore[func-returns-value]
    assert seen == [(ATTEMPT, inside[0])] * 2
    assert variable.get() == "unset"


@both
@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
async def test_it_sees_whatever_the_handler_raises(app: Stepflow, in_thread: bool, error: BaseException) -> None:
    log: list[Any] = []
    pair(app, "around", log)

    def fails() -> None:
        raise error

    with pytest.raises(BaseException) as raised:  # noqa: PT011  an EscapedError, or the error
        await attempt(app, handler(fails, in_thread=in_thread))
    assert original(raised.value) is error
    assert isinstance(raised.value, Exception)
    assert log == ["around before", f"around {type(error).__name__}"]


@both
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_its_own_error_is_the_failure_of_the_attempt(
    app: Stepflow, in_thread: bool, error: BaseException, when: str
) -> None:
    log: list[Any] = []
    pair(app, "outer", log)

    @app.around_attempt
    def sync(attempt: Attempt) -> Iterator[None]:
        if when == "before":
            raise error
        yield
        raise error

    @app.around_attempt
    async def asynchronous(attempt: Attempt) -> AsyncIterator[None]:
        if when == "before":
            raise error
        yield
        raise error

    with pytest.raises((EscapedError, ValueError)) as raised:
        await attempt(app, handler(lambda: log.append("handler"), in_thread=in_thread))
    assert original(raised.value) is error
    executed = [] if when == "before" else ["handler"]
    assert log == ["outer before", *executed, f"outer {type(error).__name__}"]


@both
async def test_it_cannot_turn_a_failure_into_a_success(app: Stepflow, in_thread: bool) -> None:
    @app.around_attempt
    def sync(attempt: Attempt) -> Iterator[None]:
        with contextlib.suppress(ValueError):
            yield

    @app.around_attempt
    async def asynchronous(attempt: Attempt) -> AsyncIterator[None]:
        with contextlib.suppress(ValueError):
            yield

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await attempt(app, handler(fails, in_thread=in_thread))


async def test_one_for_threads_is_not_around_a_task_and_one_for_tasks_not_around_a_thread(app: Stepflow) -> None:
    log: list[str] = []

    @app.around_attempt
    def sync(attempt: Attempt) -> Iterator[None]:
        log.append("thread")
        yield

    await attempt(app, handler(int, in_thread=False))
    assert log == []

    @app.around_attempt
    async def asynchronous(attempt: Attempt) -> AsyncIterator[None]:
        log.append("task")
        yield

    await attempt(app, handler(int, in_thread=True))
    assert log == ["thread"]


async def test_what_a_sync_handler_returns_is_awaited_inside_those_for_tasks(app: Stepflow) -> None:
    log: list[str] = []
    pair(app, "around", log)

    async def later() -> int:
        log.append("later")
        return 7

    assert await attempt(app, lambda: later()) == 7
    assert log == ["around before", "around after", "around before", "later", "around after"]


async def test_it_ends_with_the_handler_also_when_the_attempt_is_over_its_timeout(app: Stepflow) -> None:
    log: list[str] = []
    pair(app, "around", log)
    proceed = threading.Event()
    with pytest.raises(TimeoutError):
        await attempt(app, lambda: proceed.wait(10), timeout_ms=20)
    assert log == ["around before"]
    proceed.set()
    until(lambda: log == ["around before", "around after"])
    log.clear()

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError):
        await attempt(app, forever, timeout_ms=20)
    while len(log) < 2:
        await asyncio.sleep(0)
    assert log == ["around before", "around CancelledError"]


async def test_context_managers_may_be_written_in_the_usual_ways(app: Stepflow) -> None:
    log: list[str] = []

    @app.around_attempt
    @contextlib.contextmanager
    def decorated(attempt: Attempt) -> Iterator[None]:
        log.append("decorated")
        yield

    @app.around_attempt
    @contextlib.asynccontextmanager
    async def decorated_too(attempt: Attempt) -> AsyncIterator[None]:
        log.append("decorated too")
        yield

    @app.around_attempt
    class Both:
        def __init__(self, attempt: Attempt) -> None:
            self.attempt = attempt

        def __enter__(self) -> None:
            log.append(f"enter {self.attempt.step_id}")

        def __exit__(self, *_: object) -> None:
            log.append("exit")

        async def __aenter__(self) -> None:
            log.append(f"aenter {self.attempt.step_id}")

        async def __aexit__(self, *_: object) -> None:
            log.append("aexit")

    await attempt(app, handler(int, in_thread=True))
    await attempt(app, handler(int, in_thread=False))
    assert log == ["decorated", "enter copy", "exit", "decorated too", "aenter copy", "aexit"]


@pytest.mark.parametrize(
    "wrong", [lambda _attempt: None, print, object, 7, "name", None], ids=lambda wrong: type(wrong).__name__
)
def test_anything_else_is_refused_with_what_to_write(app: Stepflow, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="a generator function with one yield and one parameter"):
        app.around_attempt(wrong)


async def test_it_holds_for_functions_that_were_declared_before_it(app: Stepflow) -> None:
    log: list[str] = []
    await attempt(app, handler(int, in_thread=True))
    pair(app, "around", log)
    await attempt(app, handler(int, in_thread=True))
    assert log == ["around before", "around after"]


async def test_a_cell_of_a_notebook_that_is_run_again_replaces_it(app: Stepflow) -> None:
    log: list[str] = []
    cell = """
@app.around_attempt
def note(attempt):
    log.append(NUMBER)
    yield
"""
    names = {"__name__": "__main__", "app": app, "log": log}
    for number in (1, 2):
        exec(cell.replace("NUMBER", str(number)), names)
    await attempt(app, handler(int, in_thread=True))
    assert log == [2]
