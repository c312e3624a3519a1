"""ctx.now, ctx.uuid and ctx.random: the same values on every replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from stepflow import Context, StepError, SyncContext
from stepflow_engine.ids import step_key
from stepflow_engine.memo import Memo
from tests.support.replay import play


def memo(step_id: str, ended_at: int, data: Any = None) -> tuple[str, Memo]:
    return step_key(step_id), Memo(step_id, data=data, detail={"ended_at": ended_at})


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def noop() -> None: ...


def test_the_time_is_the_end_of_the_last_step_that_the_code_has_received() -> None:
    seen: list[datetime] = []

    async def code(ctx: Context) -> None:
        seen.append(ctx.now())
        for step_id in ("a", "b"):
            await ctx.step.run(step_id, noop)
            seen.append(ctx.now())

    for _ in range(2):
        play(code, [memo("a", 5_000), memo("b", 7_500)])
    assert seen == [at(0), at(5), at(7.5)] * 2


def test_the_time_never_goes_back_between_workers_with_different_clocks() -> None:
    seen: list[datetime] = []

    async def code(ctx: Context) -> None:
        for step_id in ("a", "b"):
            await ctx.step.run(step_id, noop)
            seen.append(ctx.now())

    play(code, [memo("a", 5_000), memo("b", 4_000)])
    assert seen == [at(5), at(5)]


def test_each_parallel_branch_sees_the_time_of_its_own_turn() -> None:
    seen: dict[str, datetime] = {}

    async def code(ctx: Context) -> None:
        async def branch(step_id: str) -> None:
            await ctx.step.run(step_id, noop)
            seen[step_id] = ctx.now()

        await asyncio.gather(branch("a"), branch("b"))

    play(code, [memo("b", 1_000), memo("a", 2_000)])
    assert seen == {"b": at(1), "a": at(2)}


def test_a_sync_function_has_them_too() -> None:
    seen: list[Any] = []

    def code(ctx: SyncContext) -> None:
        ctx.step.run("a", noop)
        seen.append((ctx.now(), ctx.uuid(), ctx.random().random()))

    for _ in range(2):
        play(code, [memo("a", 3_000)])
    assert seen[0] == seen[1]
    assert seen[0][0] == at(3)


def test_uuids_and_random_numbers_are_new_each_time_and_the_same_on_each_replay() -> None:
    passes: list[list[Any]] = []

    async def code(ctx: Context) -> None:
        values: list[Any] = [ctx.uuid(), ctx.uuid(), ctx.random().random(), ctx.random().random()]
        passes.append(values)
        await ctx.step.run("a", noop)
        values += [ctx.uuid(), ctx.random().randrange(10**9)]

    for _ in range(2):
        play(code, [memo("a", 1)])
    assert passes[0] == passes[1]
    assert len(set(passes[0])) == len(passes[0])
    assert all(isinstance(value, UUID) for value in passes[0][:2])


@pytest.mark.parametrize("name", ["now", "uuid", "random"])
def test_in_a_handler_they_are_refused_with_what_to_use_instead(name: str) -> None:
    async def code(ctx: Context) -> None:
        async def handler() -> None:
            getattr(ctx, name)()

        await ctx.step.run("a", handler)

    refused = rf"StepUsageError: ctx.{name}\(\) is in the handler of a step: handlers are not replayed"
    with pytest.raises(StepError, match=refused):
        _ = play(code).value
