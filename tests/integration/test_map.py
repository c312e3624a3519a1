"""``step.map`` with real workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from stepflow import (
    Concurrency,
    Context,
    Encryption,
    InvokeError,
    Limits,
    MapFailedError,
    MapProgress,
    NonRetriableError,
    RetryAfterError,
    RunFailedError,
    RunStatus,
    Stepflow,
    SyncContext,
)
from tests.support.command_line import as_json, call
from tests.support.processes import until

pytestmark = pytest.mark.roles("producer", "operator")
both_layouts = pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])


class Gauge:
    """A handler that counts its calls, and how many of them there are at once."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.now = self.most = 0

    async def __call__(self, item: int) -> int:
        self.calls.append(item)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return item * item


def test_a_map_calls_the_handler_for_each_item_and_returns_the_results_in_order(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    gauge = Gauge()

    @app.function("squares")
    async def squares(ctx: Context) -> list[int]:
        results = await ctx.step.map("square", gauge, range(250), at_once=7)
        return [*results, len(results.failures)]

    @app.function("blocking")
    def blocking(ctx: SyncContext) -> list[int]:
        return ctx.step.map("double", lambda item: item * 2, [1, 2, 3])

    @app.function("empty")
    async def empty(ctx: Context) -> list[int]:
        return await ctx.step.map("none", gauge, [])

    run_worker(app, concurrency=20)
    run = app.start(squares)
    assert run.result(timeout=20) == [*[item * item for item in range(250)], 0]
    assert sorted(gauge.calls) == list(range(250))
    assert 1 < gauge.most <= 7
    assert app.start(blocking).result(timeout=20) == [2, 4, 6]
    assert app.start(empty).result(timeout=20) == []
    (step,) = run.steps()
    assert (step.id, step.kind, step.state) == ("square", "map", "done")


@both_layouts
def test_a_map_invokes_a_function_for_each_item(app: Stepflow, run_worker: Callable[..., Any], partitions: int) -> None:
    @app.function("square", concurrency=[Concurrency(5)])  # so its runs are in one partition
    async def square(ctx: Context) -> int:
        if ctx.event.data["number"] == 13:
            raise NonRetriableError("unlucky")
        return int(ctx.event.data["number"]) ** 2

    @app.function("all")
    async def every(ctx: Context) -> list[int]:
        items = [{"number": number} for number in range(ctx.event.data)]
        return await ctx.step.map("square", square, items, at_once=5, timeout="1m")

    @app.function("tolerant")
    async def tolerant(ctx: Context) -> list[Any]:
        results = await ctx.step.map("square", "square", [{"number": number} for number in range(20)], tolerate=0.05)
        (failure,) = results.failures
        assert isinstance(failure.error, InvokeError)
        return [results[12:15], failure.index, failure.run_id, str(failure.error), sum(results.results)]

    run_worker(app, concurrency=10)
    twelve = app.start(every, 12)
    assert twelve.result(timeout=30) == [number * number for number in range(12)]
    assert sorted(child.event.data["number"] for child in twelve.children()) == list(range(12))
    assert {child.id for child in app.runs(parent=twelve)} == {child.id for child in twelve.children()}
    run = app.start(tolerant)
    expected = sum(number * number for number in range(20) if number != 13)
    around, index, run_id, text, total = run.result(timeout=30)
    assert (around, index, text, total) == ([144, None, 196], 13, "unlucky", expected)
    assert app.run(run_id).event.data == {"number": 13}
    with pytest.raises(
        RunFailedError, match=r"1 of 15 items failed, and 0 may fail.*item 13: NonRetriableError: unlucky"
    ):
        app.start(every, 15).result(timeout=30)


def test_too_many_failures_fail_the_step_with_all_of_them(
    app: Stepflow, run_worker: Callable[..., Any], url: str
) -> None:
    calls: list[int] = []

    async def check(item: int) -> int:
        calls.append(item)
        if item % 10 == 3:
            raise ValueError(f"no {item}")
        return item

    @app.function("f")
    async def f(ctx: Context) -> list[Any]:
        step = ctx.step.with_options(retries=1)
        try:
            await step.map("check", check, range(200), at_once=1, tolerate=2)
        except MapFailedError as error:
            first, *_ = error.failures
            seen = (
                [one.index for one in error.failures],
                first.run_id,
                str(first.error),
                "no 3" in first.error.traceback,
            )
            return [*seen, error.count, error.completed, await ctx.step.run("text", str, error)]
        return []

    run_worker(app)
    run = app.start(f)
    text = (
        "step 'check': 3 of 200 items failed, and 2 may fail; 176 were not executed; "
        "the first is item 3: ValueError: no 3"
    )
    first = "step 'check[3]' failed: ValueError: no 3"
    assert run.result(timeout=30) == [[3, 13, 23], "", first, True, 200, 21, text]
    assert [calls.count(item) for item in (2, 3, 13, 23, 24)] == [1, 2, 2, 2, 0]
    step, _ = run.steps()
    assert (step.kind, step.state, step.map) == ("map", "failed", MapProgress(200, 21, 3))
    shown = as_json("runs", "show", run.id, "--redis-url", url)
    assert shown["steps"][0]["map"] == {"count": 200, "completed": 21, "failed": 3, "open": 0}
    assert "3 of 200 items failed" in call("runs", "show", run.id, "--redis-url", url).stdout


class Number(BaseModel):
    value: int


async def to_number(item: int) -> Number:
    if item == 1:
        raise NonRetriableError("one")
    return Number(value=item)


def test_results_are_typed_and_items_have_what_steps_have(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    keys: list[str] = []

    @app.function("typed")
    async def typed(ctx: Context) -> list[Any]:
        numbers = await ctx.step.map("numbers", to_number, [0, 1, 2], tolerate=0.4)
        assert isinstance(numbers[0], Number)
        assert [one.value for one in numbers.results] == [0, 2]

        def beat(item: str) -> str:
            keys.append(ctx.step.idempotency_key)
            ctx.step.heartbeat(item)
            return item.upper()

        slow = ctx.step.with_options(timeout="50ms", retries=0)
        late = await slow.map("late", asyncio.sleep, [0, 30], tolerate=1)
        isolated = await ctx.step.with_options(isolate="process").map("isolated", to_number, [5])
        upper = await ctx.step.map("beat", beat, ["a", "b"])
        return [numbers[1], upper, late.failures[0].error.name, isolated[0].value]

    run_worker(app)
    run = app.start(typed)
    assert run.result(timeout=30) == [None, ["A", "B"], "TimeoutError", 5]
    assert len(set(keys)) == 2
    assert all(key.startswith(run.id) for key in keys)


def test_a_map_is_seen_while_it_executes_and_ends_with_its_run(
    app: Stepflow, run_worker: Callable[..., Any], url: str, client: Any
) -> None:
    started, go = threading.Semaphore(0), threading.Event()

    def wait(item: int) -> int:
        started.release()
        go.wait(20)
        return item

    @app.function("f")
    async def f(ctx: Context) -> list[int]:
        return await ctx.step.map("wait", wait, range(1_000), at_once=4)

    run_worker(app, concurrency=2)
    run = app.start(f)
    assert started.acquire(timeout=20)
    assert started.acquire(timeout=20)
    until(lambda: run.steps()[0].kind == "map", what="the map")
    step, *items = run.steps()
    assert (step.state, step.map) == ("running", MapProgress(1_000, 0, 0, open=4))
    assert [item.id for item in items] == ["wait[0]", "wait[1]"]
    assert "0 of 1,000 items, 4 open" in call("runs", "show", run.id, "--redis-url", url).stdout
    reason = as_json("explain", run.id, "--redis-url", url)
    (of_map,) = [one for one in reason["because"] if one["kind"] == "map"]
    assert of_map["text"] == "step 'wait' has 0 of 1,000 results, 0 failed; 4 items are open, 996 are left"
    assert [one["subject"] for one in of_map["because"]] == ["wait[0]", "wait[1]"]
    run.cancel()
    go.set()
    until(lambda: run.status().ended, what="the end")
    until(lambda: not client.keys("*:items:*") + client.keys("rq:job:*-*"), what="nothing to be left")


def test_items_that_are_not_those_of_the_beginning_are_refused(
    app: Stepflow, run_worker: Callable[..., Any], url: str
) -> None:
    def code(items: list[int]) -> Stepflow:
        made = Stepflow("changed", redis_url=url)

        async def later(item: int) -> None:
            raise RetryAfterError("later", "300ms")

        @made.function("f", retries=0)
        async def f(ctx: Context) -> None:
            await ctx.step.with_options(retries=1).map("x", later, items)

        return made

    old = code([1, 2, 3])
    worker = run_worker(old)
    run = old.start("f")
    until(lambda: any(step.state == "retrying" for step in run.steps()), what="the first attempts")
    worker.stop()
    run_worker(code([1, 2]))
    with pytest.raises(
        RunFailedError, match=r"MapItemsError: step 'x' began with other items \(3 then, 2 now\)"
    ) as caught:
        run.result(timeout=30)
    assert caught.value.name == "MapItemsError"


def test_a_map_that_the_code_gives_up_cancels_the_children_of_its_items(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    @app.function("long")
    async def long(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("f")
    async def f(ctx: Context) -> str:
        race = [ctx.step.map("long", long, [1, 2, 3], at_once=2), ctx.step.sleep("short", "300ms")]
        tasks = [asyncio.ensure_future(one) for one in race]
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return await ctx.step.run("after", lambda: "after")

    run_worker(app)
    run = app.start(f)
    assert run.result(timeout=30) == "after"
    children = list(app.runs("long"))
    assert {child.id for child in run.children()} == {child.id for child in children}
    assert len(children) == 2
    until(lambda: all(one.status() is RunStatus.CANCELLED for one in children), what="the children to be cancelled")


def test_results_that_are_too_large_together_and_a_retry(url: str, run_worker: Callable[..., Any]) -> None:
    app, broken = Stepflow("shop", redis_url=url, limits=Limits(run_state_bytes=2_000)), [True]

    def fill(item: int) -> str:
        if broken[0] and item == 2:
            raise NonRetriableError("not yet")
        return "x" * item

    @app.function("large")
    async def large(ctx: Context) -> list[str]:
        return await ctx.step.map("large", fill, [1_500] * 50, at_once=1)

    @app.function("f")
    async def f(ctx: Context) -> list[str]:
        return await ctx.step.map("fill", fill, [1, 2, 3])

    run_worker(app)
    with pytest.raises(RunFailedError, match=r"LimitError: the memos of a run must be at most 2,000 bytes"):
        app.start(large).result(timeout=30)
    run = app.start(f)
    with pytest.raises(RunFailedError, match="not yet"):
        run.result(timeout=30)
    broken[0] = False
    assert run.retry().result(timeout=30) == ["x", "xx", "xxx"]


@both_layouts
def test_what_is_stored_of_a_map_is_encrypted(
    url: str, run_worker: Callable[..., Any], client: Any, partitions: int
) -> None:
    app = Stepflow("shop", redis_url=url, encryption=Encryption(["k" * 43 + "="]))

    @app.function("child", concurrency=[Concurrency(5)])
    async def child(ctx: Context) -> str:
        if ctx.event.data["word"] == "plum":
            raise NonRetriableError("secret plum")
        return f"secret {ctx.event.data['word']}"

    def upper(word: str) -> str:
        if word == "pear":
            raise NonRetriableError("secret pear")
        return f"secret {word}".upper()

    @app.function("f")
    async def f(ctx: Context) -> list[Any]:
        words = await ctx.step.map("words", upper, ["fig", "pear"], tolerate=1)
        children = await ctx.step.map("children", child, [{"word": "kiwi"}, {"word": "plum"}], tolerate=1)
        await ctx.step.sleep("nap", "100ms")
        return [*words, words.failures[0].error.message, *children, children.failures[0].error.message]

    run_worker(app)
    run = app.start(f)
    assert run.result(timeout=30) == ["SECRET FIG", None, "secret pear", "secret kiwi", None, "secret plum"]
    stored = str([client.hgetall(key) for key in client.keys("*:memos:*")])
    assert '"failed":1' in stored
    assert "secret" not in stored.lower()
    assert run.rerun().result(timeout=30) == run.result()
    assert app.fork(run, before="nap").result(timeout=30) == run.result()


def test_each_round_of_a_run_may_have_a_map_with_the_same_id(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    @app.function("f")
    async def f(ctx: Context) -> list[int]:
        numbers = await ctx.step.map("double", lambda number: number * 2, ctx.event.data)
        if len(numbers) < 4:
            return ctx.continue_as_new([*numbers, 1])
        return numbers

    run_worker(app)
    assert app.start(f, [1, 1]).result(timeout=30) == [8, 8, 4, 2]
