"""ctx.patched: a run takes the new way unless it has passed the patch with the old code, and stores what it decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stepflow import Context, LimitError, Stepflow, StepUsageError, SyncContext
from stepflow.functions.patch_uses import patch_uses
from stepflow_engine.execution import Execution, Waiting
from stepflow_engine.ids import step_key
from stepflow_engine.memo import Memo
from stepflow_engine.patches import MAX_PATCHES, PatchDecision
from tests.support.replay import data_memos, execution_of, on_run_loop, play


async def noop() -> None: ...


async def order(ctx: Context) -> bool:
    await ctx.step.run("before", noop)
    patched = ctx.patched("tax")
    await ctx.step.run("new" if patched else "old", noop)
    assert ctx.patched("tax") is patched
    return patched


def sync_order(ctx: SyncContext) -> bool:
    ctx.step.run("before", noop)
    patched = ctx.patched("tax")
    ctx.step.run("new" if patched else "old", noop)
    return patched


both_kinds = pytest.mark.parametrize("code", [order, sync_order], ids=["async", "sync"])


def advanced(code: Callable[..., Any], arrange: Callable[[Execution], None]) -> Execution:
    """A pass over the code that was advanced once."""

    async def main() -> Execution:
        execution = execution_of(code)
        arrange(execution)
        try:
            await asyncio.wait_for(execution.advance(), 10)
        finally:
            execution.close() if not execution.closed else None
        return execution

    return on_run_loop(main())


@both_kinds
def test_a_run_takes_the_new_way_unless_a_memo_follows_the_patch(code: Callable[..., Any]) -> None:
    assert play(code).value is True
    assert play(code, data_memos(before=1)).value is True
    assert play(code, data_memos(before=1, old=1)).value is False


@both_kinds
def test_a_stored_decision_counts_more_than_the_memos(code: Callable[..., Any]) -> None:
    def arrange(execution: Execution) -> None:
        execution.add(data_memos(before=1, old=1))
        execution.patches.load({"tax": PatchDecision(True, 1)}, frozenset())

    execution = advanced(code, arrange)
    assert execution.was_requested(step_key("new"))


@both_kinds
def test_a_step_with_a_job_that_the_code_has_not_requested_says_that_the_patch_was_passed(
    code: Callable[..., Any],
) -> None:
    def arrange(execution: Execution) -> None:
        execution.add(data_memos(before=1))
        execution.patches.load({}, frozenset({step_key("old")}))

    execution = advanced(code, arrange)
    assert execution.patches.decisions == {"tax": PatchDecision(False, 1)}


@both_kinds
def test_a_pass_that_does_not_drive_the_run_decides_nothing(code: Callable[..., Any]) -> None:
    def arrange(execution: Execution) -> None:
        execution.add(data_memos(before=1))
        execution.is_driven = False

    execution = advanced(code, arrange)
    assert (execution.patches.decisions, execution.patches.is_provisional) == ({}, True)
    assert execution.was_requested(step_key("old"))


@both_kinds
def test_a_pass_that_may_be_out_of_date_is_closed_instead_of_deciding(code: Callable[..., Any]) -> None:
    def arrange(execution: Execution) -> None:
        execution.add(data_memos(before=1))
        execution.patches.expire()

    execution = advanced(code, arrange)
    assert execution.closed
    assert execution.patches.was_refused
    assert not execution.patches.decisions


def test_parallel_steps_that_were_requested_before_say_nothing() -> None:
    async def code(ctx: Context) -> bool:
        async def branch() -> bool:
            await ctx.step.run("a", noop)
            return ctx.patched("p")

        patched, _ = await asyncio.gather(branch(), ctx.step.run("b", noop))
        return patched

    assert play(code, data_memos(a=1, b=1)).value is True


def test_a_memo_that_the_new_code_does_not_read_any_more_says_nothing_of_later_patches() -> None:
    async def code(ctx: Context) -> bool:
        await ctx.step.run("a", noop)
        return ctx.patched("p")

    assert play(code, data_memos(removed=1, a=1)).value is True


def test_a_deprecated_patch_refuses_runs_that_have_taken_the_old_way() -> None:
    async def code(ctx: Context) -> str:
        await ctx.step.run("before", noop)
        ctx.deprecate_patch("tax")
        await ctx.step.run("new", noop)
        return "new"

    assert play(code).value == "new"
    refused = play(code, data_memos(before=1, old=1))
    assert isinstance(refused.error, StepUsageError)
    assert "old way at patch 'tax'" in str(refused.error)


@pytest.mark.parametrize("bad", ["", "x" * 129, 7, None])
def test_a_bad_id_is_refused_where_it_is_written(bad: Any) -> None:
    async def code(ctx: Context) -> None:
        ctx.patched(bad)

    assert isinstance(play(code).error, StepUsageError)


def test_a_run_has_a_limited_number_of_patches() -> None:
    async def code(ctx: Context) -> None:
        for number in range(MAX_PATCHES + 1):
            ctx.patched(f"p{number}")

    assert isinstance(play(code).error, LimitError)


def test_a_handler_and_another_thread_cannot_ask() -> None:
    async def in_handler(ctx: Context) -> None:
        async def handler() -> None:
            ctx.patched("p")

        await ctx.step.run("a", handler)

    async def in_thread(ctx: Context) -> None:
        await asyncio.to_thread(ctx.patched, "p")

    assert "handler of a step" in str(play(in_handler).error)
    assert "another thread" in str(play(in_thread).error)


def test_threads_of_a_sync_function_ask_while_memos_arrive() -> None:
    def code(ctx: SyncContext) -> list[bool]:
        def branch(name: str) -> bool:
            ctx.step.run(name, noop)
            return ctx.patched(f"patch {name}")

        return ctx.step.parallel(lambda: branch("a"), lambda: branch("b"))

    assert play(code).value == [True, True]
    assert play(code, [(step_key(name), Memo(name)) for name in ("b", "a")]).value == [True, True]


app = Stepflow("shop")


def helper(context: Any) -> None:
    context.deprecate_patch("gone")


@app.function("uses")
async def uses(ctx: Context) -> None:
    if ctx.patched("tax"):
        helper(ctx)
    for number in range(2):
        ctx.patched(f"round {number}")
    ctx.patched(id="named")


def test_the_patches_of_a_function_and_of_what_it_calls_are_listed() -> None:
    found = {(use.id, use.is_deprecated) for use in patch_uses(uses)}
    assert found == {("gone", True), ("tax", False), ("", False), ("named", False)}


def test_a_pass_that_waits_knows_its_decision_before_the_step_executes() -> None:
    async def main() -> None:
        execution = execution_of(order)
        execution.add(data_memos(before=1))
        outcome = await execution.advance()
        assert isinstance(outcome, Waiting)
        assert execution.patches.decisions == {"tax": PatchDecision(True, 1)}
        execution.close()

    on_run_loop(main())
