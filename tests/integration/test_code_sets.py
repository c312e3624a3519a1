"""Workers with different code side by side, as in every deployment: a job goes to a worker that has its code."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from stepflow import Context, RetryAfterError, RunFailedError, Stepflow
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


# -- versions of the code of one function ------------------------------------------------


@pytest.fixture
def run_version(run_worker: StartWorker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WorkerThread]:
    """Start a worker whose code has a version."""

    def run(version: str, app: Stepflow, **options: object) -> WorkerThread:
        monkeypatch.setenv("STEPFLOW_VERSION", version)
        return run_worker(app, **options)

    return run


def fan(url: str, *names: str, later: bool = False) -> Stepflow:
    """A version of a function that requests these steps at once. ``later``: their first attempts fail."""
    app = Stepflow("shop", redis_url=url)

    @app.function("fan", retries=1 if later else 0)
    async def function(ctx: Context) -> list[str]:
        async def handler(name: str) -> str:
            if later:
                raise RetryAfterError("later", "500ms")
            await asyncio.sleep(0.02)
            return name

        return list(await asyncio.gather(*[ctx.step.run(name, handler, name) for name in names]))

    return app


def test_no_run_fails_and_none_is_late_while_old_and_new_code_execute_them(url: str, run_version) -> None:
    old, new = fan(url, "a", "b"), fan(url, "a", "b", "c")
    for _ in range(3):
        run_version("old", old)
    run_version("new", new)
    began = time.monotonic()
    runs = [new.start("fan") for _ in range(60)]
    results = {tuple(run.result(30)) for run in runs}
    assert results <= {("a", "b"), ("a", "b", "c")}
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_a_step_that_no_version_of_the_code_calls_holds_nothing_up(url: str, run_version, client) -> None:
    newest = run_version("newest", fan(url, "a", "b", later=True))
    run = fan(url).start("fan")
    until(lambda: client.hvals(f"stepflow:steps:{run.id}").count("delayed") == 2, what="the failed attempts")
    newest.stop()
    client.delete(*client.scan_iter("stepflow:code:*"), "stepflow:codes")  # as after its time
    run_version("old", fan(url, "x"))
    run_version("new", fan(url, "y"))
    assert run.result(30) in (["x"], ["y"])
    assert not client.exists("stepflow:code-waits")


KINDS: dict[str, Callable[[Context], Awaitable[object]]] = {
    "run": lambda ctx: ctx.step.run("x", lambda: "ran"),
    "sleep": lambda ctx: ctx.step.sleep("x", "1ms"),
    "wait": lambda ctx: ctx.step.wait_for_event("x", event="never", timeout="2s"),
}


def changing(url: str, kind: str) -> Stepflow:
    """A version of a function in which step x has this kind."""
    app = Stepflow("shop", redis_url=url)

    @app.function("f", retries=0)
    async def f(ctx: Context) -> str:
        await asyncio.gather(KINDS[kind](ctx), ctx.step.sleep("nap", "200ms"))
        await ctx.step.wait_for_event("go", event="go", timeout="1h")
        return kind

    return app


@pytest.mark.parametrize(("first", "other"), [(one, two) for one in KINDS for two in KINDS if one != two])
def test_a_run_whose_step_has_another_kind_in_other_code_goes_to_a_worker_with_its_code(
    url: str, run_version, client, first: str, other: str
) -> None:
    app = changing(url, first)
    worker = run_version(first, app)
    run = app.start("f")
    until(lambda: client.hlen(f"stepflow:steps:{run.id}") or client.hlen(f"stepflow:memos:{run.id}"), what="step x")
    worker.stop()
    run_version(other, changing(url, other))
    until(lambda: run.explain().kind == "code_missing" or run.status().ended, what="the other code to leave the run")
    run_version(first, app)
    until(lambda: "go" in client.hvals(f"stepflow:steps:{run.id}"), what="the wait after the step")
    app.send("go")
    assert run.result(20) == first


def test_a_step_of_another_kind_is_an_error_when_no_other_code_is_left(url: str, run_version, client) -> None:
    app = changing(url, "run")
    worker = run_version("old", app)
    run = app.start("f")
    until(lambda: client.hlen(f"stepflow:memos:{run.id}") == 2, what="the first steps")
    worker.stop()
    client.delete(*client.scan_iter("stepflow:code:*"), "stepflow:codes")  # as after its time
    run_version("new", changing(url, "sleep"))
    app.send("go")
    with pytest.raises(RunFailedError, match="kind 'run' in this run") as failed:
        run.result(20)
    assert failed.value.name == "StepKindError"


def test_a_step_that_only_new_code_plans_is_left_to_new_code_without_a_spent_attempt(
    url: str, run_version, caplog: pytest.LogCaptureFixture
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
    run_version("new", new, concurrency=1)  # its slot is taken by the first step
    run = new.start("fan")
    until(lambda: "second" in str(run.explain()), what="the second step")
    run_version("old", version(has_second=False))
    until(lambda: "planned_step_not_found" in caplog.messages, what="the old code to meet the step")
    gate.set()
    assert run.result(20) == ["first", None, "second"]
    assert attempts == [0]
