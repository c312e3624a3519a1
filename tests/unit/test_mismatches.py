"""What a pass over other code than that of the history says, and of what it says nothing."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepflow import Context, SyncContext
from stepflow_engine.ids import child_key, step_key
from stepflow_engine.memo import Memo
from stepflow_engine.mismatch import Mismatch, NamedStep, find_mismatch, planned_mismatch
from tests.support.replay import data_memos, execution_of, on_run_loop, replay


async def handler() -> None: ...


def found(code: Callable[..., Any], **data: Any) -> list[str]:
    return [str(one) for one in replay(code, data_memos(**data)).mismatches]


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if line.endswith(f"# {text}"))
    return f"tests/unit/test_mismatches.py:{number}"


def test_the_new_call_is_named_with_its_line_wherever_it_is() -> None:
    async def helper(ctx: Context) -> None:
        await ctx.step.run("inner", handler)  # inner

    async def code(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(helper(ctx))
            await asyncio.gather(ctx.step.sleep("outer", 1), handler())  # outer

    def sync_code(ctx: SyncContext) -> None:
        ctx.step.parallel(
            lambda: ctx.step.run("first", handler),  # first
            lambda: ctx.step.run("second", handler),  # second
        )

    (said,) = found(code, a=1)
    assert said.startswith("the history has run 'a', and the code requests ")
    assert f"run 'inner' ({line_of('inner')})" in said
    assert f"sleep 'outer' ({line_of('outer')})" in said
    (said,) = found(sync_code, a=1)
    assert said.endswith(f"run 'first' ({line_of('first')}), run 'second' ({line_of('second')})")


def test_code_that_ends_is_compared_and_code_that_raises_is_not() -> None:
    async def ends(ctx: Context) -> None:
        await ctx.step.run("a", handler)

    async def raises(ctx: Context) -> None:
        await ctx.step.run("a", handler)
        raise ValueError

    assert found(ends, a=1, b=2) == ["the history has run 'b', and the code returns"]
    assert found(raises, a=1, b=2) == []
    assert found(ends, a=1) == []


def test_code_that_waits_for_something_else_may_request_the_step_later() -> None:
    async def code(ctx: Context) -> None:
        unfinished: concurrent.futures.Future[None] = concurrent.futures.Future()
        timer = asyncio.create_task(asyncio.sleep(60))
        await asyncio.gather(ctx.step.run("new", handler), timer, asyncio.wrap_future(unfinished))

    assert found(code, a=1) == []


@pytest.mark.parametrize("reads", [False, True])
def test_a_retry_that_reads_its_attempt_may_do_something_else(reads: bool) -> None:
    async def code(ctx: Context) -> None:
        attempt = ctx.attempt if reads else 0
        await ctx.step.run(f"new {attempt}", handler)

    async def main() -> Mismatch | None:
        execution = execution_of(code, attempt=1)
        execution.add(data_memos(a=1))
        outcome = await execution.advance()
        execution.close()
        return find_mismatch(execution, outcome)

    assert (on_run_loop(main()) is None) is reads


def test_the_end_of_a_child_that_the_code_does_not_await_is_expected() -> None:
    end = child_key(step_key("child"))
    started = {"run_id": "r", "function": "f/g", "end_key": end, "parent_close": "leave"}
    memos = [
        (step_key("child"), Memo("child", started, None, {"kind": "start"})),
        (end, Memo("child", 1, None, {"kind": "invoke"})),
    ]

    async def code(ctx: Context) -> None:
        child = await ctx.step.start_child("child", "g")
        child.cancel()
        await ctx.step.run("next", handler)

    assert replay(code, memos).mismatches == []


def test_planned_steps_are_compared_when_the_code_is_quiet() -> None:
    async def code(ctx: Context) -> None:
        await asyncio.gather(ctx.step.run("same", handler), ctx.step.sleep("kind", 1))

    async def main() -> Mismatch | None:
        execution = execution_of(code)
        outcome = await execution.advance()
        planned = [(step_key(name), name, "run") for name in ("same", "kind", "gone")]
        mismatch = planned_mismatch(execution, outcome, planned)
        execution.close()
        return mismatch

    mismatch = on_run_loop(main())
    assert mismatch is not None
    assert mismatch.recorded == (NamedStep("kind", "run"), NamedStep("gone", "run"))
    assert [(one.id, one.kind) for one in mismatch.requested] == [("same", "run"), ("kind", "sleep")]
    assert Mismatch.from_json(mismatch.of_version("2").to_json()) == mismatch.of_version("2")
