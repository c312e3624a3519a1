"""The threads of plain ``def`` code: kept, used again, and never waited for."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepflow import SyncContext
from stepflow_engine.execution import Returned, Waiting
from stepflow_engine.step_attempt import attempt_step
from stepflow_engine.steps import RunRequest
from stepflow_engine.thread_pool import ThreadPool
from tests.support.processes import until
from tests.support.replay import execution_of, on_run_loop


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(max_idle=2)
    yield pool
    pool.close()


def idle_in(pool: ThreadPool) -> int:
    return len(pool._idle)


def call(pool: ThreadPool, function: Callable[[], Any], name: str = "") -> Any:
    """Call a function in a thread of the pool, and wait until the thread is idle or has ended."""
    results: list[Any] = []
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        results.append(function())

    pool.start(work, name=name)
    until(lambda: results and (idle_in(pool) or not threads[0].is_alive()))
    return results[0]


def test_calls_one_after_the_other_have_the_same_thread(pool: ThreadPool) -> None:
    assert len({call(pool, threading.get_ident) for _ in range(20)}) == 1


def test_calls_at_once_have_a_thread_each_and_only_the_allowed_number_is_kept(pool: ThreadPool) -> None:
    together = threading.Barrier(6)
    seen: list[threading.Thread] = []

    def work() -> None:
        seen.append(threading.current_thread())
        together.wait(10)

    for _ in range(5):
        pool.start(work, name="")
    together.wait(10)
    until(lambda: sum(thread.is_alive() for thread in seen) == 2)
    assert (len(set(seen)), idle_in(pool)) == (5, 2)


def test_a_call_that_does_not_end_delays_no_other(pool: ThreadPool) -> None:
    proceed = threading.Event()
    begun = threading.Semaphore(0)

    def hangs() -> None:
        begun.release()
        proceed.wait(10)

    for _ in range(20):
        pool.start(hangs, name="")
    assert all(begun.acquire(timeout=10) for _ in range(20))
    assert call(pool, lambda: "done") == "done"
    proceed.set()


def test_what_a_call_raises_does_not_end_its_thread(pool: ThreadPool) -> None:
    first = call(pool, threading.get_ident)

    def exits() -> None:
        raise SystemExit(3)

    pool.start(exits, name="")
    until(lambda: idle_in(pool))
    assert call(pool, threading.get_ident) == first


def test_an_interrupt_that_arrives_after_its_call_does_not_lose_the_thread(
    pool: ThreadPool, request: pytest.FixtureRequest
) -> None:
    """Libraries that limit the time of a call raise an error in its thread, sometimes too late."""
    ident = call(pool, threading.get_ident)
    # CPython 3.11 with a tracer, such as that of coverage, repeats the first instruction of each call for as long as an
    # error waits for a thread that is blocked
    tracer = sys.gettrace()
    sys.settrace(None)
    request.addfinalizer(lambda: sys.settrace(tracer))
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(TimeoutError)) == 1
    for _ in range(3):
        assert call(pool, lambda: 1 + 1) == 2


def test_a_thread_has_the_name_of_its_step_while_it_works(pool: ThreadPool) -> None:
    def thread_name() -> str:
        return threading.current_thread().name

    assert call(pool, thread_name, "shop/f: copy") == "stepflow shop/f: copy"
    assert call(pool, thread_name, "a\x1b[31m\n" + "x" * 1_000) == "stepflow a�[31m�" + "x" * 92 + "…"
    assert {thread.name for thread in threading.enumerate()} >= {"stepflow idle"}
    assert not any(thread.name.startswith("stepflow shop") for thread in threading.enumerate())


def test_an_idle_thread_retains_nothing_of_its_last_call(pool: ThreadPool) -> None:
    class Large: ...

    large = Large()
    gone = weakref.ref(large)
    pool.start(lambda kept=large: None, name="")  # type: ignore[misc]
    del large
    until(lambda: idle_in(pool))
    gc.collect()
    assert gone() is None


def test_a_pool_that_is_closed_ends_its_threads(pool: ThreadPool) -> None:
    proceed = threading.Event()
    seen: list[threading.Thread] = []

    def work() -> None:
        seen.append(threading.current_thread())
        proceed.wait(10)

    call(pool, lambda: seen.append(threading.current_thread()))
    pool.start(lambda: None, name="")
    until(lambda: idle_in(pool) == 1)
    pool.start(work, name="")
    until(lambda: len(seen) == 2)
    pool.close()
    proceed.set()
    until(lambda: not any(thread.is_alive() for thread in seen))
    pool.start(work, name="")  # a handler that another handler's thread still starts
    until(lambda: len(seen) == 3 and not seen[2].is_alive())


def test_the_thread_of_a_forked_process_ends_with_its_call(pool: ThreadPool) -> None:
    """As without a pool: a child that forgets os._exit ends, and does not wait for a call that never comes."""
    children: list[int] = []

    def forks() -> None:
        child = os.fork()
        if child:
            children.append(child)

    call(pool, forks)
    statuses: list[tuple[int, int]] = []
    until(lambda: statuses.append(os.waitpid(children[0], os.WNOHANG)) or statuses[-1][0])  # type: ignore[func-returns-value]
    assert call(pool, lambda: "the parent works on") == "the parent works on"


async def attempt(pool: ThreadPool, handler: Callable[[], Any], *, timeout_ms: int | None = None) -> Any:
    request = RunRequest(handler, (), {}, timeout_ms=timeout_ms)
    made = attempt_step("copy", request, function="shop/f", run_id="run1", attempt=0, limit_bytes=1_000, threads=pool)
    return (await made).data


async def test_sync_handlers_one_after_the_other_have_the_same_thread(pool: ThreadPool) -> None:
    seen = set()
    for _ in range(20):
        seen.add(await attempt(pool, threading.get_ident))
        until(lambda: idle_in(pool) == 1)
    assert len(seen) == 1


async def test_a_thread_over_the_timeout_is_used_by_no_other_handler_until_it_ends(pool: ThreadPool) -> None:
    proceed, slow = threading.Event(), list[int]()

    def takes_long() -> None:
        slow.append(threading.get_ident())
        proceed.wait(10)

    with pytest.raises(TimeoutError):
        await attempt(pool, takes_long, timeout_ms=50)
    assert await attempt(pool, threading.get_ident) != slow[0]
    until(lambda: idle_in(pool) == 1)
    proceed.set()
    until(lambda: idle_in(pool) == 2)
    assert await attempt(pool, threading.get_ident) == slow[0]


async def test_context_variables_do_not_pass_from_one_handler_to_the_next_in_a_thread(pool: ThreadPool) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def sets() -> str:
        before = variable.get()
        variable.set("set")
        return before

    for _ in range(3):
        assert await attempt(pool, sets) == "unset"
        until(lambda: idle_in(pool) == 1)


def test_a_sync_function_uses_the_threads_too(pool: ThreadPool) -> None:
    def code(ctx: SyncContext) -> int:
        return threading.get_ident()

    async def main() -> set[Any]:
        seen = set()
        for _ in range(5):
            outcome = await execution_of(code, threads=pool).advance()
            assert isinstance(outcome, Returned)
            seen.add(outcome.value)
            until(lambda: idle_in(pool) == 1)
        return seen

    assert len(on_run_loop(main())) == 1


def test_a_thread_that_runs_the_next_body_at_once_keeps_the_order_of_the_requests(pool: ThreadPool) -> None:
    """The end of a body may reach the event loop after its thread runs another body of the same run."""

    def code(ctx: SyncContext) -> object:
        def body(n: int) -> object:
            return n if n % 2 else ctx.step.run(f"s{n}", str, n)

        return ctx.step.parallel(*[lambda n=n: body(n) for n in range(40)])

    async def main() -> list[str]:
        execution = execution_of(code, threads=pool)
        outcome = await asyncio.wait_for(execution.advance(), 10)
        assert isinstance(outcome, Waiting)
        execution.close()
        return [call.id for call in outcome.fresh]

    for _ in range(20):
        assert on_run_loop(main()) == [f"s{n}" for n in range(0, 40, 2)]
