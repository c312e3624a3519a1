"""The Replayer runs code over a history without its handlers, and the verdict says what becomes of the run."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from stepflow import Context, Stepflow, SyncContext
from stepflow.functions.function import Function
from stepflow.replay.history import PlannedStep, RunHistory
from stepflow.replay.replayed import ReplayOutcome
from stepflow.replay.replayer import Replayer
from stepflow.replay.verdict import Judgement, Risk, Verdict, judge
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.ids import child_key, item_key, step_key, undo_key
from stepflow_engine.memo import Memo
from stepflow_engine.patches import PatchDecision

RUN = "0123" * 8


@pytest.fixture(scope="module")
def replayer() -> Iterator[Replayer]:
    with Replayer(timeout_s=0.3) as made:
        yield made


def handler(*_: Any) -> Any:
    raise AssertionError("a replay must not call a handler")


def function_of(code: Callable[..., Any], **options: Any) -> Function[Any, Any]:
    return Stepflow("shop").function("order", **options)(code)


def done(*ids: str, data: Any = None, **detail: Any) -> tuple[tuple[str, Memo], ...]:
    return tuple((step_key(one), Memo(one, data, detail=detail)) for one in ids)


def planned(*ids: str, kind: str = "run", digest: str = "") -> tuple[PlannedStep, ...]:
    return tuple(PlannedStep(step_key(one), one, kind, digest) for one in ids)


def history(
    memos: tuple[tuple[str, Memo], ...] = (), plan: tuple[PlannedStep, ...] = (), *, data: Any = None, **facts: Any
) -> RunHistory:
    event = dumps({"name": "shop/order", "id": "e", "ts": 1, "data": data or {}})
    return RunHistory("shop/order", RUN, (event,), memos, plan, **facts)


def verdict(replayer: Replayer, code: Callable[..., Any], of: RunHistory, **options: Any) -> Judgement:
    return judge(of, replayer.replay(function_of(code, **options), of))


async def three(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    await ctx.step.run("charge", handler)
    await ctx.step.sleep("pause", "1d")


def sync_three(ctx: SyncContext) -> None:
    ctx.step.run("reserve", handler)
    ctx.step.run("charge", handler)
    ctx.step.sleep("pause", "1d")


async def inserted(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    await ctx.step.run("score", handler)
    await ctx.step.run("charge", handler)
    await ctx.step.sleep("pause", "1d")


async def renamed(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    await ctx.step.run("charges", handler)


async def shortened(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)


async def beside(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    await asyncio.gather(
        ctx.step.run("charge", handler),
        ctx.step.run("score", handler),
    )


async def other_kind(ctx: Context) -> None:
    await ctx.step.sleep("reserve", "1d")


async def failing(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    raise LookupError("no such order")


@pytest.mark.parametrize(
    ("code", "of", "expected"),
    [
        (three, history(), Verdict.OK),
        (three, history(done("reserve", "charge"), planned("pause", kind="sleep")), Verdict.OK),
        (sync_three, history(done("reserve", "charge"), planned("pause", kind="sleep")), Verdict.OK),
        (three, history(done("reserve", "charge") + done("pause", kind="sleep")), Verdict.OK),
        (beside, history(done("reserve"), planned("charge")), Verdict.NEW_STEP),
        (inserted, history(done("reserve", "charge")), Verdict.RERUNS),
        (renamed, history(done("reserve", "charge")), Verdict.RERUNS),
        (renamed, history(done("reserve"), planned("charge")), Verdict.DROPPED),
        (shortened, history(done("reserve", "charge")), Verdict.ORPHAN),
        (shortened, history(done("reserve"), planned("charge")), Verdict.ENDS_EARLY),
        (other_kind, history(done("reserve")), Verdict.KIND),
        (other_kind, history((), planned("reserve")), Verdict.KIND),
        (failing, history(done("reserve")), Verdict.RAISES),
        (failing, history(done("reserve"), ended="failed"), Verdict.OK),
    ],
)
def test_the_verdict_follows_from_the_steps_that_the_code_asks_for(
    replayer: Replayer, code: Callable[..., Any], of: RunHistory, expected: Verdict
) -> None:
    assert verdict(replayer, code, of).verdict is expected


def test_a_verdict_names_the_line_of_the_new_code_and_what_may_have_been_renamed(replayer: Replayer) -> None:
    of = history(done("reserve", "charge"))
    found = verdict(replayer, renamed, of)
    assert found.site is not None
    assert found.site.path == __file__
    assert Path(__file__).read_text().splitlines()[found.site.line - 1].strip() == (
        'await ctx.step.run("charges", handler)'
    )
    assert 'Was "charge" renamed to "charges"?' in found.text
    assert found.verdict.risk is Risk.RERUN


def lines_of(replayer: Replayer, code: Callable[..., Any], of: RunHistory) -> list[str]:
    text = Path(__file__).read_text().splitlines()
    requested = replayer.replay(function_of(code), of).requested
    return [text[step.site.line - 1].strip() if step.site else "" for step in requested]


def test_each_call_has_its_line_in_tasks_and_in_threads_too(replayer: Replayer) -> None:
    def threads(ctx: SyncContext) -> None:
        ctx.step.parallel(
            lambda: ctx.step.run("one", handler),
            lambda: ctx.step.run("two", handler),
        )

    assert lines_of(replayer, beside, history(done("reserve"))) == [
        'await ctx.step.run("reserve", handler)',
        'ctx.step.run("charge", handler),',
        'ctx.step.run("score", handler),',
    ]
    assert lines_of(replayer, threads, history()) == [
        'lambda: ctx.step.run("one", handler),',
        'lambda: ctx.step.run("two", handler),',
    ]


class Receipt(BaseModel):
    number: int


def receipt() -> Receipt:
    raise AssertionError("a replay must not call a handler")


def test_a_result_that_does_not_fit_its_type_any_more_is_found_although_the_code_catches_the_error(
    replayer: Replayer,
) -> None:
    async def code(ctx: Context) -> None:
        try:
            await ctx.step.run("charge", receipt)
        except Exception:
            await ctx.step.run("apology", handler)

    assert verdict(replayer, code, history(done("charge", data={"number": 1}))).verdict is Verdict.OK
    found = verdict(replayer, code, history(done("charge", data={"no": 1})))
    assert found.verdict is Verdict.TYPE
    assert "number" in found.text


def test_an_event_that_the_function_does_not_take_any_more_is_found(replayer: Replayer) -> None:
    async def code(ctx: Context[Receipt]) -> None:
        await ctx.step.run("charge", handler)

    assert verdict(replayer, code, history(data={"number": 1})).verdict is Verdict.OK
    assert verdict(replayer, code, history(data={"no": 1})).verdict is Verdict.INPUT


def test_an_output_that_the_run_could_not_store_is_found(replayer: Replayer) -> None:
    async def code(ctx: Context) -> object:
        await ctx.step.run("charge", handler)
        return object()

    assert verdict(replayer, code, history(done("charge"))).verdict is Verdict.TYPE


def test_a_failure_of_a_step_that_the_code_does_not_catch_is_no_error_of_the_code(replayer: Replayer) -> None:
    memo = Memo("reserve", failure=Failure("TimeoutError", "no answer"))
    assert verdict(replayer, three, history(((step_key("reserve"), memo),))).verdict is Verdict.OK


def test_an_undo_handler_that_is_gone_is_found(replayer: Replayer) -> None:
    async def with_undo(ctx: Context) -> None:
        await ctx.step.run("reserve", handler, undo=handler)
        await ctx.step.run("charge", handler)

    memos = done("reserve", undo=1)
    assert verdict(replayer, with_undo, history(memos)).verdict is Verdict.OK
    assert verdict(replayer, three, history(memos)).verdict is Verdict.UNDO
    undone = ((undo_key(step_key("reserve")), Memo("undo reserve")),)
    assert verdict(replayer, with_undo, history(memos + undone, undoing="failed")).verdict is Verdict.OK
    assert verdict(replayer, renamed, history(done("charge", undo=1), undoing="failed")).verdict is Verdict.UNDO


def test_a_patch_takes_the_old_way_for_runs_that_have_passed_it(replayer: Replayer) -> None:
    async def code(ctx: Context) -> None:
        await ctx.step.run("new" if ctx.patched("tax") else "old", handler)

    assert verdict(replayer, code, history(done("old"))).verdict is Verdict.OK
    assert verdict(replayer, code, history((), planned("old"))).verdict is Verdict.OK
    of = history(done("new"), patches={"tax": PatchDecision(patched=True, after=0)})
    assert verdict(replayer, code, of).verdict is Verdict.OK


def test_the_end_of_a_child_may_be_asked_for_later(replayer: Replayer) -> None:
    async def code(ctx: Context) -> None:
        child = await ctx.step.start_child("report", "report")
        await ctx.step.sleep("pause", "1d")
        await child.result()

    key = step_key("report")
    detail = {"kind": "start", "run_id": RUN, "function": "shop/report", "parent_close": "cancel"}
    started = done("report", **detail, end_key=child_key(key))
    waits = (PlannedStep(child_key(key), "report", "invoke"),)
    assert verdict(replayer, code, history(started, (*waits, *planned("pause", kind="sleep")))).verdict is Verdict.OK
    ended = ((child_key(key), Memo("report", 1, detail={"kind": "invoke"})),)
    assert verdict(replayer, code, history(started + ended, planned("pause", kind="sleep"))).verdict is Verdict.OK


def test_a_map_must_have_the_items_with_which_it_began(replayer: Replayer) -> None:
    async def code(ctx: Context) -> None:
        await ctx.step.map("resize", handler, ctx.event.data["names"])

    of = history((), planned("resize", kind="map", digest="00000000"), data={"names": ["a"]})
    assert verdict(replayer, code, of).verdict is Verdict.ITEMS
    item = PlannedStep(item_key(step_key("resize"), "00000000", 0), "resize[0]", "run")
    of = replace(of, planned=(*planned("resize", kind="map"), item))
    assert verdict(replayer, code, of).verdict is Verdict.OK


def test_a_later_round_has_its_own_keys(replayer: Replayer) -> None:
    async def code(ctx: Context) -> Any:
        await ctx.step.run("reserve", handler)
        return ctx.continue_as_new({"round": ctx.round + 1})

    memos = ((step_key("reserve") + "2", Memo("reserve")),)
    of = history(memos, round=2)
    replayed = replayer.replay(function_of(code), of)
    assert (replayed.outcome, judge(of, replayed).verdict) == (ReplayOutcome.CONTINUED, Verdict.OK)
    assert verdict(replayer, code, history(memos)).verdict is Verdict.RERUNS


async def connects(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    await asyncio.open_connection("localhost", 9)


async def looks_up_in_a_thread(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    await asyncio.to_thread(subprocess.run, ["true"])


async def waits_for_a_timer(ctx: Context) -> None:
    await ctx.step.run("reserve", handler)
    await asyncio.sleep(60)
    await ctx.step.run("charge", handler)


@pytest.mark.parametrize("code", [connects, looks_up_in_a_thread, waits_for_a_timer])
def test_code_that_reaches_outside_has_no_other_verdict(replayer: Replayer, code: Callable[..., Any]) -> None:
    found = verdict(replayer, code, history(done("reserve"), planned("charge")))
    assert found.verdict is Verdict.OUTSIDE
    assert found.site is not None
    assert found.site.path == __file__


def test_a_timeout_around_a_planned_step_is_not_waited_for(replayer: Replayer) -> None:
    async def code(ctx: Context) -> None:
        async with asyncio.timeout(60):
            await ctx.step.run("charge", handler)

    assert verdict(replayer, code, history((), planned("charge"))).verdict is Verdict.OK


def test_code_that_does_not_come_back_is_left_and_the_next_replay_works() -> None:
    stop = False

    async def code(ctx: Context) -> None:
        await ctx.step.run("reserve", handler)
        while not stop:
            time.sleep(0.01)

    with Replayer(timeout_s=0.02) as replayer:
        found = verdict(replayer, code, history(done("reserve")))
        assert verdict(replayer, three, history(done("reserve"))).verdict is Verdict.OK
    stop = True
    assert found.verdict is Verdict.OUTSIDE


def test_two_replays_that_differ_are_not_deterministic(replayer: Replayer) -> None:
    async def code(ctx: Context) -> None:
        await ctx.step.run(f"step-{random.random()}", handler)

    of, function = history(), function_of(code)
    first, second = replayer.replay(function, of), replayer.replay(function, of)
    assert judge(of, first, second).verdict is Verdict.NOT_DETERMINISTIC
    assert judge(of, first, first).verdict is Verdict.OK
