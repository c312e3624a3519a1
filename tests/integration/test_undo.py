"""Undo handlers, and hooks of cancelled runs, with real workers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from stepflow import (
    CancelOn,
    Context,
    Encryption,
    ForkError,
    InvokeCancelledError,
    NonRetriableError,
    Run,
    RunCancelledError,
    RunEndedError,
    RunFailedError,
    RunStatus,
    StepError,
    Stepflow,
    StepUsageError,
    SyncContext,
)
from tests.support.command_line import as_json, call
from tests.support.ledgers import whole_lines
from tests.support.processes import until

both_layouts = pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])


class Booking(BaseModel):
    name: str


class Trip:
    """What was booked and undone. Handlers that are named in ``broken`` fail."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.broken: set[str] = set()
        self.keys: list[str] = []

    async def book(self, name: str) -> Booking:
        if name in self.broken:
            raise ValueError(f"no {name}")
        self.log.append(f"book {name}")
        return Booking(name=name)

    async def unbook(self, booking: Booking) -> object:
        if f"undo {booking.name}" in self.broken:
            raise ValueError(f"{booking.name} is kept")
        self.log.append(f"unbook {booking.name}")
        return object()  # what an undo handler returns is not stored

    def unbook_sync(self, booking: Booking) -> None:
        self.log.append(f"unbook {booking.name}")


def ended(run: Run[Any]) -> RunStatus:
    until(lambda: run.status().ended, what="the end")
    return run.status()


def step_states(run: Run[Any]) -> dict[str, str]:
    return {step.id: step.state for step in run.steps()}


@both_layouts
def test_a_failed_run_undoes_its_completed_steps_in_reverse_order(
    app: Stepflow, run_worker: Callable[..., Any], partitions: int
) -> None:
    trip = Trip()
    trip.broken = {"taxi"}

    @app.function("trip", retries=0)
    async def function(ctx: Context) -> None:
        await ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        await ctx.step.run("no undo", trip.book, "insurance")
        await asyncio.gather(*[ctx.step.run(name, trip.book, name, undo=trip.unbook) for name in ("flight", "car")])
        try:
            await ctx.step.with_options(retries=0).run("taxi", trip.book, "taxi", undo=trip.unbook)
        except StepError:
            raise NonRetriableError("no taxi") from None

    run_worker(app)
    run = app.start(function)
    with pytest.raises(RunFailedError, match="no taxi"):
        run.result(30)
    parallel = [line.removeprefix("unbook ") for line in trip.log[-3:]]
    steps = {step.id: step for step in run.steps()}
    completed = [step.id for step in run.steps() if step.id in ("hotel", "flight", "car")]
    assert parallel == completed[::-1], "the taxi, which failed, and what has no undo handler are left alone"
    assert [steps[f"undo {name}"].undoes for name in parallel] == parallel
    assert all(steps[f"undo {name}"].kind == "run" and steps[f"undo {name}"].output is None for name in parallel)
    assert len(trip.log) == 4 + 3
    assert run.info().undoing == ""


@both_layouts
def test_a_cancelled_run_undoes_its_steps_and_ends_as_cancelled(
    app: Stepflow, run_worker: Callable[..., Any], partitions: int
) -> None:
    trip, heard = Trip(), list[dict[str, Any]]()

    async def tell(ctx: Context) -> None:
        heard.append(ctx.event.data)

    @app.function("trip", on_cancel=tell)
    def function(ctx: SyncContext) -> None:
        ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        ctx.step.run("flight", trip.book, "flight", undo=trip.unbook_sync)
        ctx.step.sleep("long", "1h")

    run_worker(app)
    run = app.start(function, {"order": 17})
    until(lambda: len(trip.log) == 2 and any(step.state == "waiting" for step in run.steps()))
    assert run.cancel("changed my mind") is True
    with pytest.raises(RunCancelledError, match="changed my mind"):
        run.result(30)
    assert trip.log[2:] == ["unbook flight", "unbook hotel"]
    assert run.cancel() is False
    until(lambda: heard)
    [data] = heard
    assert (data["function"], data["run_id"]) == ("shop/trip", run.id)
    assert data["error"]["message"] == "changed my mind"
    assert data["event"]["data"] == {"order": 17}


@both_layouts
def test_an_event_undoes_the_steps_of_a_run(app: Stepflow, run_worker: Callable[..., Any], partitions: int) -> None:
    trip = Trip()

    @app.function("trip", cancel_on=CancelOn("gone"))
    async def function(ctx: Context) -> None:
        await ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        await ctx.step.sleep("long", "1h")

    run_worker(app)
    run = app.start(function)
    until(lambda: step_states(run).get("long") == "waiting")
    app.send("gone")
    assert ended(run) is RunStatus.CANCELLED
    assert trip.log == ["book hotel", "unbook hotel"]


