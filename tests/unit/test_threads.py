"""Plain ``def`` functions: their threads take part in a replay as tasks do."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from typing import Any

import pytest

from stepflow import Context, StepError, StepUsageError, SyncContext
from stepflow_engine.execution import Raised, Waiting
from stepflow_engine.ids import step_key
from stepflow_engine.threads import Suspended
from tests.support.replay import data_memos, execution_of, in_order, on_run_loop, play, replay

pytestmark = pytest.mark.usefixtures("each_loop")


def echo(value: object) -> object:
    return value


def fail(text: str) -> object:
    raise ValueError(text)


def three(ctx: SyncContext) -> list[object]:
    return [ctx.step.run(name, echo, name) for name in ("a", "b", "c")]


def parallel(ctx: SyncContext) -> list[object]:
    return ctx.step.parallel(*[lambda name=name: ctx.step.run(name, echo, name) for name in "abc"])


def chains(ctx: SyncContext) -> list[object]:
    def chain(name: str) -> list[object]:
        return [ctx.step.run(f"{name}{n}", echo, n) for n in range(2)]

    return ctx.step.parallel(lambda: chain("a"), lambda: chain("b"), lambda: chain("c"))


def test_a_sync_function_performs_its_steps_in_order_and_once() -> None:
    done = play(three)
    assert done.value == ["a", "b", "c"]
    assert done.performed == ["a", "b", "c"]
    assert replay(three, done.memos).value == done.value


@pytest.mark.parametrize("kept", range(4))
def test_a_sync_function_replays_from_any_prefix(kept: int) -> None:
    done = play(three)
    again = play(three, done.memos[:kept])
    assert again.value == done.value
    assert again.performed == done.performed[kept:]


def test_a_sync_function_may_run_async_handlers() -> None:
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    def adds(ctx: SyncContext) -> int:
        return ctx.step.run("sum", add, 40, b=2)

    assert play(adds).value == 42


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_parallel_bodies_give_results_in_declared_order(order: tuple[str, ...]) -> None:
    done = play(parallel, choose=in_order(*order))
    assert done.value == ["a", "b", "c"]
    assert tuple(done.performed) == order
    assert replay(parallel, done.memos).value == done.value


def test_parallel_bodies_ask_in_order_on_every_pass() -> None:
    for _ in range(5):
        assert replay(parallel, []).fresh == ["a", "b", "c"]
        assert replay(chains, data_memos(a0=1, b0=2, c0=3)).fresh == ["a1", "b1", "c1"]


def test_parallel_chains_replay_from_any_prefix() -> None:
    done = play(chains, choose=in_order("c0", "a0", "c1", "b0"))
    for kept in range(len(done.memos) + 1):
        assert play(chains, done.memos[:kept]).value == done.value


def test_repeats_of_an_id_in_parallel_bodies_are_the_same_on_every_pass() -> None:
    def repeats(ctx: SyncContext) -> list[object]:
        return ctx.step.parallel(*[lambda n=n: ctx.step.run("same", echo, n) for n in range(4)])

    done = play(repeats)
    assert done.value == [0, 1, 2, 3]
    assert replay(repeats, done.memos).value == done.value


def test_parallel_bodies_without_steps_and_nested_ones_work() -> None:
    def nested(ctx: SyncContext) -> object:
        return ctx.step.parallel(
            lambda: 1,
            lambda: ctx.step.parallel(lambda: ctx.step.run("a", echo, 2), lambda: ctx.step.run("b", echo, 3)),
            lambda: ctx.step.run("c", echo, 4),
        )

    done = play(nested)
    assert done.value == [1, [2, 3], 4]
    assert replay(nested, done.memos).value == done.value


def test_parallel_with_no_bodies_gives_nothing() -> None:
    def empty(ctx: SyncContext) -> object:
        return ctx.step.parallel()

    assert play(empty).value == []


def test_all_parallel_bodies_are_waited_for_and_then_the_first_error_is_raised() -> None:
    seen = []

    def fails(ctx: SyncContext) -> object:
        def late() -> object:
            value = ctx.step.run("late", echo, 1)
            seen.append(value)
            return value

        return ctx.step.parallel(lambda: ctx.step.run("bad", fail, "x"), late, lambda: ctx.step.run("worse", fail, "y"))

    error = play(fails, choose=in_order("worse", "bad", "late")).error
    assert isinstance(error, StepError)
    assert error.step_id == "bad"
    assert seen == [1]


def test_a_step_that_failed_can_be_caught_in_a_sync_function() -> None:
    def careful(ctx: SyncContext) -> str:
        try:
            return str(ctx.step.run("a", fail, "no"))
        except StepError as error:
            return f"{error.name}: {error.message}"

    done = play(careful)
    assert done.value == "ValueError: no"
    assert replay(careful, done.memos).value == done.value


def test_what_a_sync_function_raises_is_an_outcome() -> None:
    def breaks(ctx: SyncContext) -> None:
        ctx.step.run("a", echo, 1)
        raise KeyError("own")

    assert isinstance(play(breaks).error, KeyError)


def test_a_step_inside_a_steps_handler_is_refused_in_a_sync_function() -> None:
    def nested(ctx: SyncContext) -> object:
        return ctx.step.run("outer", lambda: ctx.step.run("inner", echo, 1))

    error = play(nested).error
    assert isinstance(error, StepError)
    assert error.name == "StepUsageError"
    assert "inside the handler of another step" in error.message


def test_a_step_in_a_thread_that_the_run_does_not_know_is_refused_with_what_to_do() -> None:
    def strange(ctx: SyncContext) -> str:
        caught: list[Exception] = []

        def work() -> None:
            try:
                ctx.step.run("a", echo, 1)
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        assert isinstance(caught[0], StepUsageError)
        return str(caught[0])

    assert "start threads with ctx.step.parallel" in play(strange).value


def test_one_step_of_a_sync_function_is_alone() -> None:
    outcome = replay(three, []).outcome
    assert isinstance(outcome, Waiting)
    assert (outcome.blocked, outcome.alone) == (True, True)


def test_a_thread_that_computes_is_waited_for() -> None:
    proceed = threading.Event()

    def computes(ctx: SyncContext) -> object:
        def slow() -> object:
            assert proceed.wait(10)
            return ctx.step.run("slow", echo, 1)

        return ctx.step.parallel(lambda: ctx.step.run("quick", echo, 2), slow)

    async def main() -> list[str]:
        execution = execution_of(computes)
        advancing = asyncio.create_task(execution.advance())
        await execution.requested(step_key("quick"))
        proceed.set()
        outcome = await advancing
        assert isinstance(outcome, Waiting)
        execution.close()
        return [call.id for call in outcome.fresh]

    assert on_run_loop(main()) == ["quick", "slow"]


def test_a_pass_that_is_closed_unwinds_its_threads_past_except_exception() -> None:
    unwound: list[str] = []
    gone = threading.Semaphore(0)

    def stubborn(ctx: SyncContext) -> object:
        def body(name: str) -> object:
            try:
                return ctx.step.run(name, echo, 1)
            except Exception:
                return "swallowed"
            except BaseException as error:
                unwound.append(f"{name}: {type(error).__name__}")
                raise
            finally:
                gone.release()

        return ctx.step.parallel(lambda: body("a"), lambda: body("b"))

    async def main() -> None:
        execution = execution_of(stubborn)
        await execution.advance()
        execution.close()
        outcome = await execution.advance()
        assert isinstance(outcome, Raised)

    on_run_loop(main())
    assert all(gone.acquire(timeout=10) for _ in range(2))
    assert sorted(unwound) == [f"a: {Suspended.__name__}", f"b: {Suspended.__name__}"]


def test_a_thread_that_asks_after_its_pass_was_closed_is_unwound() -> None:
    reached = threading.Event()
    proceed = threading.Event()
    gone = threading.Event()

    def late(ctx: SyncContext) -> None:
        reached.set()
        assert proceed.wait(10)
        try:
            ctx.step.run("a", echo, 1)
        finally:
            gone.set()

    async def main() -> None:
        execution = execution_of(late)
        execution.start()
        await asyncio.to_thread(reached.wait, 10)
        execution.close()
        proceed.set()
        assert await asyncio.to_thread(gone.wait, 10)
        assert isinstance(await asyncio.wait_for(execution.advance(), 10), Raised)
        assert not execution.was_requested(step_key("a"))

    on_run_loop(main())


def test_a_sync_function_cannot_swallow_the_end_of_its_pass_for_ever() -> None:
    """ScriptStatus that catches BaseException and asks again is unwound again."""
    asked = []
    gone = threading.Event()

    def swallows(ctx: SyncContext) -> None:
        for _ in range(3):
            try:
                ctx.step.run("a", echo, 1)
            except BaseException as error:
                asked.append(type(error))
        gone.set()

    async def main() -> None:
        execution = execution_of(swallows)
        await execution.advance()
        execution.close()
        assert await asyncio.to_thread(gone.wait, 10)
        assert isinstance(await asyncio.wait_for(execution.advance(), 10), Raised)

    on_run_loop(main())
    assert asked == [Suspended] * 3


def test_context_variables_reach_threads_and_handlers() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def reads(ctx: SyncContext) -> list[Any]:
        variable.set("set")
        return [variable.get(), *ctx.step.parallel(variable.get, variable.get)]

    assert play(reads).value == ["set", "set", "set"]


def test_many_parallel_bodies_replay() -> None:
    def many(ctx: SyncContext) -> object:
        return ctx.step.parallel(*[lambda n=n: ctx.step.run("n", echo, n) for n in range(40)])

    done = play(many)
    assert done.value == list(range(40))
    assert replay(many, done.memos).value == done.value


def test_stop_iteration_does_not_break_the_pass() -> None:
    def stops(ctx: SyncContext) -> object:
        ctx.step.run("a", echo, 1)
        return next(iter(()))

    error = play(stops).error
    assert isinstance(error, RuntimeError)
    assert "StopIteration" in str(error)


def test_async_functions_may_run_sync_handlers_in_threads() -> None:
    async def mixed(ctx: Context) -> object:
        return await ctx.step.run("where", lambda: threading.current_thread() is threading.main_thread())

    assert play(mixed).value is False
