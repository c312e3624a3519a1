"""Handles of children: start, wait, time out, cancel, and what becomes of the children when their parent ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stepflow import (
    ChildHandle,
    Concurrency,
    Context,
    Encryption,
    FunctionNotFoundError,
    InvokeCancelledError,
    InvokeError,
    InvokeTimeoutError,
    NonRetriableError,
    Run,
    RunFailedError,
    RunStatus,
    Stepflow,
    StepUsageError,
    SyncContext,
)
from tests.support.processes import WorkerThread, until

pytestmark = pytest.mark.roles("producer", "operator")


@pytest.fixture
def app(url: str) -> Stepflow:
    app = Stepflow("family", redis_url=url)

    @app.function("square")
    async def square(ctx: Context) -> int:
        return int(ctx.event.data["n"] ** 2)

    @app.function("patient")
    async def patient(ctx: Context) -> str:
        await ctx.step.wait_for_signal("go", "go")
        return "went"

    @app.function("fails", retries=0)
    async def fails(ctx: Context) -> None:
        raise NonRetriableError("no paper")

    return app


def child_of(app: Stepflow, run: Run) -> Run:
    """The only child of a run, when it has one."""
    until(lambda: run.children(), what="a child")
    (child,) = run.children()
    return app.run(child.id)


def waits(run: Run) -> bool:
    return run.status() is RunStatus.WAITING


def test_children_run_while_the_parent_continues_and_their_results_are_received_in_any_order(
    app: Stepflow, run_worker
) -> None:
    passes: list[int] = []

    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> list[int]:
        passes.append(1)
        children = [await ctx.step.start_child(f"square {n}", "square", {"n": n}) for n in range(3)]
        await ctx.step.run("between", lambda: None)
        last = await children[2].result()
        await ctx.step.sleep("nap", "10ms")
        both = await asyncio.gather(children[0].result(timeout="1h"), children[1].result())
        return [*both, last, await children[2].result()]

    @app.function("plain")
    def plain(ctx: SyncContext) -> list[int]:
        one = ctx.step.start_child("one", "square", {"n": 1})
        two = ctx.step.start_child("two", "square", {"n": 2})
        return ctx.step.parallel(lambda: two.result(timeout="1m"), one.result)

    run_worker(app)
    run = app.start(parent)
    assert run.result(timeout=20) == [0, 1, 4, 4]
    steps = {(step.id, step.kind): step for step in run.steps()}
    assert {kind for id, kind in steps if id == "square 0"} == {"start", "invoke"}
    assert len(run.children()) == 3
    assert app.invoke(plain, timeout=20) == [4, 1]


@pytest.mark.parametrize("sticky", [0, 100])
def test_a_parent_is_replayed_with_the_ends_of_its_children(app: Stepflow, run_worker, sticky: int) -> None:
    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> list[str]:
        child = await ctx.step.start_child("child", "patient")
        seen = []
        for n in range(2):
            try:
                seen.append(await child.result(timeout="50ms"))
            except InvokeTimeoutError as error:
                seen.append(f"late: {error.run_id == child.id}")
            await ctx.step.run(f"after {n}", lambda: None)
        other = await ctx.step.start_child("fails", "fails")
        try:
            await other.result()
        except InvokeError as error:
            seen.append(error.message)
        await ctx.step.run("go", lambda: app.run(child.id).signal("go"))
        return [*seen, await child.result()]

    run_worker(app, sticky=sticky)
    assert app.invoke(parent, timeout=20) == ["late: True", "late: True", "no paper", "went"]


def test_a_child_that_cannot_start_or_takes_too_long_or_is_cancelled_raises_as_an_invoke_does(
    app: Stepflow, run_worker
) -> None:
    async def error_of(call: Callable[[], object], kind: type[InvokeError]) -> str:
        try:
            await call()  # type: ignore[misc]
        except kind as error:
            return type(error).__name__
        return "none"

    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> list[str]:
        none = await error_of(lambda: ctx.step.start_child("none", "nobody"), FunctionNotFoundError)
        slow = await ctx.step.start_child("slow", "patient", timeout="50ms")
        left = await ctx.step.start_child("left", "patient", timeout="50ms", parent_close="leave")
        lost = await ctx.step.start_child("lost", "patient")
        lost.cancel()
        late = [await error_of(one.result, InvokeTimeoutError) for one in (slow, left)]
        return [none, *late, await error_of(lost.result, InvokeCancelledError), slow.id, left.id, lost.id]

    run_worker(app)
    *errors, slow, left, lost = app.invoke(parent, timeout=20)
    assert errors == ["FunctionNotFoundError", *["InvokeTimeoutError"] * 2, "InvokeCancelledError"]
    assert [app.run(id).status() for id in (slow, left, lost)] == ["cancelled", "waiting", "cancelled"]


@pytest.mark.parametrize("end", ["completes", "fails", "is cancelled"])
def test_what_becomes_of_the_children_when_their_parent_ends_first(app: Stepflow, run_worker, end: str) -> None:
    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> str:
        for close in ("cancel", "leave", "wait"):
            await ctx.step.start_child(close, "patient", {"close": close}, parent_close=close)  # type: ignore[call-overload]
        if end == "is cancelled":
            await ctx.step.sleep("long", "1h")
        if end == "fails":
            raise NonRetriableError("no")
        return "done"

    run_worker(app)
    run = app.start(parent)
    until(lambda: len(run.children()) == 3 and waits(run), what="the parent waits")
    children = {child.event.data["close"]: app.run(child.id) for child in run.children()}
    cancelled, left, awaited = (children[close] for close in ("cancel", "leave", "wait"))
    if end == "is cancelled":
        run.cancel()
        until(lambda: cancelled.status() is awaited.status() is RunStatus.CANCELLED)
    else:
        until(lambda: "the run ends when its children have ended" in str(run.explain()))
        assert (cancelled.status(), awaited.status()) == (RunStatus.WAITING, RunStatus.WAITING)
        awaited.signal("go")
        assert awaited.result(timeout=20) == "went"
        until(lambda: run.status().ended)
        until(lambda: cancelled.status() is RunStatus.CANCELLED)
    expected = {"completes": "completed", "fails": "failed", "is cancelled": "cancelled"}[end]
    assert run.status() == expected
    assert left.status() is RunStatus.WAITING
    assert {child.id for child in run.children()} == {cancelled.id, left.id, awaited.id}
    left.signal("go")
    assert left.result(timeout=20) == "went"


def test_a_bad_argument_is_refused_where_it_is_written(app: Stepflow, run_worker) -> None:
    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> None:
        if ctx.event.data["bad"] == "close":
            await ctx.step.start_child("a", "square", parent_close="stop")  # type: ignore[call-overload]
        if ctx.event.data["bad"] == "function":
            await ctx.step.start_child("a", 7)  # type: ignore[call-overload]
        child: ChildHandle[object] = await ctx.step.start_child("a", "patient")
        await child.result(timeout="soon")

    run_worker(app)
    for bad, says in {
        "close": "parent_close must be one of 'cancel', 'leave', 'wait', got 'stop'",
        "function": "start_child: function must be",
        "timeout": "result: timeout must be a duration, got 'soon'",
    }.items():
        with pytest.raises(RunFailedError, match=says) as failed:
            app.invoke(parent, {"bad": bad}, timeout=20)
        assert failed.value.name == StepUsageError.__name__


def test_a_parent_whose_worker_dies_while_it_waits_for_its_children_ends_after_them(app: Stepflow, run_worker) -> None:
    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> str:
        await ctx.step.start_child("child", "patient", parent_close="wait")
        return "done"

    first: WorkerThread = run_worker(app)
    run = app.start(parent)
    child = child_of(app, run)
    until(lambda: waits(run) and waits(child))
    first.stop()
    child.signal("go")
    assert run.status() is not RunStatus.COMPLETED
    run_worker(app)
    assert run.result(timeout=20) == "done"
    assert child.status() is RunStatus.COMPLETED


@pytest.mark.parametrize("limits", [{}, {"concurrency": Concurrency(limit=9)}], ids=["near", "pinned"])
def test_a_retry_keeps_the_children_that_completed_and_starts_the_others_again(
    url: str, run_worker, limits: dict[str, Concurrency]
) -> None:
    app = Stepflow("family", redis_url=url, encryption=Encryption(keys=[Encryption.generate_key()]))
    broken = [True]

    @app.function("half", retries=0, **limits)  # type: ignore[call-overload]
    async def half(ctx: Context) -> str:
        if ctx.event.data["fails"] and broken:
            raise NonRetriableError("no paper")
        return f"half {ctx.event.data['fails']}"

    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> list[str]:
        children = [await ctx.step.start_child(f"fails {n}", "half", {"fails": bool(n)}) for n in range(2)]
        return [await child.result() for child in children] + [child.id for child in children]

    run_worker(app)
    run = app.start(parent)
    with pytest.raises(RunFailedError, match="no paper"):
        run.result(timeout=20)
    first = [child.id for child in run.children()]
    broken.clear()
    *results, kept, again = run.retry().result(timeout=20)
    assert results == ["half False", "half True"]
    assert kept in first
    assert again not in first


def test_a_run_names_children_that_it_has_not_waited_for(app: Stepflow, run_worker) -> None:
    @app.function("parent")
    async def parent(ctx: Context) -> None:
        waits = asyncio.create_task(ctx.step.invoke("left", "patient"))
        lost = asyncio.create_task(ctx.step.invoke("lost", "patient"))
        await ctx.step.sleep("nap", "10ms")
        lost.cancel()
        await ctx.step.sleep("rest", "10ms")
        del waits

    run_worker(app)
    run = app.start(parent)
    run.result(timeout=20)
    assert sorted(child.status() for child in run.children()) == ["cancelled", "waiting"]
    assert {step.id: step.state for step in run.steps()} == {
        "nap": "done",
        "rest": "done",
        "left": "unfinished",
        "lost": "unfinished",
    }
