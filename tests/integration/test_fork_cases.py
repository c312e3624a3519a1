"""Forks of runs that ended otherwise than by a failure, and what of their times, gates and results is new."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from stepflow import (
    Context,
    Debounce,
    RateLimit,
    Run,
    RunCancelledError,
    RunFailedError,
    RunStatus,
    Singleton,
    Stepflow,
    StepOutputError,
    Throttle,
    Timeouts,
)
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.transitions.steps.step_record import read_steps
from tests.support.processes import until

HOUR_MS = 3_600_000
TIME = (datetime.now(UTC) + timedelta(hours=3)).replace(microsecond=0)


class Price(BaseModel):
    total: int


def record(run: Run[Any]) -> Any:
    backend = run._backend
    return backend.broker.execute(read_run(backend.partition, run.id))


def due_times(run: Run[Any]) -> dict[str, int]:
    """When the waits of a run end, by the ids of their steps."""
    backend = run._backend
    pending = backend.broker.execute(read_steps(backend.partition, run.id))
    return {step.id: step.due_at or 0 for step in pending}


def test_a_run_that_was_timed_out_is_retried_with_the_timeouts_that_the_function_has_now(
    url: str, run_worker: Callable[..., Any], client: Any
) -> None:
    calls: Counter[str] = Counter()

    def shop(finish: str) -> tuple[Stepflow, Any]:
        app = Stepflow("shop", redis_url=url)

        @app.function("slow", timeouts=Timeouts(finish=finish))
        async def slow(ctx: Context) -> int:
            await ctx.step.run("first", lambda: calls.update(["first"]))
            event = await ctx.step.wait_for_event("end", event="end", timeout="2h")
            return int(event.data) if event else 0

        return app, slow

    app, slow = shop("300ms")
    worker = run_worker(app)
    run = app.start(slow)
    with pytest.raises(RunCancelledError, match="did not finish within 300ms"):
        run.result(30)
    worker.stop()
    app, slow = shop("1h")
    run_worker(app)
    again = app.run(run.id).retry()
    until(lambda: again.status() is RunStatus.WAITING)
    due = int(client.zscore("stepflow:timeouts", f"finish:{again.id}"))
    assert due == record(again).started_at + HOUR_MS, "the time counts from the start of the fork"
    app.send("end", 5)
    assert again.result(30) == 5
    assert calls == {"first": 1}


def test_waits_that_had_not_ended_begin_anew_and_a_time_stays_the_same(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    @app.function("waits")
    async def waits(ctx: Context) -> None:
        await asyncio.gather(
            ctx.step.sleep("nap", "1h"),
            ctx.step.wait_for_event("paid", event="paid", timeout="1h"),
            ctx.step.sleep_until("then", TIME),
        )

    run_worker(app)
    run = app.start(waits)
    until(lambda: len(due_times(run)) == 3)
    before = due_times(run)
    run.cancel()
    fork = run.retry()
    until(lambda: len(due_times(fork)) == 3)
    after = due_times(fork)
    began = record(fork).created_at
    for name in ("nap", "paid"):
        assert before[name] < began + HOUR_MS <= after[name]
    assert before["then"] == after["then"] == int(TIME.timestamp() * 1000)


@pytest.mark.roles("producer", "read-only")
@pytest.mark.parametrize(
    ("gate", "status", "reason"),
    [
        ({"rate_limit": RateLimit(1, "1h")}, RunStatus.SKIPPED, "rate limited"),
        ({"singleton": Singleton()}, RunStatus.SKIPPED, "singleton"),
        ({"throttle": Throttle(1, "1h")}, RunStatus.WAITING, "throttled"),
        ({"debounce": Debounce("1h")}, RunStatus.WAITING, "debounced"),
        ({"singleton": Singleton(mode="cancel")}, RunStatus.QUEUED, ""),
        ({"idempotency": "event.data"}, RunStatus.QUEUED, ""),
    ],
    ids=["rate limit", "singleton", "throttle", "debounce", "newest singleton", "idempotency"],
)
def test_a_fork_passes_each_gate_as_a_new_run(app: Stepflow, gate: Any, status: RunStatus, reason: str) -> None:
    @app.function("f", **gate)
    async def f(ctx: Context) -> None: ...

    run = app.start(f, 1)
    run.cancel()
    holder = app.start(f, 2) if "singleton" in gate else None
    fork = run.rerun()
    assert fork.status() is status
    found = record(fork)
    assert reason in (found.reason or fork.explain().text)
    if holder is not None and status is RunStatus.QUEUED:
        assert holder.status() is RunStatus.CANCELLED
    if status is RunStatus.SKIPPED:
        assert fork.retry().status() is RunStatus.SKIPPED, "a skipped run can be retried, through the same gate"


@pytest.mark.roles("producer", "operator")
def test_a_fork_of_a_paused_function_waits_for_the_end_of_the_pause(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    @app.function("f")
    async def f(ctx: Context) -> int:
        return 1

    run_worker(app)
    run = app.start(f)
    run.result(30)
    app.pause(f)
    fork = run.rerun()
    until(lambda: "paused" in fork.explain().text)
    app.resume(f)
    assert fork.result(30) == 1


def test_a_step_that_a_worker_executes_can_be_the_cut(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    gate, calls = threading.Event(), Counter[str]()

    def stuck() -> int:
        calls["stuck"] += 1
        if calls["stuck"] == 1:
            gate.wait(60)
        return calls["stuck"]

    @app.function("f")
    async def f(ctx: Context) -> int:
        await ctx.step.run("first", lambda: calls.update(["first"]))
        return await ctx.step.run("stuck", stuck)

    run_worker(app)
    run = app.start(f)
    try:
        until(lambda: [step.state for step in run.steps() if step.id == "stuck"] == ["running"])
        assert app.fork(run, before="stuck").result(30) == 2
    finally:
        gate.set()
    run.result(30)
    assert calls == {"first": 1, "stuck": 2}


def test_a_result_of_another_type_is_refused_where_the_type_is_known(
    app: Stepflow, url: str, run_worker: Callable[..., Any]
) -> None:
    def look_up() -> Price:
        return Price(total=1)

    def count() -> int:
        return 0

    def lines() -> list[str]:
        return []

    @app.function("child")
    async def child(ctx: Context) -> Price:
        return Price(total=2)

    @app.function("f", retries=0)
    async def f(ctx: Context) -> int:
        price = await ctx.step.run("price", look_up)
        await ctx.step.run("count", count)
        await ctx.step.run("lines", lines)
        more = await ctx.step.invoke("more", child)
        return price.total + more.total

    run_worker(app)
    run = app.start(f)
    assert run.result(30) == 3
    assert app.fork(run, before="more", results={"price": Price(total=5), "more": {"total": 6}}).result(30) == 11
    with pytest.raises(StepOutputError, match="step 'more': result does not fit the declared return type: total"):
        app.fork(run, before="more", results={"more": {"total": "much"}})
    with pytest.raises(StepOutputError, match="step 'price'"):
        app.fork(run, before="more", results={"price": object()})
    edited = {"count": 5, "lines": ["a"]}
    assert app.fork(run, before="more", results=edited).result(30) == 3
    for wrong in ({"count": "many"}, {"count": 5.5}, {"count": True}, {"lines": "none"}, {"lines": [1]}):
        with pytest.raises(RunFailedError, match=f"step '{next(iter(wrong))}': result does not fit the declared"):
            app.fork(run, before="more", results=wrong).result(30)
    other = Stepflow("shop", redis_url=url)  # does not declare the functions
    for wrong in ({"price": {"total": "much"}}, {"more": {"total": "much"}}):
        with pytest.raises(RunFailedError, match="result does not fit the declared return type: total"):
            other.fork(run, before="more", results=wrong).result(30)
