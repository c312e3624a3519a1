"""Second chances: fork, retry and rerun of runs, with real workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from stepflow import (
    Batch,
    Concurrency,
    Context,
    Encryption,
    Event,
    EventError,
    ForkError,
    Run,
    RunFailedError,
    RunNotFoundError,
    RunStatus,
    Singleton,
    StepError,
    Stepflow,
    SyncContext,
)
from tests.support.processes import until

pytestmark = pytest.mark.roles("producer", "operator")
both_layouts = pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])


class Order(BaseModel):
    total: int


class Shop:
    """A function of three steps and a child, whose handlers fail on demand, and what they have done."""

    def __init__(self, app: Stepflow) -> None:
        self.calls: Counter[str] = Counter()
        self.keys: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.app = app

        @app.function("child", retries=0)
        async def child(ctx: Context) -> int:
            return int(await ctx.step.run("count", partial(self.do, ctx), "child", ctx.event.data))

        @app.function("order", retries=0)
        async def order(ctx: Context) -> list[Any]:
            step = ctx.step.with_options(retries=0)
            do = partial(self.do, ctx)
            price = await step.run("price", do, "price", ctx.event.data)
            stock = await ctx.step.invoke("stock", function=child, data=price)
            await ctx.step.sleep("nap", 0.01)
            charged = await step.run("charge", do, "charge", price + stock)
            sent = await step.run("charge", do, "send", charged)
            return [price, stock, charged, sent, ctx.event.data]

        self.child, self.order = child, order

    async def do(self, ctx: Context, name: str, value: int) -> int:
        self.calls[name] += 1
        self.keys.append((name, ctx.step.idempotency_key))
        if name in self.broken:
            raise ValueError(f"{name} is broken")
        return value + 1

    def failed(self, name: str) -> Run[Any]:
        """A run that has failed in a handler."""
        self.broken = {name}
        run = self.app.start(self.order, 1)
        with pytest.raises(RunFailedError):
            run.result(30)
        self.broken = set()
        return run


@pytest.fixture
def shop(app: Stepflow, run_worker: Callable[..., Any]) -> Shop:
    shop = Shop(app)
    run_worker(app)
    return shop


@both_layouts
def test_a_retry_executes_only_what_has_not_succeeded(shop: Shop, partitions: int) -> None:
    run = shop.failed("send")
    assert shop.calls == {"price": 1, "child": 1, "charge": 1, "send": 1}
    again = run.retry(reason="send works")
    assert again.result(30) == [2, 3, 6, 7, 1]
    assert shop.calls == {"price": 1, "child": 1, "charge": 1, "send": 2}
    assert run.status() is RunStatus.FAILED, "the run itself is not changed"
    first, second = [key for name, key in shop.keys if name == "send"]
    assert first == second, "another system sees the same request"


@both_layouts
def test_a_rerun_executes_everything_with_new_keys(shop: Shop, partitions: int) -> None:
    run = shop.failed("send")
    assert run.rerun().result(30) == [2, 3, 6, 7, 1]
    assert shop.calls == {"price": 2, "child": 2, "charge": 2, "send": 2}
    assert len(set(shop.keys)) == len(shop.keys)
    assert run.rerun(data=5).result(30) == [6, 7, 14, 15, 5]


@both_layouts
@pytest.mark.parametrize(
    ("before", "executed"),
    [
        ("price", {"price": 1, "child": 1, "charge": 1, "send": 1}),
        ("stock", {"child": 1, "charge": 1, "send": 1}),
        ("nap", {"charge": 1, "send": 1}),
        ("charge", {"charge": 1, "send": 1}),
        ("charge#2", {"send": 1}),
    ],
)
def test_a_fork_executes_what_comes_from_a_step_on(shop: Shop, partitions: int, before: str, executed: dict) -> None:
    run = shop.app.start(shop.order, 1)
    expected = run.result(30)
    shop.calls.clear()
    assert shop.app.fork(run, before=before).result(30) == expected
    assert shop.calls == executed


@both_layouts
def test_a_fork_may_have_other_results_and_other_data(shop: Shop, partitions: int) -> None:
    run = shop.app.start(shop.order, 1)
    run.result(30)
    shop.calls.clear()
    assert shop.app.fork(run, before="charge", results={"price": 10}).result(30) == [10, 3, 14, 15, 1]
    assert shop.app.fork(run, before="charge", results={"charge": 0}, data=9).result(30) == [2, 3, 0, 1, 9]
    assert shop.app.fork(run, before="nap", results={"stock": 100}).result(30) == [2, 100, 103, 104, 1]
    assert shop.calls == {"charge": 2, "send": 3}


def test_a_fork_of_a_fork_keeps_the_keys_of_the_first_run(shop: Shop) -> None:
    run = shop.failed("charge")
    shop.broken = {"charge"}
    second = run.retry()
    with pytest.raises(RunFailedError):
        second.result(30)
    shop.broken = set()
    assert second.retry().result(30)[2] == 6
    assert len({key for name, key in shop.keys if name == "charge"}) == 1
    assert shop.app.fork(run, failed=True, keys="new").result(30)[2] == 6
    assert len({key for name, key in shop.keys if name == "charge"}) == 2


def test_children_are_invoked_again_on_request(shop: Shop) -> None:
    run = shop.app.start(shop.order, 1)
    run.result(30)
    shop.calls.clear()
    shop.app.fork(run, before="charge", children="again").result(30)
    assert shop.calls == {"child": 1, "charge": 1, "send": 1}


def test_a_failed_child_is_invoked_again(shop: Shop) -> None:
    run = shop.failed("child")
    assert run.retry().result(30) == [2, 3, 6, 7, 1]
    assert shop.calls == {"price": 1, "child": 2, "charge": 1, "send": 1}


def test_the_same_id_forks_once(shop: Shop) -> None:
    run = shop.failed("send")
    first, second = run.retry(id="a"), run.retry(id="a")
    assert first.id == second.id != run.retry(id="b").id
    first.result(30)
    assert run.retry(id="a").id == first.id


def test_asyncio_twins(app: Stepflow, shop: Shop) -> None:
    run = shop.failed("send")

    async def fork_all() -> list[list[Any]]:
        runs = [await run.aretry(), await run.arerun(), await app.afork(run.id, before="charge")]
        return [await one.aresult(30) for one in runs]

    assert asyncio.run(fork_all()) == [[2, 3, 6, 7, 1]] * 3


@both_layouts
def test_an_encrypted_run_is_sealed_anew(url: str, run_worker: Callable[..., Any], partitions: int) -> None:
    app = Stepflow("shop", redis_url=url, encryption=Encryption(keys=[b"k" * 32]))
    shop = Shop(app)
    run_worker(app)
    run = shop.failed("send")
    shop.calls.clear()
    assert run.retry().result(30) == [2, 3, 6, 7, 1]
    assert shop.calls == {"send": 1}
    assert app.fork(run, before="charge", results={"price": 10, "stock": 7}).result(30) == [10, 7, 18, 19, 1]
    assert app.fork(run.id, before="charge#2", data=4).result(30) == [2, 3, 6, 7, 4]
    with pytest.raises(ForkError, match=r"has no step 'charge#9'; its steps: .*'charge' \([0-9]+ times\)"):
        app.fork(run.id, before="charge#9")


def test_a_retry_of_a_failure_of_the_function_itself_keeps_all_steps(app: Stepflow, run_worker) -> None:
    done, broken = [], [True]

    @app.function("report", retries=0)
    async def report(ctx: Context) -> int:
        rows = await ctx.step.run("rows", lambda: done.append(1) or 3)
        if broken:
            raise ValueError("a fault between the steps")
        return int(rows)

    run_worker(app)
    run = app.start(report)
    with pytest.raises(RunFailedError):
        run.result(30)
    broken.clear()
    assert run.retry().result(30) == 3
    assert done == [1]


def test_a_failure_that_the_code_has_handled_is_executed_again_too(app: Stepflow, run_worker) -> None:
    calls: Counter[str] = Counter()

    def handler(name: str) -> str:
        calls[name] += 1
        if calls[name] == 1:
            raise ValueError(name)
        return name

    @app.function("handled", retries=0)
    def handled(ctx: SyncContext) -> str:
        step = ctx.step.with_options(retries=0)
        try:
            first = step.run("main", handler, "main")
        except StepError:
            first = step.run("spare", lambda: "spare")
        return first + step.run("end", handler, "end")

    run_worker(app)
    run = app.start(handled)
    with pytest.raises(RunFailedError):
        run.result(30)
    assert run.retry().result(30) == "mainend"


def test_a_fork_passes_the_flow_control_of_its_function(app: Stepflow, run_worker, client) -> None:
    running, most = [0], [0]

    async def work() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.05)
        running[0] -= 1

    @app.function("limited", concurrency=Concurrency(1), idempotency="event.data.n")
    async def limited(ctx: Context) -> int:
        await ctx.step.run("work", work)
        return int(ctx.event.data["n"])

    @app.function("single", singleton=Singleton())
    async def single(ctx: Context) -> None:
        await ctx.step.wait_for_event("end", event="end", timeout="20s")

    run_worker(app)
    run = app.start(limited, {"n": 1})
    run.result(30)
    forks = [run.rerun() for _ in range(5)]
    assert [fork.result(30) for fork in forks] == [1] * 5
    assert most == [1]

    ended = app.start(single)
    until(lambda: ended.status() is RunStatus.WAITING)
    app.send("end")
    ended.result(30)
    holder = app.start(single)
    until(lambda: holder.status() is RunStatus.WAITING)
    assert ended.rerun().status() is RunStatus.SKIPPED
    holder.cancel()


def test_the_runs_of_a_failed_batch_join_the_next_batch(app: Stepflow, run_worker) -> None:
    broken, seen = [True], []

    @app.function("index", event="doc", batch=Batch(2, timeout="30s"), retries=0)
    async def index(ctx: Context) -> int:
        seen.append(sorted(event.data for event in ctx.events))
        if broken:
            raise ValueError("no index")
        return len(ctx.events)

    run_worker(app)
    runs = [app.start(index, n) for n in range(2)]
    for run in runs:
        with pytest.raises(RunFailedError):
            run.result(30)
    broken.clear()
    with pytest.raises(ForkError, match="part of a batch, so it has no steps of its own"):
        app.fork(runs[0], before="x")
    assert [fork.result(30) for fork in [run.retry() for run in runs]] == [2, 2]
    assert seen == [[0, 1], [0, 1]]


def test_a_live_run_is_forked_beside_itself_only(app: Stepflow, run_worker) -> None:
    @app.function("waits")
    async def waits(ctx: Context) -> int:
        first = await ctx.step.run("first", lambda: 1)
        event = await ctx.step.wait_for_event("end", event="end", timeout="30s", match={"data.n": first})
        return int(event.data["n"]) if event else 0

    run_worker(app)
    run = app.start(waits)
    until(lambda: run.status() is RunStatus.WAITING)
    for call in (run.retry, run.rerun):
        with pytest.raises(ForkError, match="has not ended, it is waiting: cancel it first, or fork it before a step"):
            call()
    beside = app.fork(run, before="end", results={"first": 2})
    until(lambda: beside.status() is RunStatus.WAITING)
    app.send([Event("end", {"n": 2}), Event("end", {"n": 1})])
    assert (run.result(30), beside.result(30)) == (1, 2)


def test_a_cancelled_run_is_retried_and_a_completed_one_is_not(shop: Shop, app: Stepflow) -> None:
    app.pause(shop.order)
    run = app.start(shop.order, 1)
    run.cancel()
    app.resume(shop.order)
    again = run.retry()
    assert again.result(30) == [2, 3, 6, 7, 1]
    with pytest.raises(ForkError, match="is completed, so there is nothing to retry: rerun it"):
        again.retry()


def test_a_run_whose_function_collects_batches_now_is_rerun_only(app: Stepflow, url: str) -> None:
    async def buy(ctx: Context) -> None:
        pass

    run = app.start(app.function("buy")(buy))
    run.cancel()
    present = Stepflow("shop", redis_url=url)
    present.function("buy", batch=Batch(max_size=2, timeout="1h"))(buy)
    with pytest.raises(ForkError, match="shop/buy collects runs in batches now, which have no such results: use rerun"):
        present.run(run.id).retry()
    assert present.run(run.id).rerun().status() is RunStatus.WAITING


@pytest.mark.parametrize("partitions", [4])
def test_a_run_in_a_partition_where_its_function_no_longer_counts_is_refused(app: Stepflow, url: str) -> None:
    async def buy(ctx: Context) -> None:
        pass

    plain = app.function("buy")(buy)
    present = Stepflow("shop", redis_url=url)
    pinned = present.function("buy", singleton=Singleton(mode="skip"))(buy)
    started = [app.start(plain) for _ in range(60)]  # in all partitions
    of = app.backend.partition.of
    here = of(pinned.config.pinned_partition)
    for run in started:
        run.cancel()
        if of(run.id) is here:
            present.run(run.id).rerun()
        else:
            with pytest.raises(ForkError, match="is in another partition than that in which function shop/buy counts"):
                present.run(run.id).rerun()
    assert len({of(run.id) is here for run in started}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"before": "chrge"}, "has no step 'chrge'; its steps: 'price', 'stock', 'nap', 'charge'"),
        ({"before": "charge#3"}, "has no step 'charge#3'"),
        ({"before": ""}, "fork: before must be non-empty text"),
        ({"before": 7}, "fork: before must be non-empty text"),
        ({"failed": "no"}, "fork: failed must be True or False, got 'no'"),
        ({"before": "\ud800"}, "fork: before must be valid Unicode"),
        ({"before": "x" * 20_000}, "fork: before must be at most 10,240 bytes"),
        ({"results": {"\ud800": 1}}, "fork: results: step id must be valid Unicode"),
        ({"before": "x" * 10_000}, r"has no step 'x{99}; its steps: 'price'"),
        ({"before": "price", "failed": True}, "contradict each other"),
        ({"before": "charge", "results": {"other": 1}}, "has no step 'other'"),
        ({"before": "charge", "results": {"nap": None}}, "of kind 'sleep': only results of step.run and step.invoke"),
        ({"results": [1]}, "results must be a dict"),
        ({"keys": "old"}, 'keys must be "auto", "keep" or "new"'),
        ({"children": "none"}, 'children must be "adopt" or "again"'),
    ],
)
def test_bad_input_has_its_own_error(shop: Shop, arguments: dict[str, Any], message: str) -> None:
    run = shop.app.start(shop.order, 1)
    run.result(30)
    with pytest.raises(ForkError, match=message):
        shop.app.fork(run, **arguments)


def test_what_is_gone_or_does_not_fit(app: Stepflow, run_worker) -> None:
    @app.function("typed")
    async def typed(ctx: Context[Order]) -> int:
        return ctx.event.data.total

    run_worker(app)
    run = app.start(typed, {"total": 1})
    run.result(30)
    for unknown in ("f" * 32, "", 123, None, app):
        with pytest.raises(RunNotFoundError):
            app.fork(unknown)  # type: ignore[arg-type]
        with pytest.raises(RunNotFoundError):
            app.answer(unknown, "ok", 1)  # type: ignore[arg-type]
    with pytest.raises(EventError, match="does not fit the input of shop/typed"):
        run.rerun(data={"total": "much"})
    with pytest.raises(EventError):
        run.rerun(data={1, 2}, id="")
    other = Stepflow("shop", redis_url=app.backend.url)
    assert other.run(run.id).rerun(data={"total": 5}).result(30) == 5, "the registry knows the function"
