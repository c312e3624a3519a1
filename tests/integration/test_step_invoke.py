"""step.invoke, case by case, against a real server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import redis
from pydantic import BaseModel

from stepflow import (
    Context,
    FunctionNotFoundError,
    InvokeCancelledError,
    InvokeError,
    InvokeSkippedError,
    InvokeTimeoutError,
    NonRetriableError,
    RateLimit,
    RunFailedError,
    RunSkippedError,
    RunStatus,
    Stepflow,
    SyncContext,
    reference_function,
)
from tests.support.processes import until


class Number(BaseModel):
    number: int


class Square(BaseModel):
    result: int


@pytest.fixture
def square(app: Stepflow):
    @app.function("compute-square", event="calculate/square")
    async def compute_square(ctx: Context[Number]) -> Square:
        return Square(result=ctx.event.data.number**2)

    return compute_square


@pytest.mark.parametrize("sticky", [0, 100])
def test_a_child_completes_and_its_result_is_typed(app: Stepflow, square, run_worker, sticky: int) -> None:
    seen: list[Any] = []

    @app.function("main", event="main/event")
    async def main(ctx: Context) -> str:
        result = await ctx.step.invoke("value", square, data={"number": 4})
        seen.append(result)
        return f"Square of 4 is {result.result}."

    run_worker(app, sticky=sticky)
    assert app.invoke(main, timeout=20) == "Square of 4 is 16."
    assert set(map(repr, seen)) == {"Square(result=16)"}


@pytest.mark.parametrize(
    "how",
    [
        lambda square: reference_function("compute-square", output=Square),
        lambda square: reference_function("compute-square", app_id="shop", input=Number, output=Square),
    ],
)
def test_references_are_typed_too(app: Stepflow, square, run_worker, how) -> None:
    @app.function("main")
    async def main(ctx: Context) -> bool:
        return await ctx.step.invoke("value", how(square), data={"number": 3}) == Square(result=9)

    run_worker(app)
    assert app.invoke(main, timeout=20) is True


@pytest.mark.parametrize("name", ["compute-square", "shop/compute-square"])
def test_a_string_id_works_and_gives_plain_data(app: Stepflow, square, run_worker, name: str) -> None:
    @app.function("main")
    async def main(ctx: Context) -> Any:
        return await ctx.step.invoke("value", name, data={"number": 3})

    run_worker(app)
    assert app.invoke(main, timeout=20) == {"result": 9}


def test_a_sync_function_invokes_alone_and_in_parallel(app: Stepflow, square, run_worker) -> None:
    @app.function("main")
    def main(ctx: SyncContext) -> list[int]:
        first = ctx.step.invoke("one", square, data={"number": 2})
        others = ctx.step.parallel(*[lambda n=n: ctx.step.invoke("n", square, data={"number": n}) for n in (3, 4)])
        return [first.result, *[other.result for other in others]]

    run_worker(app)
    assert app.invoke(main, timeout=20) == [4, 9, 16]


@pytest.mark.parametrize("sticky", [0, 100])
def test_children_in_gathers_groups_and_loops(app: Stepflow, square, run_worker, sticky: int) -> None:
    @app.function("main")
    async def main(ctx: Context) -> list[int]:
        gathered = await asyncio.gather(*[ctx.step.invoke("g", square, data={"number": n}) for n in range(20)])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step.invoke("t", square, data={"number": n})) for n in range(3)]
        looped = [await ctx.step.invoke("l", square, data={"number": n}) for n in range(3)]
        mixed = await asyncio.gather(ctx.step.run("r", lambda: 7), ctx.step.invoke("m", square, data={"number": 5}))
        return [r.result for r in [*gathered, *[t.result() for t in tasks], *looped, mixed[1]]] + [mixed[0]]

    run_worker(app, sticky=sticky)
    squares = [n * n for n in range(20)] + [0, 1, 4] + [0, 1, 4] + [25, 7]
    assert app.invoke(main, timeout=30) == squares


def test_functions_invoke_themselves_to_any_depth(app: Stepflow, run_worker) -> None:
    @app.function("factorial")
    async def factorial(ctx: Context) -> int:
        n = ctx.event.data
        return 1 if n <= 1 else n * await ctx.step.invoke("less", "factorial", data=n - 1)

    run_worker(app)
    assert app.invoke(factorial, 20, timeout=30) == 2_432_902_008_176_640_000


def test_a_cycle_of_invokes_ends_with_a_clear_error(app: Stepflow, run_worker) -> None:
    runs = []

    @app.function("forever")
    async def forever(ctx: Context) -> None:
        runs.append(1)
        await ctx.step.invoke("again", "forever")

    run_worker(app)
    with pytest.raises(RunFailedError, match="check the functions for a cycle of invokes"):
        app.invoke(forever, timeout=60)
    assert len(set(runs)) >= 1


def test_a_failing_child_tells_everything_and_fails_its_parent_at_once(app: Stepflow, run_worker) -> None:
    calls: list[str] = []

    def chain(name: str, following: str | None) -> None:
        @app.function(name, retries=2)
        async def link(ctx: Context) -> None:
            if following is None:
                calls.append(name)
                raise ValueError("broken") from KeyError("cause")
            await ctx.step.invoke("next", following)

    for name, following in (("A", "B"), ("B", "C"), ("C", "D"), ("D", None)):
        chain(name, following)

    @app.function("catcher")
    async def catcher(ctx: Context) -> list[Any]:
        try:
            await ctx.step.invoke("a", "D")
        except InvokeError as error:
            final = isinstance(error, NonRetriableError)
            return [final, error.name, error.message, error.cause and error.cause.name, error.function_id]
        return []

    run_worker(app)
    with pytest.raises(RunFailedError, match="broken"):
        app.invoke("A", timeout=30)
    assert calls == ["D"] * 3
    assert app.invoke(catcher, timeout=30) == [True, "ValueError", "broken", "KeyError", "shop/D"]


def test_a_function_that_does_not_exist_is_said_so_promptly(app: Stepflow, run_worker) -> None:
    @app.function("main")
    async def main(ctx: Context) -> str:
        try:
            await ctx.step.invoke("x", "nothing", timeout="1h")
        except FunctionNotFoundError as error:
            return str(error)
        return "?"

    run_worker(app)
    assert app.invoke(main, timeout=20) == "could not find function with ID: nothing"


def test_a_function_whose_worker_is_not_there_is_waited_for(app: Stepflow, url: str, client, run_worker) -> None:
    other = Stepflow("other", redis_url=url)

    @other.function("later")
    async def later(ctx: Context) -> str:
        return "came"

    @app.function("main")
    async def main(ctx: Context) -> str:
        return await ctx.step.invoke("x", "other/later")

    run_worker(other).stop()
    run_worker(app)
    run = app.start(main)
    until(lambda: client.zcard("stepflow:live") == 2)
    assert run.status() in (RunStatus.RUNNING, RunStatus.WAITING)
    run_worker(other)
    assert run.result(20) == "came"


def test_a_timeout_leaves_the_child_running_and_its_finish_changes_nothing(app: Stepflow, run_worker) -> None:
    gate = threading.Event()

    @app.function("slow")
    async def slow(ctx: Context) -> str:
        return await ctx.step.run("wait", lambda: gate.wait(30) and "late")

    @app.function("main")
    async def main(ctx: Context) -> list[str]:
        try:
            await ctx.step.invoke("x", slow, timeout=0.2)
        except InvokeTimeoutError as error:
            await ctx.step.run("open", gate.set)
            return [error.run_id, error.message]
        return []

    run_worker(app)
    child, message = app.invoke(main, timeout=20)
    assert message == "function shop/slow did not finish within 200ms"
    assert app.run(child).result(20) == "late"


def test_a_cancelled_child_is_told_to_its_parent(app: Stepflow, run_worker, client: redis.Redis) -> None:
    @app.function("slow")
    async def slow(ctx: Context) -> None:
        await ctx.step.run("wait", lambda: threading.Event().wait(3))

    @app.function("main")
    async def main(ctx: Context) -> str:
        try:
            await ctx.step.invoke("x", slow)
        except InvokeCancelledError as error:
            return error.message
        return "?"

    run_worker(app)
    run = app.start(main)
    until(lambda: client.zcard("stepflow:live") == 2)
    (child,) = set(client.zrange("stepflow:live", 0, -1)) - {run.id}
    app.run(child).cancel("enough")
    assert run.result(20) == "enough"


@pytest.mark.parametrize("children", [True, False])
def test_cancelling_a_parent_cancels_its_children_or_leaves_them(
    app: Stepflow, run_worker, client: redis.Redis, children: bool
) -> None:
    gate = threading.Event()

    @app.function("leaf")
    async def leaf(ctx: Context) -> str:
        return await ctx.step.run("wait", lambda: gate.wait(30) and "done")

    @app.function("middle")
    async def middle(ctx: Context) -> list[str]:
        return await asyncio.gather(*[ctx.step.invoke("leaf", leaf) for _ in range(2)])

    @app.function("main")
    async def main(ctx: Context) -> list[str]:
        return await ctx.step.invoke("middle", middle)

    run_worker(app)
    run = app.start(main)
    until(lambda: client.zcard("stepflow:live") == 4)
    below = set(client.zrange("stepflow:live", 0, -1)) - {run.id}
    assert run.cancel(children=children) is True
    gate.set()
    until(lambda: client.zcard("stepflow:live") == 0)
    statuses = {app.run(child).status() for child in below}
    assert statuses == ({RunStatus.CANCELLED} if children else {RunStatus.COMPLETED})


def test_a_rate_limited_child_is_skipped_and_its_parent_told(app: Stepflow, square, run_worker) -> None:
    @app.function("limited", rate_limit=RateLimit(2, "1h", key="event.data.user"))
    async def limited(ctx: Context) -> str:
        return "ran"

    @app.function("main")
    async def main(ctx: Context) -> list[str]:
        results = []
        for user in ("a", "a", "a", "b"):
            try:
                results.append(await ctx.step.invoke("x", limited, data={"user": user}))
            except InvokeSkippedError as error:
                results.append(error.reason)
        return results

    run_worker(app)
    assert app.invoke(main, timeout=20) == ["ran", "ran", "rate limited", "ran"]
    run = app.start(limited, {"user": "a"})
    assert run.status() is RunStatus.SKIPPED
    with pytest.raises(RunSkippedError, match="rate limited"):
        run.result(5)


def test_a_child_whose_input_is_refused_fails_its_parent_with_the_validation_message(
    app: Stepflow, square, run_worker
) -> None:
    @app.function("main")
    async def main(ctx: Context) -> None:
        await ctx.step.invoke("x", square, data={"number": "four"})

    run_worker(app)
    with pytest.raises(RunFailedError, match="number: Input should be a valid integer"):
        app.invoke(main, timeout=20)


@pytest.mark.parametrize(
    ("function", "data", "timeout", "text"),
    [
        (7, None, None, "must be a function of"),
        ("", None, None, "invoke: function id"),
        ("compute-square", object(), None, "must be JSON"),
        ("compute-square", "x" * 600_000, None, "at most 524,288"),
        ("compute-square", None, -1, "must not be negative"),
        ("compute-square", None, "soon", "must be a duration"),
        ("compute-square", None, "400d", "at most 366d"),
    ],
)
def test_an_invoke_that_cannot_be_is_refused_and_not_retried(
    app: Stepflow, square, run_worker, function: Any, data: Any, timeout: Any, text: str
) -> None:
    passes = []

    @app.function("main")
    async def main(ctx: Context) -> None:
        passes.append(1)
        await ctx.step.invoke("x", function, data=data, timeout=timeout)

    run_worker(app)
    with pytest.raises(RunFailedError, match=text):
        app.invoke(main, timeout=20)
    assert passes == [1]


def test_a_reference_needs_a_function_id() -> None:
    with pytest.raises(ValueError, match="reference_function"):
        reference_function("")


def test_an_invoke_inside_a_handler_is_refused(app: Stepflow, square, run_worker) -> None:
    @app.function("main")
    async def main(ctx: Context) -> None:
        async def handler() -> None:
            await ctx.step.invoke("x", square, data={"number": 1})

        await ctx.step.run("outer", handler)

    run_worker(app)
    with pytest.raises(RunFailedError, match="inside the handler of another step"):
        app.invoke(main, timeout=20)


def test_waiting_parents_hold_no_slot(app: Stepflow, run_worker) -> None:
    @app.function("leaf")
    async def leaf(ctx: Context) -> int:
        return await ctx.step.run("one", lambda: 1)

    @app.function("main")
    async def main(ctx: Context) -> int:
        return sum(await asyncio.gather(*[ctx.step.invoke("leaf", leaf) for _ in range(5)]))

    run_worker(app, concurrency=1)
    runs = [app.start(main) for _ in range(5)]
    assert [run.result(30) for run in runs] == [5] * 5


def test_ended_runs_leave_nothing_behind(app: Stepflow, square, run_worker, client: redis.Redis) -> None:
    @app.function("main")
    async def main(ctx: Context) -> int:
        results = await asyncio.gather(*[ctx.step.invoke("x", square, data={"number": n}) for n in range(10)])
        return sum(result.result for result in results)

    run_worker(app)
    assert app.invoke(main, timeout=20) == 285
    until(lambda: client.xlen("stepflow:finished") == 0)
    assert client.zcard("stepflow:live") == client.zcard("stepflow:timeouts") == client.zcard("stepflow:leases") == 0
    assert client.keys("stepflow:timeout:*") == client.keys("stepflow:steps:*") == client.keys("rq:job:*") == []
    assert client.xpending("stepflow:finished", "stepflow")["pending"] == 0
