"""Workers with different code side by side, as in every deployment: a job goes to a worker that has its code."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest

from stepflow import Context, Stepflow
from tests.support.processes import WorkerThread, until

pytestmark = pytest.mark.roles("producer", "operator")
StartWorker = Callable[..., WorkerThread]
RUNS = 20


def apps(url: str) -> tuple[Stepflow, Stepflow]:
    """The old and the new version of an app: the new one has one function more."""
    old, new = Stepflow("shop", redis_url=url), Stepflow("shop", redis_url=url)

    async def kept(_ctx: Context) -> str:
        return "kept"

    for app in (old, new):
        app.function("kept")(kept)

    @new.function("added")
    async def added(ctx: Context) -> list[int]:
        async def part(n: int) -> int:
            return n

        return list(await asyncio.gather(*[ctx.step.run(f"part-{n}", part, n) for n in range(3)]))

    return old, new


def test_runs_of_a_function_that_one_of_three_workers_has_are_not_late(url: str, run_worker: StartWorker) -> None:
    old, new = apps(url)
    for _ in range(2):
        run_worker(old)
    run_worker(new)
    began = time.monotonic()
    runs = [new.start("added") for _ in range(RUNS)]
    assert [run.result(20) for run in runs] == [[0, 1, 2]] * RUNS
    assert time.monotonic() - began < 8
    assert {run.status().value for run in runs} == {"completed"}


def test_runs_that_no_worker_has_the_code_of_wait_and_start_with_the_first_that_has_it(
    url: str, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = apps(url)
    with caplog.at_level(logging.WARNING):
        run_worker(old)
        runs = [new.start("added") for _ in range(RUNS)]
        until(lambda: {run.explain().kind for run in runs} == {"code_missing"}, what="the runs to wait")
        assert old.start("kept").result(20) == "kept"
    assert len([record for record in caplog.records if record.message == "code_missing"]) == 1
    run_worker(new)
    assert [run.result(20) for run in runs] == [[0, 1, 2]] * RUNS


def test_runs_in_a_queue_that_their_function_had_before_go_on(url: str, run_worker: StartWorker) -> None:
    def version(queue: str) -> Stepflow:
        app = Stepflow("shop", redis_url=url)

        @app.function("moves", queue=queue)
        async def moves(ctx: Context) -> str:
            await ctx.step.wait_for_event("go", event="go", timeout="1h")
            return "done"

        return app

    before = version("old-queue")
    worker = run_worker(before)
    waiting = before.start("moves")
    until(lambda: waiting.status().value == "waiting", what="the wait")
    worker.stop()
    queued = before.start("moves")
    worker = run_worker(version("new-queue"))
    assert worker.worker.lists == ["new-queue:steps", "old-queue:steps", "new-queue", "old-queue"]
    until(lambda: queued.status().value == "waiting", what="the other wait")
    before.send("go")
    assert [run.result(20) for run in (waiting, queued)] == ["done", "done"]


def test_a_step_that_only_new_code_plans_is_left_to_new_code_without_a_spent_attempt(
    url: str, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []
    gate = threading.Event()

    def first() -> str:
        gate.wait(20)
        return "first"

    def version(*, has_second: bool) -> Stepflow:
        app = Stepflow("shop", redis_url=url)

        @app.function("fan", retries=0)
        async def fan(ctx: Context) -> list[str]:
            async def second() -> str:
                attempts.append(ctx.attempt)
                return "second"

            steps = [ctx.step.run("first", first), ctx.step.sleep("nap", "1ms")]
            if has_second:
                steps.append(ctx.step.run("second", second))
            return list(await asyncio.gather(*steps))

        return app

    new = version(has_second=True)
    run_worker(new, concurrency=1)  # its slot is taken by the first step
    run = new.start("fan")
    until(lambda: "second" in str(run.explain()), what="the second step")
    run_worker(version(has_second=False))
    until(lambda: "planned_step_not_found" in caplog.messages, what="the old code to meet the step")
    gate.set()
    assert run.result(20) == ["first", None, "second"]
    assert attempts == [0]
