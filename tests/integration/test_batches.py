"""Batches with real workers: one call for many events, and everybody is answered."""

from __future__ import annotations

import asyncio

import pytest

from stepflow import (
    Batch,
    CancelOn,
    ConfigurationError,
    Context,
    Debounce,
    InvokeError,
    RateLimit,
    RunFailedError,
    RunStatus,
    Singleton,
    Stepflow,
    SyncContext,
    Throttle,
    Timeouts,
)
from tests.support.processes import until


def test_a_batch_is_executed_once_and_everybody_is_answered(app: Stepflow, run_worker) -> None:
    calls: list[list[int]] = []

    async def store(numbers: list[int]) -> int:
        calls.append(numbers)
        return sum(numbers)

    @app.function("store", event="shop/sold", batch=Batch(5, "300ms"))
    async def store_all(ctx: Context[int]) -> int:
        assert ctx.event == ctx.events[0]
        return await ctx.step.run("store", store, [event.data for event in ctx.events])

    @app.function("parent")
    async def parent(ctx: Context) -> int:
        return await ctx.step.invoke("call", store_all, 100)

    run_worker(app)
    assert [run.result(20) for run in app.start_many(store_all, range(5))] == [10] * 5
    assert calls == [[0, 1, 2, 3, 4]]
    both = [app.start(parent), app.start(store_all, 1)]
    assert [run.result(20) for run in both] == [101, 101]
    bulk = app.fork_many(store_all, status="completed", failed=False, per_second=500).wait("20s")
    assert (bulk.refused, bulk.done) == (0, 7)
    assert [(one.count, one.text.partition(":")[0]) for one in bulk.reasons] == [(2, "the run executed a batch")]


@pytest.mark.parametrize("sticky", [0, 100])
def test_the_events_of_a_batch_are_the_same_in_every_replay(app: Stepflow, run_worker, sticky: int) -> None:
    seen: list[tuple[int, ...]] = []

    @app.function("store", batch=Batch(3, "10s", key="event.data.shop"))
    def store(ctx: SyncContext) -> int:
        seen.append(tuple(event.data["n"] for event in ctx.events))
        ctx.step.run("first", int)
        ctx.step.sleep("nap", "50ms")
        return ctx.step.run("last", int)

    for _ in range(2):
        run_worker(app, sticky=sticky)
    runs = app.start_many(store, [{"shop": n % 2, "n": n} for n in range(6)])
    assert [run.result(20) for run in runs] == [0] * 6
    assert set(seen) == {(0, 2, 4), (1, 3, 5)}


def test_a_batch_that_fails_fails_for_all(app: Stepflow, run_worker) -> None:
    failed: list[object] = []

    @app.function("store", batch=Batch(2, "10s"), retries=0, on_failure=lambda ctx: failed.append(ctx.event.data))
    async def store(ctx: Context) -> None:
        raise ValueError("no room")

    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("call", store)
        except InvokeError as error:
            return str(error)
        return "completed"

    run_worker(app)
    run, told = app.start(store), app.start(parent)
    with pytest.raises(RunFailedError, match="no room"):
        run.result(20)
    assert "no room" in told.result(20)
    until(lambda: failed)
    assert len(failed) == 1


@pytest.mark.roles("producer", "read-only")
def test_a_run_explains_that_it_waits_for_others(app: Stepflow) -> None:
    @app.function("store", batch=Batch(2, "1h"))
    async def store(ctx: Context) -> None: ...

    run = app.start(store)
    assert run.status() is RunStatus.WAITING
    reason = run.explain()
    assert (reason.kind, reason.because[0].kind) == ("batch", "delayed")
    assert "collected in a batch" in reason.because[0].text
    assert run.cancel()
    assert app.run(reason.because[0].subject).status() is RunStatus.CANCELLED


@pytest.mark.parametrize(
    "options",
    [
        {"debounce": Debounce("1s")},
        {"throttle": Throttle(1, "1s")},
        {"rate_limit": RateLimit(1, "1s")},
        {"singleton": Singleton()},
        {"priority": "event.data.n"},
        {"cancel_on": CancelOn("stop")},
        {"timeouts": Timeouts(start="1s")},
    ],
)
def test_what_is_about_each_run_does_not_go_together_with_a_batch(app: Stepflow, options: dict) -> None:
    with pytest.raises(ConfigurationError, match="cannot be combined"):
        app.function("f", batch=Batch(2, "1s"), **options)


@pytest.mark.parametrize(
    "batch", [Batch(0, "1s"), Batch(1_001, "1s"), Batch(2, 0), Batch(2, "-1s"), Batch(2, "1s", key="1")]
)
def test_a_batch_that_cannot_be_is_refused(app: Stepflow, batch: Batch) -> None:
    with pytest.raises(ConfigurationError):
        app.function("f", batch=batch)


async def test_many_batches_at_once(app: Stepflow, run_worker) -> None:
    sizes: list[int] = []

    @app.function("store", batch=Batch(50, "1s"))
    async def store(ctx: Context) -> int:
        sizes.append(len(ctx.events))
        return len(ctx.events)

    run_worker(app)
    runs = await app.astart_many(store, range(1_020))
    results = await asyncio.gather(*[run.aresult(30) for run in runs])
    assert sorted(sizes) == [20] + [50] * 20
    assert sum(results) == 20 * 20 + 1_000 * 50