def test_undo_handlers_that_fail_are_retried_then_reported_and_the_others_run(
    app: Stepflow, run_worker: Callable[..., Any], url: str
) -> None:
    trip, heard = Trip(), list[Any]()
    trip.broken = {"undo hotel"}

    @app.function("trip", retries=1)
    async def function(ctx: Context) -> None:
        step = ctx.step.with_options(retries=2)
        await step.run("car", trip.book, "car", undo=trip.unbook)
        await step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        raise NonRetriableError("full")

    @app.function("alarm", event="stepflow/function.undo_failed")
    async def alarm(ctx: Context) -> None:
        heard.append(ctx.event.data)

    run_worker(app)
    run = app.start(function, 17)
    with pytest.raises(RunFailedError, match="full"):
        run.result(30)
    assert trip.log == ["book car", "book hotel", "unbook car"]
    [failed] = [step for step in run.steps() if step.undoes == "hotel"]
    assert (failed.state, failed.attempts) == ("failed", 3), "as often as the step, which has more than the function"
    assert [attempt.outcome for attempt in failed.history] == ["failed"] * 3
    until(lambda: heard)
    [data] = heard
    assert (data["run_id"], data["status"], data["event"]["data"]) == (run.id, "failed", 17)
    assert [(one["id"], one["error"]["message"]) for one in data["steps"]] == [("hotel", "hotel is kept")]
    assert "undo handlers of run" in call("doctor", "--redis-url", url).stdout
    assert "hotel is kept" in call("runs", "show", run.id, "--redis-url", url).stdout


def test_a_run_that_undoes_its_steps_says_so(app: Stepflow, run_worker: Callable[..., Any], url: str) -> None:
    trip, gate = Trip(), threading.Event()

    def unbook(_booking: Booking) -> None:
        gate.wait(300)

    @app.function("trip", retries=0)
    async def function(ctx: Context) -> None:
        await ctx.step.run("hotel", trip.book, "hotel", undo=unbook)
        raise ValueError("full")

    run_worker(app)
    run = app.start(function)
    try:
        until(lambda: run.info().undoing)
        assert not run.info().status.ended
        assert run.cancel() is False, "it ends as failed"
        until(lambda: "undo hotel" in str(run.explain()), what="the report on the handler")
        reason = run.explain()
        assert (reason.kind, reason.text) == (
            "undoing",
            "shop/trip is undoing its steps after it failed: ValueError: full",
        )
        assert "undoing its steps, ends as failed" in call("runs", "show", run.id, "--redis-url", url).stdout
        [listed] = as_json("runs", "list", "--redis-url", url)
        assert listed["undoing"] == "failed"
        assert "is undoing its steps, and ends as failed" in call("runs", "cancel", run.id, "--redis-url", url).stdout
        with pytest.raises(ForkError, match="is undoing its steps"):
            app.fork(run, before="hotel")
        with pytest.raises(RunEndedError, match="is undoing its steps, and ends as failed then") as refused:
            run.signal("go")
        assert refused.value.status == "failed"
    finally:
        gate.set()
    assert ended(run) is RunStatus.FAILED


@both_layouts
def test_a_parent_waits_for_the_undo_of_its_child(
    app: Stepflow, run_worker: Callable[..., Any], partitions: int
) -> None:
    trip = Trip()

    @app.function("child", retries=0)
    async def child(ctx: Context) -> None:
        await ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        await ctx.step.sleep("long", "1h")

    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> str:
        await ctx.step.run("car", trip.book, "car", undo=trip.unbook)
        try:
            await ctx.step.invoke("child", child)
        except InvokeCancelledError:
            trip.log.append("told")
            raise
        return "no error"

    run_worker(app)
    run = app.start(parent)
    until(lambda: any(step_states(one).get("long") == "waiting" for one in run.children()))
    run.children()[0].cancel("not the child")
    with pytest.raises(RunFailedError, match="not the child"):
        run.result(30)
    assert trip.log == ["book car", "book hotel", "unbook hotel", "told", "told", "unbook car"]
    trip.log.clear()
    run = app.start(parent)
    until(lambda: any(step_states(one).get("long") == "waiting" for one in run.children()))
    [waited_for] = run.children()
    run.cancel("both")
    assert ended(run) is ended(waited_for) is RunStatus.CANCELLED
    assert sorted(trip.log) == ["book car", "book hotel", "unbook car", "unbook hotel"]


