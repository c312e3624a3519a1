"""Loops without an end: a run continues as new, round after round, with the same id and bounded memory."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow import (
    AnswerError,
    Context,
    Encryption,
    Event,
    NonRetriableError,
    RunFailedError,
    RunStatus,
    Singleton,
    Stepflow,
    StepUsageError,
    SyncContext,
)
from tests.support.command_line import as_json, call
from tests.support.processes import until

pytestmark = pytest.mark.roles("producer", "operator")

KEY = Encryption.generate_key()


@pytest.fixture
def app(url: str) -> Stepflow:
    return Stepflow("loops", redis_url=url, encryption=Encryption(keys=[KEY]))


def test_a_run_goes_on_with_new_data_and_the_same_id_until_its_code_returns(app: Stepflow, run_worker, client) -> None:
    seen: list[Any] = []

    @app.function("count", singleton=Singleton())
    async def count(ctx: Context) -> int:
        total = await ctx.step.run("add", lambda: ctx.event.data["total"] + 1)
        key = await ctx.step.run("key", lambda: ctx.step.idempotency_key)
        child = await ctx.step.invoke("child", "child", {"n": total})
        seen.append((ctx.round, key, child, str(ctx.uuid()), ctx.random().random()))
        if total < 12:
            return ctx.continue_as_new({"total": total})
        return total

    @app.function("child")
    def child(ctx: SyncContext) -> str:
        if ctx.event.data["n"] % 2:
            return ctx.continue_as_new({"n": ctx.event.data["n"] + 1})
        return ctx.run_id

    @app.function("parent")
    async def parent(ctx: Context) -> int:
        return await ctx.step.invoke("count", count, {"total": 0})

    run_worker(app)
    assert app.invoke(parent, timeout=30) == 12
    for unique in zip(*(one[1:] for one in seen), strict=True):
        assert len(set(unique)) == 12
    assert {one[0] for one in seen} == set(range(12))
    (run,) = app.runs("count")
    info = run.info()
    assert (info.round, info.status) == (11, RunStatus.COMPLETED)
    assert len(run.steps()) == 3
    assert len(client.lrange(f"stepflow:memo-order:{run.id}", 0, -1)) == 3


def test_the_command_line_shows_the_rounds(app: Stepflow, run_worker, url: str) -> None:
    @app.function("loop")
    async def loop(ctx: Context) -> None:
        if ctx.round == 2:
            await ctx.step.sleep("long", "1h")
        await ctx.step.run("work", lambda: 1)
        return ctx.continue_as_new()

    run_worker(app)
    run = app.start(loop)
    until(lambda: run.info().round == 2 and run.status() is RunStatus.WAITING)
    reason = run.explain()
    assert reason is not None
    assert "loops/loop (round 2) waits for its steps" in reason.text
    details = as_json("runs", "show", run.id, STEPFLOW_REDIS_URL=url, STEPFLOW_ENCRYPTION_KEYS=KEY)
    assert (details["round"], [one["round"] for one in details["rounds"]]) == (2, [1, 0])
    assert {one["steps"] for one in details["rounds"]} == {1}
    shown = call("runs", "show", run.id, STEPFLOW_REDIS_URL=url, STEPFLOW_ENCRYPTION_KEYS=KEY)
    assert "2, after 2 that have ended" in shown.stdout
    assert run.cancel()


def test_what_is_sent_to_a_loop_is_received_by_one_of_its_rounds(app: Stepflow, run_worker) -> None:
    @app.function("listen")
    async def listen(ctx: Context) -> list[Any]:
        got = list(ctx.event.data.get("got", ()))
        signal = await ctx.step.wait_for_signal("next", "next")
        event = await ctx.step.wait_for_event("paid", event="paid", match={"data.to": 1}, timeout="1h")
        assert signal is not None
        assert event is not None
        got.append([signal.data, event.data["n"]])
        return got if len(got) == 3 else ctx.continue_as_new({"got": got})

    run_worker(app)
    run = app.start(listen)
    for n in range(3):
        run.signal("next", n)
        app.send(Event("paid", {"to": 1, "n": n}, id=f"paid-{n}"))
    got = run.result(timeout=30)
    assert [signal for signal, _ in got] == [0, 1, 2]
    assert sorted(event for _, event in got) == [0, 1, 2]


def test_a_round_that_fails_is_retried_and_a_failed_run_is_repeated_from_its_round(app: Stepflow, run_worker) -> None:
    calls: list[int] = []

    @app.function("loop", retries=1)
    async def loop(ctx: Context) -> list[Any]:
        calls.append(ctx.round)
        done = await ctx.step.run("work", lambda: ctx.event.data["n"])
        if done == 2 and len(calls) < 3:
            raise ValueError("once more")
        if done == 2 and len(calls) < 4:
            raise NonRetriableError("not now")
        return [ctx.round, done] if done == 3 else ctx.continue_as_new({"n": done + 1})

    run_worker(app)
    run = app.start(loop, {"n": 1})
    with pytest.raises(RunFailedError, match="not now"):
        run.result(timeout=20)
    assert run.retry().result(timeout=20) == [2, 3]
    assert run.rerun().result(timeout=20) == [2, 3]


def test_the_children_of_a_round_are_treated_as_at_the_end_of_the_run(app: Stepflow, run_worker) -> None:
    @app.function("patient")
    async def patient(ctx: Context) -> None:
        await ctx.step.wait_for_signal("go", "go")

    @app.function("loop")
    async def loop(ctx: Context) -> list[str]:
        ids = list(ctx.event.data.get("ids", ()))
        for close in ("cancel", "leave", "wait") if not ids else ():
            child = await ctx.step.start_child(close, patient, parent_close=close)  # type: ignore[call-overload]
            ids.append(child.id)
        return ids if ctx.round else ctx.continue_as_new({"ids": ids})

    run_worker(app)
    run = app.start(loop)
    until(lambda: "the run ends when its children have ended" in str(run.explain()))
    waiting = [app.run(child.id) for child in run.children()]
    for child in waiting:
        child.signal("go")
    ids = run.result(timeout=20)
    assert [app.run(id).status() for id in ids][1:] == ["completed", "completed"]


def test_a_bad_end_of_a_round_is_refused(app: Stepflow, run_worker) -> None:
    @app.function("loop", retries=0)
    async def loop(ctx: Context) -> int:
        match ctx.event.data["bad"]:
            case "forgotten":
                ctx.continue_as_new({"bad": ""})
            case "handler":
                await ctx.step.run("a", lambda: ctx.continue_as_new({}))
            case "data":
                return ctx.continue_as_new({"bad": object()})
        return 1

    run_worker(app)
    for bad, name, says in (
        ("forgotten", StepUsageError.__name__, "write return ctx.continue_as_new"),
        ("handler", StepUsageError.__name__, "is in the handler of a step"),
        ("data", "EventError", "must be JSON"),
    ):
        with pytest.raises(RunFailedError, match=says) as failed:
            app.invoke(loop, {"bad": bad}, timeout=20)
        assert failed.value.name == name


def test_asks_are_answered_and_steps_are_undone_in_their_round(app: Stepflow, run_worker) -> None:
    undone: list[int] = []

    @app.function("loop", retries=0)
    async def loop(ctx: Context) -> None:
        await ctx.step.run("book", lambda: ctx.round, undo=undone.append)
        if await ctx.step.ask("more", schema=bool, timeout="1h"):
            return ctx.continue_as_new()
        raise NonRetriableError("no more")

    run_worker(app)
    run = app.start(loop)
    for number, more in enumerate((True, True, False)):
        until(lambda: run.info().round == number and list(app.asks()), what="the ask")  # noqa: B023
        app.answer(run, "more", more)
    with pytest.raises(RunFailedError, match="no more"):
        run.result(timeout=20)
    assert undone == [2]
    with pytest.raises(AnswerError, match="was answered by"):
        app.answer(run, "more", True)
