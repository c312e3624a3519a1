"""Handles of children, played without a server: which end counts, on every replay, and what the run knows of them."""

from __future__ import annotations

import itertools

import pytest

from stepflow import Context, InvokeCancelledError, InvokeTimeoutError
from stepflow_engine.execution import Waiting
from stepflow_engine.ids import child_key, step_key
from stepflow_engine.memo import Memo
from stepflow_engine.steps import InvokeRequest, ParentClose, StepKind
from tests.support.replay import execution_of, on_run_loop, replay

KEY = step_key("child")
END = child_key(KEY)
STARTED = Memo(
    "child",
    detail={
        "kind": StepKind.START,
        "function": "app/f",
        "run_id": "c1",
        "end_key": END,
        "parent_close": "wait",
    },
)
ENDED = Memo("child", 7, detail={"kind": StepKind.INVOKE, "function": "app/f", "run_id": "c1", "outcome": "completed"})
SLEPT = Memo("timeout of child", detail={"kind": StepKind.SLEEP})
TIMEOUT = step_key("timeout of child")


async def waits_twice(ctx: Context) -> list[object]:
    child = await ctx.step.start_child("child", "f")
    try:
        first: object = await child.result(timeout="1h")
    except InvokeTimeoutError as error:
        first = error.run_id
    return [first, await child.result(), await child.result()]


@pytest.mark.parametrize("order", list(itertools.permutations([(TIMEOUT, SLEPT), (END, ENDED)])))
def test_the_first_of_the_end_and_the_timeout_counts_on_every_replay(order) -> None:
    expected = ["c1", 7, 7] if order[0][0] == TIMEOUT else [7, 7, 7]
    assert replay(waits_twice, [(KEY, STARTED), *order]).value == expected


def test_a_child_that_has_ended_needs_no_timeout() -> None:
    assert replay(waits_twice, [(KEY, STARTED), (END, ENDED)]).value == [7, 7, 7]


def test_a_wait_asks_for_the_end_of_the_child_and_for_its_own_timeout() -> None:
    async def main() -> None:
        execution = execution_of(waits_twice)
        execution.add([(KEY, STARTED)])
        outcome = await execution.advance()
        assert isinstance(outcome, Waiting)
        calls = {call.key: call.request for call in outcome.fresh}
        assert set(calls) == {END, TIMEOUT}
        end = calls[END]
        assert isinstance(end, InvokeRequest)
        assert end.child == "c1"
        assert execution.open_children(ParentClose.WAIT) == [END]
        execution.add([(END, ENDED)])
        await execution.advance()
        assert execution.cancelled == [TIMEOUT]
        assert execution.open_children(ParentClose.WAIT) == []

    on_run_loop(main())


def test_an_end_that_the_code_has_not_waited_for_closes_the_child() -> None:
    async def code(ctx: Context) -> None:
        await ctx.step.start_child("child", "f")

    async def main() -> None:
        execution = execution_of(code)
        execution.add([(KEY, STARTED)])
        await execution.advance()
        assert execution.open_children(ParentClose.WAIT) == [END]
        execution.add([(END, ENDED)])
        assert execution.open_children(ParentClose.WAIT) == []

    on_run_loop(main())


@pytest.mark.parametrize("ended", [[], [(END, ENDED)]])
def test_a_child_that_the_code_has_cancelled_raises_on_every_replay(ended: list[tuple[str, Memo]]) -> None:
    async def code(ctx: Context) -> str:
        child = await ctx.step.start_child("child", "f")
        child.cancel()
        child.cancel()
        try:
            await child.result()
        except InvokeCancelledError as error:
            return error.message
        return "it has a result"

    async def main() -> None:
        execution = execution_of(code)
        execution.add([(KEY, STARTED), *ended])
        await execution.advance()
        assert execution.cancelled == [END]

    assert "this run has cancelled it" in replay(code, [(KEY, STARTED), *ended]).value
    on_run_loop(main())


def test_a_child_that_has_told_its_end_is_not_cancelled() -> None:
    async def code(ctx: Context) -> int:
        child = await ctx.step.start_child("child", "f")
        await child.result()
        child.cancel()
        return await child.result()

    assert replay(code, [(KEY, STARTED), (END, ENDED)]).value == 7