def test_code_that_no_longer_requests_a_step_cannot_undo_it_and_says_so(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    trip, is_old = Trip(), [True]

    @app.function("trip", retries=0)
    async def function(ctx: Context) -> None:
        await ctx.step.run("car", trip.book, "car", undo=trip.unbook)
        if is_old[0]:
            await ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        await ctx.step.sleep("long", "1h")

    run_worker(app)
    run = app.start(function)
    until(lambda: step_states(run).get("long") == "waiting")
    is_old[0] = False
    run.cancel()
    assert ended(run) is RunStatus.CANCELLED
    assert trip.log[2:] == ["unbook car"]
    [failed] = [step for step in run.steps() if step.undoes == "hotel"]
    assert failed.error is not None
    assert failed.error.name == "UndoHandlerNotFoundError"
    assert "undo the step by hand" in failed.error.message


def test_code_between_steps_runs_only_over_its_memos_and_cannot_continue(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    trip, passes = Trip(), list[str]()

    @app.function("trip", retries=0)
    async def function(ctx: Context) -> None:
        await ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        passes.append("begun")
        if len(passes) == 1:
            raise NonRetriableError("full")
        try:  # the code has another idea now
            await ctx.step.run("another", trip.book, "another", undo=trip.unbook)
        except BaseException:
            passes.append("unwound")
            await ctx.step.run("stubborn", trip.book, "stubborn")

    run_worker(app)
    run = app.start(function)
    with pytest.raises(RunFailedError, match="full"):
        run.result(30)
    assert trip.log == ["book hotel", "unbook hotel"]
    assert passes == ["begun", "begun", "unwound"]


@both_layouts
def test_an_encrypted_run_is_undone_and_reported(
    url: str, run_worker: Callable[..., Any], partitions: int, client: Any
) -> None:
    app = Stepflow("vault", redis_url=url, encryption=Encryption([Encryption.generate_key()]))
    trip, heard = Trip(), list[Any]()
    trip.broken = {"undo car"}

    async def tell(ctx: Context) -> None:
        heard.append((ctx.event.name, ctx.event.data["event"]["data"]))

    @app.function("trip", retries=0, on_cancel=tell, on_failure=tell)
    async def function(ctx: Context) -> None:
        await ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        await ctx.step.run("car", trip.book, "car", undo=trip.unbook)
        if ctx.event.data == "secret failure":
            raise ValueError("private")
        await ctx.step.sleep("long", "1h")

    app.function("alarm", event="stepflow/function.undo_failed")(tell)
    run_worker(app)
    failed = app.start(function, "secret failure")
    with pytest.raises(RunFailedError, match="private"):
        failed.result(30)
    cancelled = app.start(function, "secret order")
    until(lambda: step_states(cancelled).get("long") == "waiting")
    cancelled.cancel()
    assert ended(cancelled) is RunStatus.CANCELLED
    assert [line for line in trip.log if line.startswith("un")] == ["unbook hotel"] * 2
    until(lambda: len(heard) == 4)
    assert Counter(heard) == {
        ("stepflow/function.failed", "secret failure"): 1,
        ("stepflow/function.cancelled", "secret order"): 1,
        ("stepflow/function.undo_failed", "secret failure"): 1,
        ("stepflow/function.undo_failed", "secret order"): 1,
    }
    [hook] = list(app.runs("trip-cancelled"))
    assert hook.event.data["event"]["data"] == "secret order"


def test_a_retry_executes_undone_steps_again_with_other_keys(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    trip, keys = Trip(), list[str]()
    trip.broken = {"taxi"}

    @app.function("trip", retries=0)
    async def function(ctx: Context) -> str:
        async def hotel() -> Booking:
            keys.append(ctx.step.idempotency_key)
            return await trip.book("hotel")

        await ctx.step.run("insurance", trip.book, "insurance")
        await ctx.step.run("hotel", hotel, undo=trip.unbook)
        await ctx.step.with_options(retries=0).run("taxi", trip.book, "taxi")
        return "booked"

    run_worker(app)
    run = app.start(function)
    with pytest.raises(RunFailedError):
        run.result(30)
    trip.broken = set()
    assert run.retry().result(30) == "booked"
    assert trip.log == ["book insurance", "book hotel", "unbook hotel", "book hotel", "book taxi"]
    assert len(set(keys)) == 2, "the undone booking is not found again by its key"


def test_a_fork_undoes_the_steps_that_it_has_taken_over(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    trip = Trip()

    @app.function("trip", retries=0)
    async def function(ctx: Context) -> str:
        await ctx.step.run("hotel", trip.book, "hotel", undo=trip.unbook)
        await ctx.step.with_options(retries=0).run("taxi", trip.book, "taxi", undo=trip.unbook)
        return "booked"

    run_worker(app)
    run = app.start(function)
    assert run.result(30) == "booked"
    trip.broken = {"taxi"}
    fork = app.fork(run, before="taxi")
    with pytest.raises(RunFailedError):
        fork.result(30)
    assert trip.log == ["book hotel", "book taxi", "unbook hotel"]


def test_wrong_uses_say_what_is_right(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    trip, messages = Trip(), list[str]()

    async def with_parameter(undo: bool) -> bool:
        return undo

    async def asks_again(ctx: Context, _booking: Booking) -> None:
        await ctx.step.run("inner", trip.book, "inner")

    @app.function("trip", retries=0)
    async def function(ctx: Context) -> None:
        step: Any = ctx.step
        for wrong in (
            lambda: step.run("a", trip.book, "a", undo="cancel"),
            lambda: step.run("b", with_parameter, undo=trip.unbook),
            lambda: step.with_options(undo=trip.unbook).sleep("c", 1),
            lambda: step.with_options(undo=trip.unbook).invoke("d", "trip"),
        ):
            try:
                await wrong()
            except StepUsageError as error:
                messages.append(str(error))
        await ctx.step.run("e", trip.book, "e", undo=lambda booking: asks_again(ctx, booking))
        raise NonRetriableError("full")

    run_worker(app)
    run = app.start(function)
    assert ended(run) is RunStatus.FAILED
    assert messages[0].startswith("step 'a': undo must be callable, got str")
    assert "functools.partial" in messages[1]
    assert messages[2:4] == [
        "with_options(undo=...) is for step.run, not for step.sleep: remove undo",
        "with_options(undo=...) is for step.run, not for step.invoke: remove undo",
    ]
    [failed] = [one for one in run.steps() if one.undoes == "e"]
    assert failed.error is not None
    assert "must not be inside the handler of another step" in failed.error.message


# -- kills -------------------------------------------------------------------------


@both_layouts
@pytest.mark.parametrize("function", ["trip", "trip-sync"])
@pytest.mark.parametrize("at", ["undo b", pytest.param("book c", marks=pytest.mark.slow)])
def test_each_completed_step_is_undone_in_order_though_workers_are_killed(
    url: str,
    client: Any,
    start_worker: Callable[..., Any],
    tmp_path: Path,
    partitions: int,
    function: str,
    at: str,
) -> None:
    app = Stepflow("saga", redis_url=url)
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    data = {"ledger": str(ledger), "gate": str(gate), "wait_at": at}
    first = start_worker("tests.integration.apps.saga:app", lease_ms=1_000)
    until(lambda: client.hexists("stepflow:functions", f"saga/{function}"), what="the registration")
    run = app.start(f"saga/{function}", data)
    until(lambda: at in whole_lines(ledger), what=at)
    others = {"a", "b", "c"} - {at.removeprefix("book ")}
    until(lambda: others <= {step.id for step in run.steps() if step.state == "done"}, what="the other commits")
    first.kill()
    gate.touch()
    start_worker("tests.integration.apps.saga:app", lease_ms=1_000)
    assert ended(run) is RunStatus.FAILED
    lines = whole_lines(ledger)
    completed = [step.id for step in run.steps() if not step.undoes]
    undone = [line.removeprefix("undo ") for line in lines if line.startswith("undo ")]
    in_order = list(dict.fromkeys(undone))
    assert in_order == completed[::-1] == [step.undoes for step in run.steps() if step.undoes]
    repeated = Counter(lines)
    assert repeated.pop(at) == 2, "what was executing is executed again"
    assert set(repeated.values()) == {1}, "what has ended is not"


@pytest.mark.slow
def test_a_run_whose_code_kills_its_workers_ends_and_reports_what_it_could_not_undo(
    url: str, client: Any, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    app = Stepflow("saga", redis_url=url)
    worker = start_worker("tests.integration.apps.saga:app", lease_ms=500)
    until(lambda: client.hexists("stepflow:functions", "saga/deadly"), what="the registration")
    run = app.start("saga/deadly", {"ledger": str(tmp_path / "ledger")})
    for _ in range(30):
        until(lambda worker=worker: run.status().ended or worker.process.poll() is not None, what="a death or the end")
        if run.status().ended:
            break
        worker = start_worker("tests.integration.apps.saga:app", lease_ms=500)
    assert run.status() is RunStatus.FAILED
    assert run.info().error is not None
    assert run.info().error.name == "PoisonError"
    assert "undo handlers of run" in call("doctor", "--redis-url", url).stdout
