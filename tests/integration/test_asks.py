"""Steps that wait for signals and for people, and what a run says of itself; with real workers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from stepflow import (
    AnswerError,
    Context,
    Encryption,
    EncryptionKeyMissingError,
    LimitError,
    RunEndedError,
    RunFailedError,
    RunNotFoundError,
    Signal,
    SignalError,
    Stepflow,
    SyncContext,
)
from tests.support.processes import until

pytestmark = pytest.mark.roles("producer", "operator")


class Approval(BaseModel):
    approved: bool
    limit: int = Field(default=0, le=100)
    reason: Literal["price", "quality"] = "price"


def waiting(app: Stepflow, run: Any, step: str, kind: str) -> bool:
    """Whether a step of a run waits for something of this kind."""
    return any(one.id == step and one.kind == kind and one.state == "waiting" for one in run.steps())


# -- signals -----------------------------------------------------------------------


@pytest.mark.parametrize("sticky", [0, 100])
def test_signals_before_and_after_their_waits_are_received_in_order(app: Stepflow, run_worker, sticky: int) -> None:
    @app.function("listen")
    async def listen(ctx: Context) -> list[Any]:
        heard = [await ctx.step.wait_for_signal(f"{n}", "word") for n in range(4)]
        return [one.data for one in heard if isinstance(one, Signal)]

    run = app.start(listen)
    assert run.signal("word", 0) is run.signal("word", 1, id="one") is True  # before any worker has seen the run
    assert run.signal("word", "again", id="one") is False
    run_worker(app, sticky=sticky)
    until(lambda: waiting(app, run, "2", "signal"))
    run.signal("word", {"n": 2})
    asyncio.run(app.run(run.id).asignal("word"))
    assert run.result(20) == [0, 1, {"n": 2}, None]


def test_a_signal_says_what_it_is_and_a_timeout_is_none(app: Stepflow, run_worker) -> None:
    @app.function("listen")
    def listen(ctx: SyncContext) -> list[Any]:
        signal = ctx.step.wait_for_signal("first", "go", timeout="20s")
        assert isinstance(signal, Signal)
        late = ctx.step.wait_for_signal("late", "go", timeout="100ms")
        polled = ctx.step.wait_for_signal("polled", "go", timeout=0)
        return [signal.name, signal.data, signal.id, signal.at.isoformat(), late, polled]

    run = app.start(listen)
    before = datetime.now(UTC)
    run.signal("go", [1], id="mine")
    run_worker(app)
    name, data, signal_id, at, late, polled = run.result(20)
    assert (name, data, signal_id, late, polled) == ("go", [1], "mine", None, None)
    assert abs((datetime.fromisoformat(at) - before).total_seconds()) < 60
    assert [step.kind for step in run.steps()] == ["signal"] * 3


def test_a_race_of_waits_gives_each_signal_to_one(app: Stepflow, run_worker) -> None:
    @app.function("race")
    async def race(ctx: Context) -> list[Any]:
        waits = [ctx.step.wait_for_signal(f"{n}", "go") for n in range(10)]
        return sorted(one.data for one in await asyncio.gather(*waits) if one)

    run_worker(app)
    run = app.start(race)
    for n in range(10):
        run.signal("go", n)
    assert run.result(20) == list(range(10))


def test_signals_that_cannot_be_received_are_refused(app: Stepflow, run_worker) -> None:
    @app.function("short")
    async def short(ctx: Context) -> int:
        return 1

    run_worker(app)
    run = app.start(short)
    for name, data in (("", 1), ("go", {1: object()}), ("go", "x" * 600_000), (17, 1)):
        with pytest.raises(SignalError):
            run.signal(name, data)  # type: ignore[arg-type]
    with pytest.raises(SignalError, match="signal id must be non-empty"):
        run.signal("go", id="")
    run.result(20)
    with pytest.raises(RunEndedError, match="has ended") as ended:
        run.signal("go")
    assert ended.value.status == "completed"
    with pytest.raises(RunNotFoundError):
        app.run("0123nobody").signal("go")


# -- asks --------------------------------------------------------------------------


def test_an_answer_comes_back_as_its_type_and_the_history_says_who_gave_it(app: Stepflow, run_worker) -> None:
    @app.function("order")
    async def order(ctx: Context) -> list[Any]:
        approval = await ctx.step.ask("approve", schema=Approval, to="ops", timeout="1h")
        assert isinstance(approval, Approval)
        plain = await ctx.step.ask("plain", schema={"type": "object", "required": ["n"]}, timeout="1h")
        return [approval.approved, approval.reason, plain]

    @app.function("sync-order")
    def sync_order(ctx: SyncContext) -> bool | None:
        return ctx.step.ask("sure", schema=bool, timeout="1h")

    run_worker(app)
    run, other = app.start(order), app.start(sync_order)
    until(lambda: len(app.asks()) == 2)
    (found,) = app.asks("order", to="ops")
    assert (found.run_id, found.function, found.step, found.to) == (run.id, "shop/order", "approve", "ops")
    assert found.schema == Approval.model_json_schema()
    assert 3500 < (found.until - found.since).total_seconds() < 3700
    app.answer(run, "approve", Approval(approved=True), by="ada")
    until(lambda: len(app.asks(order)) == 1 and app.asks(order)[0].step == "plain")
    asyncio.run(app.aanswer(run.id, "plain", {"n": 2}))
    app.answer(other, "sure", data=False)
    assert run.result(20) == [True, "price", {"n": 2}]
    assert other.result(20) is False
    approve, plain = run.steps()
    assert (approve.kind, approve.answered_by, plain.answered_by) == ("ask", "ada", "shop")
    assert approve.output == {"approved": True, "limit": 0, "reason": "price"}
    assert app.asks() == asyncio.run(app.aasks()) == []


def test_an_answer_that_does_not_fit_is_refused_and_says_why(app: Stepflow, run_worker) -> None:
    @app.function("order")
    async def order(ctx: Context) -> bool:
        approval = await ctx.step.ask("approve", schema=Approval, timeout="1h")
        return approval is not None and approval.approved

    run_worker(app)
    run = app.start(order)
    until(lambda: app.asks())
    with pytest.raises(AnswerError, match=r"\$\.limit: 101 is greater than the maximum of 100") as wrong:
        app.answer(run, "approve", {"approved": "maybe", "limit": 101, "reason": "weather"})
    assert wrong.value.paths == ("$.approved", "$.limit", "$.reason")
    assert "'weather' is not one of ['price', 'quality']" in str(wrong.value)
    for data in ({}, None, [], object()):
        with pytest.raises(AnswerError):
            app.answer(run, "approve", data)
    with pytest.raises(AnswerError, match="its asks: 'approve'"):
        app.answer(run, "aprove", {"approved": True})
    with pytest.raises(RunNotFoundError):
        app.answer("0123nobody", "approve", {"approved": True})
    app.answer(run, "approve", {"approved": True}, by="ada")
    with pytest.raises(AnswerError, match="was answered by ada at 20") as second:
        app.answer(run, "approve", {"approved": False}, by="bob")
    assert second.value.answered_by == "ada"
    assert second.value.answered_at is not None
    assert run.result(20) is True


def test_an_ask_that_nobody_answers_gives_none(app: Stepflow, run_worker) -> None:
    @app.function("order")
    async def order(ctx: Context) -> list[Any]:
        first = await ctx.step.ask("approve", schema=bool, timeout="100ms")
        return [first, await ctx.step.ask("approve", schema=bool, timeout="1h")]

    run_worker(app)
    run = app.start(order)
    until(lambda: [one.step for one in app.asks()] == ["approve#2"])
    with pytest.raises(AnswerError, match="it timed out at"):
        app.answer(run, "approve", data=True)
    app.answer(run, "approve#2", data=True)
    assert run.result(20) == [None, True]
    with pytest.raises(AnswerError, match="was answered by shop"):
        app.answer(run, "approve#2", data=True)


def test_the_asks_of_a_cancelled_run_disappear(app: Stepflow, run_worker) -> None:
    @app.function("order")
    async def order(ctx: Context) -> Any:
        return await ctx.step.ask("approve", schema=bool, timeout="1h")

    run_worker(app)
    run = app.start(order)
    until(lambda: app.asks())
    run.cancel()
    assert app.asks() == []
    with pytest.raises(RunEndedError, match="receives no answer"):
        app.answer(run, "approve", data=True)
    (step,) = run.steps()
    assert (step.kind, step.state) == ("ask", "unfinished")


# -- values ------------------------------------------------------------------------


def test_a_run_says_what_it_does_while_it_lives_and_after_its_end(app: Stepflow, run_worker) -> None:
    @app.function("stages")
    async def stages(ctx: Context) -> str:
        ctx.set("stage", "waiting")
        ctx.set("seen", [1, 2])
        await ctx.step.wait_for_signal("go", "go")
        ctx.set("stage", {"name": "done", "of": None})
        return "x"

    run = app.start(stages)
    assert run.values() == {}
    run_worker(app)
    until(lambda: waiting(app, run, "go", "signal"))
    assert run.values() == {"stage": "waiting", "seen": [1, 2]}
    run.signal("go")
    run.result(20)
    assert asyncio.run(run.avalues()) == {"stage": {"name": "done", "of": None}, "seen": [1, 2]}
    with pytest.raises(RunNotFoundError):
        app.run("0123nobody").values()


@pytest.mark.parametrize("wrong", ["key", "type", "json", "handler", "many", "large"])
def test_values_that_cannot_be_kept_are_refused(app: Stepflow, run_worker, wrong: str) -> None:
    @app.function("stages", retries=0)
    async def stages(ctx: Context) -> None:
        match wrong:
            case "key":
                ctx.set("é" * 65, 1)
            case "type":
                ctx.set(17, 1)  # type: ignore[arg-type]
            case "json":
                ctx.set("a", object())
            case "handler":
                await ctx.step.run("x", lambda: ctx.set("a", 1))
            case "many":
                for n in range(101):
                    ctx.set(f"k{n}", n)
            case "large":
                ctx.set("a", "x" * 200_000)
                ctx.set("b", "x" * 200_000)

    run_worker(app)
    with pytest.raises(RunFailedError) as failed:
        app.invoke(stages, timeout=20)
    assert "ctx.set" in failed.value.message
    assert failed.value.name == (LimitError.__name__ if wrong in ("many", "large") else "StepUsageError")


# -- encryption --------------------------------------------------------------------


def test_an_encrypted_app_stores_none_of_it_in_clear(url: str, run_worker, client) -> None:
    app = Stepflow("shop", redis_url=url, encryption=Encryption(keys=[Encryption.generate_key()]))

    class Secret(BaseModel):
        """confidential"""

        word: str

    @app.function("order")
    async def order(ctx: Context) -> list[str]:
        ctx.set("stage", "confidential")
        signal = await ctx.step.wait_for_signal("go", "go")
        asked = await ctx.step.ask("word", schema=Secret, timeout="1h")
        await ctx.step.wait_for_signal("end", "end")
        return [signal.data if signal else "", asked.word if asked else ""]

    run = app.start(order)
    run.signal("go", "confidential")
    run.signal("later", "confidential")
    run_worker(app)
    until(lambda: app.asks())
    plain = Stepflow("shop", redis_url=url)
    (shown,) = plain.asks()
    assert (shown.step, shown.schema) == ("word", "encrypted")
    with pytest.raises(EncryptionKeyMissingError):
        plain.answer(run.id, "word", {"word": "x"})
    app.answer(run, "word", {"word": "confidential"})
    until(lambda: waiting(app, run, "end", "signal"))
    assert run.values() == {"stage": "confidential"}
    assert [step.output for step in run.steps()][1] == {"word": "confidential"}
    with pytest.raises(EncryptionKeyMissingError):
        plain.run(run.id).values()
    assert [step.output for step in plain.run(run.id).steps()][1] == "encrypted"
    stored = [_dump(client, key) for key in client.scan_iter(f"*{run.id}*")]
    assert stored
    assert not [text for text in stored if "confidential" in text]
    run.signal("end")
    assert run.result(20) == ["confidential", "confidential"]
    fork = app.fork(run, before="end")
    until(lambda: waiting(app, fork, "end", "signal"))
    fork.signal("end")
    assert fork.result(20) == ["confidential", "confidential"]
    assert [step.output for step in fork.steps()][1] == {"word": "confidential"}


def _dump(client: Any, key: str) -> str:
    match client.type(key):
        case "hash":
            return json.dumps(client.hgetall(key))
        case "string":
            return str(client.get(key))
        case _:
            return ""
