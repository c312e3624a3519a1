"""Random programs: what was recorded live is what every replay gives, from every prefix of the memos."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stepflow import Context, StepError, SyncContext
from stepflow_engine.steps import StepCall
from tests.support.replay import Pass, in_order, play, replay

NAMES = st.sampled_from(["a", "b", "c", "fail"])


@dataclass(frozen=True, slots=True)
class Program:
    """ScriptStatus as data.

    Attributes:
        kind: ``step``, ``sequence``, ``gather``, ``group``, ``first``, ``completed``, ``yields`` or ``parallel``.
        parts: the programs inside; of a step, none.
        name: of a step.
    """

    kind: str
    parts: tuple[Program, ...] = ()
    name: str = ""


def programs(*kinds: str) -> st.SearchStrategy[Program]:
    """Programs of some kinds, over steps whose ids repeat."""
    step = NAMES.map(lambda name: Program("step", name=name))
    return st.recursive(
        step,
        lambda inner: st.builds(Program, st.sampled_from(kinds), st.lists(inner, min_size=1, max_size=3).map(tuple)),
        max_leaves=8,
    )


async def handler(name: str) -> str:
    if name == "fail":
        raise ValueError(name)
    return f"did {name}"


class Interpreter:
    """Runs a program with the async step tools, and notes in what order its steps end for it."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.seen: list[str] = []

    async def run(self, program: Program) -> Any:
        method = getattr(self, f"_{program.kind}")
        return await method(program.name if program.kind == "step" else program.parts)

    async def _step(self, name: str) -> Any:
        try:
            result = await self._ctx.step.run(name, handler, name)
        except StepError as error:
            result = error.message
        self.seen.append(name)
        return result

    async def _sequence(self, parts: tuple[Program, ...]) -> Any:
        return [await self.run(part) for part in parts]

    async def _gather(self, parts: tuple[Program, ...]) -> Any:
        return await asyncio.gather(*[self.run(part) for part in parts])

    async def _group(self, parts: tuple[Program, ...]) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.run(part)) for part in parts]
        return [task.result() for task in tasks]

    async def _first(self, parts: tuple[Program, ...]) -> Any:
        tasks = [asyncio.create_task(self.run(part)) for part in parts]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        return [(number, task.result()) for number, task in enumerate(tasks) if task in done]

    async def _completed(self, parts: tuple[Program, ...]) -> Any:
        """Tasks first: `as_completed` itself starts coroutines in no order, and repeats of an id need one."""
        tasks = [asyncio.create_task(self.run(part)) for part in parts]
        return [await part for part in asyncio.as_completed(tasks)]

    async def _yields(self, parts: tuple[Program, ...]) -> Any:
        results = []
        for part in parts:
            await asyncio.sleep(0)
            results.append(await self.run(part))
        return results


def function_of(program: Program) -> Callable[[Context], Any]:
    async def function(ctx: Context) -> Any:
        interpreter = Interpreter(ctx)
        return [await interpreter.run(program), interpreter.seen]

    return function


def sync_function_of(program: Program) -> Callable[[SyncContext], Any]:
    def function(ctx: SyncContext) -> Any:
        seen: list[str] = []

        def run(part: Program) -> Any:
            if part.kind == "step":
                try:
                    result = ctx.step.run(part.name, handler, part.name)
                except StepError as error:
                    result = error.message
                seen.append(part.name)
                return result
            if part.kind == "sequence":
                return [run(inner) for inner in part.parts]
            return ctx.step.parallel(*[lambda inner=inner: run(inner) for inner in part.parts])

        return [run(program), seen]

    return function


def choices(numbers: list[int]) -> Callable[[Any], int]:
    """Which step ends next, by a list of numbers that is used again and again."""

    def forever() -> Iterator[int]:
        while True:
            yield from numbers

    turns = forever()

    def choose(calls: list[StepCall]) -> int:
        return next(turns) % len(calls)

    return choose


def replays_the_same(function: Callable[[Any], Any], done: Pass) -> None:
    replayed = replay(function, done.memos)
    assert (replayed.outcome, replayed.mismatches, done.mismatches) == (done.outcome, [], [])
    for kept in range(len(done.memos)):
        rest = in_order(*[key for key, _ in done.memos[kept:]])
        again = play(function, done.memos[:kept], choose=rest)
        assert again.outcome == done.outcome, f"another result after {done.performed[:kept]}"
        assert again.mismatches == [], "the code is the same"


ORDERS = st.lists(st.integers(0, 7), min_size=1, max_size=12)


@settings(max_examples=120)
@given(programs("sequence", "gather", "group", "first", "completed", "yields"), ORDERS)
def test_a_program_replays_as_it_ran(program: Program, order: list[int]) -> None:
    function = function_of(program)
    done = play(function, choose=choices(order))
    assert done.value is not None
    replays_the_same(function, done)


@settings(max_examples=120)
@given(programs("sequence", "gather", "group", "completed"), ORDERS)
def test_a_program_without_losers_performs_each_step_once(program: Program, order: list[int]) -> None:
    done = play(function_of(program), choose=choices(order))
    keys = [key for key, _ in done.memos]
    assert len(set(keys)) == len(keys) == _count(program)


@settings(max_examples=60)
@given(programs("sequence", "parallel"), ORDERS)
def test_a_sync_program_replays_as_it_ran(program: Program, order: list[int]) -> None:
    function = sync_function_of(program)
    done = play(function, choose=choices(order))
    assert len(done.memos) == _count(program)
    replays_the_same(function, done)


@settings(max_examples=60)
@given(programs("sequence", "gather"), ORDERS)
def test_memos_of_steps_that_the_code_has_no_more_are_found_and_change_nothing(
    program: Program, order: list[int]
) -> None:
    function = function_of(program)
    done = play(function, choose=choices(order))
    extra = play(function_of(Program("step", name="removed")))
    replayed = replay(function, [*extra.memos, *done.memos])
    assert replayed.outcome == done.outcome
    assert [[one.id for one in found.recorded] for found in replayed.mismatches] == [["removed"]]


@settings(max_examples=120)
@given(programs("sequence", "gather", "group"), ORDERS, st.data())
def test_another_step_before_recorded_ones_is_found(program: Program, order: list[int], data: st.DataObject) -> None:
    done = play(function_of(program), choose=choices(order))
    renamed = data.draw(st.sampled_from(sorted({memo.id for _, memo in done.memos})))
    replayed = replay(function_of(_renamed(program, renamed)), done.memos)
    requested = {one.id.partition("#")[0] for found in replayed.mismatches for one in found.requested}
    recorded = {one.id.partition("#")[0] for found in replayed.mismatches for one in found.recorded}
    assert renamed in recorded
    assert requested == {"renamed"}


def _renamed(program: Program, name: str) -> Program:
    """The program with another name for a step."""
    if program.kind == "step":
        return Program("step", name="renamed") if program.name == name else program
    return Program(program.kind, tuple(_renamed(part, name) for part in program.parts))


def _count(program: Program) -> int:
    return 1 if program.kind == "step" else sum(_count(part) for part in program.parts)
