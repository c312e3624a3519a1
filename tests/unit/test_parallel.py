"""Several steps at once: native asyncio, and races that replay as they ran."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stepflow import Context, StepError, StepUsageError
from stepflow_engine.execution import Returned, Waiting
from stepflow_engine.ids import step_key
from tests.support.replay import Pass, data_memos, execution_of, in_order, last, on_run_loop, play, replay

Program = Callable[[Context], Coroutine[Any, Any, Any]]

pytestmark = pytest.mark.usefixtures("each_loop")


async def echo(value: object) -> object:
    return value


async def fail(text: str) -> object:
    raise ValueError(text)


def replays_the_same(program: Program, done: Pass) -> None:
    """Fail unless every prefix of the memos leads to the same result."""
    assert replay(program, done.memos).outcome == done.outcome
    for kept in range(len(done.memos)):
        again = play(program, done.memos[:kept], choose=in_order(*[key for key, _ in done.memos[kept:]]))
        assert again.outcome == done.outcome, f"another result after {done.performed[:kept]}"
        assert again.memos == done.memos


async def gathers(ctx: Context) -> object:
    return await asyncio.gather(*[ctx.step.run(name, echo, name) for name in "abc"])


async def groups(ctx: Context) -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.step.run(name, echo, name)) for name in "abc"]
    return [task.result() for task in tasks]


async def creates(ctx: Context) -> object:
    tasks = [asyncio.create_task(ctx.step.run(name, echo, name)) for name in "abc"]
    return [await task for task in tasks]


async def completes(ctx: Context) -> object:
    return [await part for part in asyncio.as_completed([ctx.step.run(name, echo, name) for name in "abc"])]


async def waits_for_first(ctx: Context) -> object:
    tasks = [asyncio.create_task(ctx.step.run(name, echo, name), name=name) for name in "abc"]
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    return sorted(task.get_name() for task in done)


async def first_then_more(ctx: Context) -> object:
    tasks = {asyncio.create_task(ctx.step.run(name, echo, name), name=name) for name in "abc"}
    order = []
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=asyncio.Task.get_name):
            order.append(await ctx.step.run(f"after {task.get_name()}", echo, task.result()))
    return order


async def chains(ctx: Context) -> object:
    async def chain(name: str) -> list[object]:
        return [await ctx.step.run(f"{name}{n}", echo, f"{name}{n}") for n in range(2)]

    return await asyncio.gather(chain("a"), chain("b"))


async def repeats(ctx: Context) -> object:
    async def twice(name: str) -> tuple[object, object]:
        return await ctx.step.run(name, echo, name), await ctx.step.run("same", echo, f"after {name}")

    return await asyncio.gather(twice("a"), twice("b"), twice("c"))


async def nested(ctx: Context) -> object:
    return await asyncio.gather(
        asyncio.gather(ctx.step.run("a", echo, 1), ctx.step.run("b", echo, 2)),
        asyncio.gather(ctx.step.run("c", echo, 3), asyncio.gather(ctx.step.run("d", echo, 4))),
    )


@pytest.mark.parametrize("program", [gathers, groups, creates])
@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_results_come_in_declared_order(program: Program, order: tuple[str, ...]) -> None:
    done = play(program, choose=in_order(*order))
    assert done.value == ["a", "b", "c"]
    assert tuple(done.performed) == order
    replays_the_same(program, done)


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_as_completed_yields_in_the_recorded_order_of_completion(order: tuple[str, ...]) -> None:
    done = play(completes, choose=in_order(*order))
    assert tuple(done.value) == order
    replays_the_same(completes, done)


@pytest.mark.parametrize("winner", "abc")
def test_a_race_has_the_same_winner_on_every_replay(winner: str) -> None:
    done = play(waits_for_first, choose=in_order(winner))
    assert done.value == [winner]
    assert done.performed == [winner]
    replays_the_same(waits_for_first, done)


@pytest.mark.parametrize("winner", "abc")
def test_a_race_has_the_same_winner_when_the_losers_end_too(winner: str) -> None:
    done = play(waits_for_first, choose=in_order(winner))
    losers = data_memos(**{name: name for name in "abc" if name != winner})
    assert replay(waits_for_first, [*done.memos, *losers]).value == [winner]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_a_race_after_a_race_replays_the_same(order: tuple[str, ...]) -> None:
    done = play(first_then_more, choose=in_order(*order))
    assert sorted(done.value) == ["a", "b", "c"]
    replays_the_same(first_then_more, done)


@pytest.mark.parametrize("program", [chains, repeats, nested, first_then_more])
def test_every_order_of_completion_replays_the_same(program: Program) -> None:
    for numbers in itertools.product((0, -1), repeat=3):
        turns = iter([*numbers, *[0] * 100])
        done = play(program, choose=lambda _, turns=turns: next(turns))
        replays_the_same(program, done)


def test_repeats_of_an_id_in_a_race_are_the_same_repeats_on_replay() -> None:
    done = play(repeats, choose=in_order("c", "a", "b"))
    assert done.value == [("a", "after a"), ("b", "after b"), ("c", "after c")]
    assert replay(repeats, done.memos).value == done.value


def test_parallel_steps_are_asked_for_together() -> None:
    assert replay(nested, []).fresh == ["a", "b", "d", "c"]
    assert replay(chains, []).fresh == ["a0", "b0"]


def test_steps_can_wait_for_others_by_locks_events_queues_and_semaphores() -> None:
    async def synchronised(ctx: Context) -> object:
        seen: list[object] = []
        lock, event, queue, slots = asyncio.Lock(), asyncio.Event(), asyncio.Queue[object](), asyncio.Semaphore(2)

        async def part(name: str) -> None:
            async with slots, lock:
                seen.append(await ctx.step.run(name, echo, name))
                await queue.put(name)

        async def watch() -> list[object]:
            got = [await queue.get() for _ in "abc"]
            event.set()
            return got

        async def at_the_end() -> object:
            await event.wait()
            return await ctx.step.run("end", echo, "end")

        *_, got, end = await asyncio.gather(part("a"), part("b"), part("c"), watch(), at_the_end())
        return seen, got, end

    assert replay(synchronised, []).fresh == ["a"]
    done = play(synchronised)
    assert done.value == (["a", "b", "c"], ["a", "b", "c"], "end")
    replays_the_same(synchronised, done)


def test_tasks_that_wait_for_each_other_do_not_keep_a_run_from_being_blocked() -> None:
    async def waits(ctx: Context) -> object:
        event, queue, condition = asyncio.Event(), asyncio.Queue[int](), asyncio.Condition()

        async def condition_wait() -> None:
            async with condition:
                await condition.wait()

        waiters = [asyncio.create_task(work) for work in (event.wait(), queue.get(), condition_wait())]
        try:
            return await ctx.step.run("a", echo, 1)
        finally:
            for waiter in waiters:
                waiter.cancel()

    outcome = replay(waits, []).outcome
    assert isinstance(outcome, Waiting)
    assert outcome.blocked
    assert play(waits).value == 1


def test_awaits_that_are_not_steps_work_between_steps() -> None:
    async def between(ctx: Context) -> object:
        a = await ctx.step.run("a", echo, 1)
        await asyncio.sleep(0.001)
        b, _ = await asyncio.gather(ctx.step.run("b", echo, 2), asyncio.sleep(0.001))
        await asyncio.to_thread(lambda: None)
        await asyncio.sleep(0)
        return [a, b, await ctx.step.run("c", echo, 3)]

    done = play(between)
    assert done.value == [1, 2, 3]
    replays_the_same(between, done)


def test_a_timeout_that_does_not_pass_lets_the_step_be() -> None:
    async def timed(ctx: Context) -> object:
        async with asyncio.timeout(60):
            return await ctx.step.run("a", echo, 1)

    done = play(timed)
    assert done.value == 1
    assert replay(timed, done.memos).value == 1


def test_wait_for_lets_the_step_be() -> None:
    async def timed(ctx: Context) -> object:
        return await asyncio.wait_for(ctx.step.run("a", echo, 1), 60)

    done = play(timed)
    assert done.value == 1
    assert replay(timed, done.memos).value == 1


def test_a_timeout_that_passes_abandons_the_step() -> None:
    async def timed(ctx: Context) -> object:
        try:
            async with asyncio.timeout(0.05):
                return await ctx.step.run("slow", echo, 1)
        except TimeoutError:
            return await ctx.step.run("instead", echo, 2)

    async def main() -> object:
        execution = execution_of(timed)
        first = await execution.advance()
        assert isinstance(first, Waiting)
        assert not first.blocked
        second = await execution.advance()
        assert isinstance(second, Waiting)
        assert ([call.id for call in second.fresh], second.alone) == (["instead"], True)
        execution.add(data_memos(instead=2))
        return await execution.advance()

    assert on_run_loop(main()) == Returned(2)


def test_a_step_that_is_shielded_goes_on_after_its_waiter_is_cancelled() -> None:
    async def shielded(ctx: Context) -> object:
        step = asyncio.create_task(ctx.step.run("a", echo, 1))
        waiter = asyncio.create_task(asyncio.wait_for(asyncio.shield(step), 60))
        b = await ctx.step.run("b", echo, 2)
        waiter.cancel()
        return [await step, b, waiter.cancelled() or waiter.cancelling()]

    done = play(shielded, choose=in_order("b", "a"))
    assert done.value[:2] == [1, 2]
    replays_the_same(shielded, done)


def test_the_first_failure_of_a_gather_is_the_recorded_first() -> None:
    async def fails(ctx: Context) -> object:
        try:
            return await asyncio.gather(ctx.step.run("a", fail, "a"), ctx.step.run("b", fail, "b"))
        except StepError as error:
            return error.step_id

    for order in (("a", "b"), ("b", "a")):
        done = play(fails, choose=in_order(*order))
        assert done.value == order[0]
        replays_the_same(fails, done)


def test_a_failure_in_a_task_group_cancels_its_siblings_and_can_be_caught() -> None:
    async def fails(ctx: Context) -> object:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.step.run("bad", fail, "no"))
                group.create_task(ctx.step.run("slow", echo, 1))
        except* StepError as caught:
            failed = [error.step_id for error in caught.exceptions if isinstance(error, StepError)]
        return [failed, await ctx.step.run("after", echo, 2)]

    done = play(fails, choose=in_order("bad"))
    assert done.value == [["bad"], 2]
    assert done.performed == ["bad", "slow", "after"] or done.performed == ["bad", "after"]
    assert replay(fails, done.memos).value == done.value


def test_gather_with_exceptions_returned_gives_all_of_them() -> None:
    async def fails(ctx: Context) -> object:
        parts = [ctx.step.run("a", fail, "x"), ctx.step.run("b", echo, 1), ctx.step.run("c", fail, "y")]
        results = await asyncio.gather(*parts, return_exceptions=True)
        return [str(result) for result in results]

    done = play(fails, choose=last)
    assert done.value == ["step 'a' failed: ValueError: x", "1", "step 'c' failed: ValueError: y"]
    replays_the_same(fails, done)


def test_a_task_that_is_not_awaited_does_not_keep_the_run() -> None:
    async def leaves(ctx: Context) -> object:
        left = asyncio.create_task(ctx.step.run("left", echo, 1))
        value = await ctx.step.run("kept", echo, 2)
        return [value, left.done()]

    done = play(leaves, choose=in_order("kept"))
    assert done.value == [2, False]


def test_hundreds_of_steps_at_once_are_asked_for_in_one_go() -> None:
    async def many(ctx: Context) -> object:
        return await asyncio.gather(*[ctx.step.run("n", echo, n) for n in range(500)])

    assert len(replay(many, []).fresh) == 500
    done = play(many, choose=last)
    assert done.value == list(range(500))
    assert replay(many, done.memos).value == done.value


def test_async_generators_and_context_managers_may_hold_steps() -> None:
    async def generates(ctx: Context) -> object:
        async def numbers() -> Any:
            for n in range(3):
                yield await ctx.step.run("n", echo, n)

        return [n async for n in numbers()]

    done = play(generates)
    assert done.value == [0, 1, 2]
    replays_the_same(generates, done)


def by_constructor(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), name=name)


def by_eager_constructor(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), name=name, eager_start=True)  # type: ignore[call-arg]


def by_factory(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    asyncio.get_running_loop().set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop))
    return asyncio.create_task(coroutine, name=name)


IS_EAGER = pytest.param(
    by_eager_constructor, marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks need Python 3.12")
)


@pytest.mark.parametrize("make", [by_constructor, by_factory, IS_EAGER])
def test_a_race_of_tasks_replays_as_it_ran_however_they_were_made(
    make: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
) -> None:
    async def race(ctx: Context) -> object:
        tasks = [make(ctx.step.run(name, echo, name), name) for name in ("slow", "fast")]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winners = sorted(task.get_name() for task in done)
        await ctx.step.run(f"pay {winners}", echo, winners)
        return winners

    done = play(race, choose=in_order("fast"))
    assert done.value == ["fast"]
    replays_the_same(race, done)


@pytest.mark.parametrize("make", [by_constructor, by_factory])
def test_a_pass_that_is_closed_cancels_tasks_however_they_were_made(
    make: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
) -> None:
    async def code(ctx: Context) -> None:
        await asyncio.gather(make(asyncio.sleep(3600), "sleeps"), ctx.step.run("a", echo, 1))

    async def main() -> None:
        execution = execution_of(code)
        await execution.advance()
        tasks = set(execution.activity.tasks)
        assert any(task.get_name() == "sleeps" for task in tasks)
        execution.close()
        await asyncio.wait(tasks, timeout=5)
        assert all(task.done() for task in tasks)

    on_run_loop(main())


def test_a_step_outside_of_the_context_of_its_run_is_refused() -> None:
    async def own_context(ctx: Context) -> object:
        loop = asyncio.get_running_loop()
        return await loop.create_task(ctx.step.run("a", echo, 1), context=contextvars.Context())

    async def executor(ctx: Context) -> object:
        loop = asyncio.get_running_loop()

        def call() -> object:
            return asyncio.run_coroutine_threadsafe(ctx.step.run("a", echo, 1), loop).result(10)

        return await loop.run_in_executor(None, call)

    for code in (own_context, executor):
        with pytest.raises(StepUsageError, match="outside of the context of its run"):
            play(code).value  # noqa: B018


def test_a_step_in_the_event_loop_of_another_thread_is_refused() -> None:
    async def own_loop(ctx: Context) -> object:
        return await asyncio.to_thread(lambda: asyncio.run(ctx.step.run("a", echo, 1)))

    with pytest.raises(StepUsageError, match="in the event loop of another thread"):
        play(own_loop).value  # noqa: B018


def test_a_step_in_a_thread_that_has_the_context_of_its_run_is_executed() -> None:
    async def threads(ctx: Context) -> object:
        loop = asyncio.get_running_loop()

        def call() -> object:
            return asyncio.run_coroutine_threadsafe(ctx.step.run("a", echo, 1), loop).result(10)

        return await asyncio.to_thread(call)

    assert play(threads).value == 1


@pytest.mark.parametrize("how", ["task", "group", "wait_for"])
def test_steps_that_the_code_cancels_are_known_and_those_that_end_with_the_pass_are_not(how: str) -> None:
    async def code(ctx: Context) -> None:
        if how == "task":
            loser = asyncio.ensure_future(ctx.step.sleep("loser", "1h"))
            await ctx.step.run("winner", echo, 1)
            loser.cancel()
        elif how == "group":
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(ctx.step.sleep("loser", "1h"))
                    await ctx.step.run("winner", echo, 1)
                    raise ValueError("no")
        else:
            winner = asyncio.ensure_future(ctx.step.run("winner", echo, 1))
            loser = asyncio.ensure_future(asyncio.wait_for(ctx.step.sleep("loser", "1h"), 100))
            await winner
            loser.cancel()
        await ctx.step.sleep("last", "1h")

    async def main() -> list[list[str]]:
        execution = execution_of(code)
        seen = []
        await execution.advance()
        seen.append(list(execution.cancelled))
        execution.add(data_memos(winner=1))
        outcome = await execution.advance()
        assert isinstance(outcome, Waiting)
        assert [call.id for call in outcome.fresh] == ["last"]
        seen.append(list(execution.cancelled))
        execution.close()
        await execution.advance()
        seen.append(list(execution.cancelled))
        return seen

    assert on_run_loop(main()) == [[], [step_key("loser")], [step_key("loser")]]


def test_a_step_that_is_cancelled_when_its_memo_is_there_is_not_a_cancelled_one_twice() -> None:
    """A replay in which the loser has ended too."""

    async def code(ctx: Context) -> str:
        loser = asyncio.ensure_future(ctx.step.sleep("loser", "1h"))
        await ctx.step.run("winner", echo, 1)
        loser.cancel()
        return "won"

    async def main() -> list[str]:
        execution = execution_of(code)
        execution.add(data_memos(winner=1, loser=None))
        outcome = await execution.advance()
        assert isinstance(outcome, Returned)
        return execution.cancelled

    assert on_run_loop(main()) == [step_key("loser")]
