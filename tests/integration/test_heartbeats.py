"""Heartbeats and cancelled handlers on workers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from stepflow import (
    Context,
    Encryption,
    NonRetriableError,
    Retry,
    Run,
    StepCancelled,
    StepError,
    Stepflow,
    SyncContext,
)
from tests.integration.apps.ledger import count
from tests.support.processes import WorkerProcess, until

APP = "tests.integration.apps.uploads:app"
KEY = Encryption.generate_key()


@pytest.mark.parametrize(
    "function", ["upload", *(pytest.param(name, marks=pytest.mark.slow) for name in ("upload-sync", "upload-beside"))]
)
def test_after_the_death_of_a_worker_the_next_attempt_continues_from_the_last_heartbeat(
    url: str, client: redis.Redis, start_worker: Callable[..., WorkerProcess], tmp_path: Path, function: str
) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    first = start_worker(APP)
    until(lambda: client.hexists("stepflow:functions", f"uploads/{function}"))
    run = Stepflow("uploads", redis_url=url).start(function, [str(ledger), str(gate)])
    until(lambda: count(ledger)["part 5"] == 1)
    until(lambda: _stored(client, run) == b'{"part":5}', what="the detail of the last heartbeat")
    first.kill()
    gate.touch()
    start_worker(APP)
    assert run.result(30) == {"part": 5}
    assert count(ledger) == {f"part {part}": 1 for part in range(1, 11)}
    until(lambda: _stored(client, run) is None, what="the end of the detail")


def _stored(client: redis.Redis, run: Run) -> bytes | None:
    values = client.hgetall(f"stepflow:attempts:{run.id}")
    return next((value.encode() for name, value in values.items() if name.startswith("beat:")), None)


@pytest.mark.roles("producer", "read-only")
def test_a_failed_attempt_stores_its_last_heartbeat_and_a_silent_one_is_retried(app: Stepflow, run_worker) -> None:
    began_with: list[Any] = []

    async def work(ctx: Context) -> str:
        began_with.append(ctx.step.last_heartbeat)
        if ctx.attempt == 0:
            for part in range(100):  # faster than they are stored
                ctx.step.heartbeat(part)
            raise ConnectionError("down")
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return "done"

    @app.function("work")
    async def function(ctx: Context) -> str:
        return await ctx.step.with_options(heartbeat_timeout="200ms").run("work", work, ctx)

    run_worker(app)
    run = app.start(function)
    assert run.result(30) == "done"
    assert began_with == [None, 99, 99]
    (step,) = run.steps()
    assert [attempt.error.message for attempt in step.history if attempt.error] == [
        "down",
        "the handler sent no heartbeat for 200ms",
    ]


def test_the_detail_is_deleted_however_the_step_ends(app: Stepflow, client: redis.Redis, run_worker) -> None:
    left: list[Any] = []

    async def once(ctx: Context, *, ends: bool) -> Any:
        if ctx.attempt == 0:
            ctx.step.heartbeat("old")
            raise ConnectionError("down")
        if not ends:
            raise NonRetriableError("bad")
        return ctx.step.last_heartbeat

    async def leaves_a_task(ctx: Context) -> None:
        left.append(ctx)
        left.append(asyncio.create_task(late_heartbeats(ctx)))

    async def late_heartbeats(ctx: Context) -> None:
        while len(left) < 3:
            ctx.step.heartbeat(len(left))
            await asyncio.sleep(0.01)

    async def look(ctx: Context) -> list[str]:
        await asyncio.sleep(0.1)
        return [str(name) for name in client.hkeys(f"stepflow:attempts:{ctx.run_id}") if str(name).startswith("beat:")]

    @app.function("work", retries=Retry(3, initial="10ms"))
    async def function(ctx: Context) -> list[Any]:
        first = await ctx.step.run("once", once, ctx, ends=True)
        with contextlib.suppress(StepError):
            await ctx.step.run("never", once, ctx, ends=False)
        await ctx.step.run("leaves", leaves_a_task, ctx)
        return [first, *await ctx.step.run("look", look, ctx)]

    run_worker(app)
    assert app.invoke(function, timeout=30) == ["old"]
    left.append("end")


def test_a_worker_that_stops_stores_the_last_detail_of_the_handlers_that_it_interrupts(
    app: Stepflow, client: redis.Redis, run_worker
) -> None:
    began_with: list[Any] = []
    started = threading.Event()

    def work(ctx: Context) -> None:
        began_with.append(ctx.step.last_heartbeat)
        if len(began_with) == 1:
            ctx.step.heartbeat(98)
            _wait(client, ctx.run_id)
            ctx.step.heartbeat(99)  # stored a second later
            started.set()
            while True:
                ctx.step.heartbeat()
                time.sleep(0.01)

    @app.function("work")
    async def function(ctx: Context) -> None:
        await ctx.step.run("work", work, ctx)

    first = run_worker(app, grace_s=0.0)
    run = app.start(function)
    assert started.wait(30)
    first.stop()
    run_worker(app)
    run.result(30)
    assert began_with == [None, 99]


class Blob:
    """A large argument."""


def test_the_arguments_of_a_step_that_has_sent_heartbeats_are_freed_at_once(app: Stepflow, run_worker) -> None:
    blobs: list[weakref.ref[Blob]] = []

    async def work(ctx: Context, blob: Blob) -> None:
        blobs.append(weakref.ref(blob))
        ctx.step.heartbeat(1)

    @app.function("work")
    async def function(ctx: Context) -> int:
        for number in range(3):
            await ctx.step.run(f"work {number}", work, ctx, Blob())
        return sum(blob() is not None for blob in blobs)

    gc.disable()  # only references count
    try:
        run_worker(app)
        assert app.invoke(function, timeout=30) <= 1  # the last one may be referred to still
    finally:
        gc.enable()


def test_the_details_of_an_app_that_encrypts_are_sealed(url: str, client: redis.Redis, run_worker) -> None:
    app = Stepflow("sealed", redis_url=url, encryption=Encryption(keys=[KEY]))
    began_with: list[Any] = []

    async def work(ctx: Context) -> str:
        began_with.append(ctx.step.last_heartbeat)
        ctx.step.heartbeat({"card": "41 11"})
        if ctx.attempt == 0:
            raise ConnectionError("down")
        until_read = asyncio.get_running_loop().run_in_executor(None, lambda: _wait(client, ctx.run_id))
        return await until_read

    @app.function("work")
    async def function(ctx: Context) -> str:
        return await ctx.step.run("work", work, ctx)

    run_worker(app)
    assert "41 11" not in app.invoke(function, timeout=30)
    assert began_with == [None, {"card": "41 11"}]


def _wait(client: redis.Redis, run_id: str) -> str:
    name = f"stepflow:attempts:{run_id}"
    until(lambda: any(field.startswith("beat:") for field in client.hkeys(name)))
    return str(client.hgetall(name))


# -- cancellation --------------------------------------------------------------------------


def test_an_async_handler_of_a_cancelled_run_may_end_by_itself_and_is_cancelled_after_the_grace(
    app: Stepflow, run_worker
) -> None:
    seen: list[str] = []
    started, ended = threading.Event(), threading.Event()

    async def polite(ctx: Context) -> None:
        while not ctx.step.cancelled:
            await asyncio.sleep(0.01)
        seen.append("polite")

    async def deaf() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("deaf")
            ended.set()
            raise

    @app.function("two")
    async def two(ctx: Context) -> None:
        await asyncio.gather(ctx.step.run("polite", polite, ctx), ctx.step.run("deaf", deaf))

    run_worker(app, cancel_grace_s=0.3)
    run = app.start(two)
    assert started.wait(30)
    assert run.cancel("enough")
    assert ended.wait(30)
    until(lambda: sorted(seen) == ["deaf", "polite"])


def test_the_next_heartbeat_of_a_handler_in_a_thread_raises_after_the_cancel(app: Stepflow, run_worker) -> None:
    started, reasons = threading.Event(), list[str]()

    def work(ctx: SyncContext) -> None:
        started.set()
        while True:
            try:
                ctx.step.heartbeat()
            except StepCancelled as cancelled:
                reasons.append(str(cancelled))
                raise
            time.sleep(0.01)

    @app.function("sync")
    def sync(ctx: SyncContext) -> None:
        ctx.step.run("work", work, ctx)

    run_worker(app)
    run = app.start(sync)
    assert started.wait(30)
    assert run.cancel()
    until(lambda: reasons, what="the end of the handler")
    assert reasons == ["the run has ended"]


def test_a_handler_whose_lease_another_worker_has_is_interrupted(
    app: Stepflow, client: redis.Redis, run_worker
) -> None:
    started, reasons = threading.Event(), list[str]()

    async def work(ctx: Context) -> str:
        if started.is_set():
            return "second"
        started.set()
        while not ctx.step.cancelled:
            await asyncio.sleep(0.01)
        try:
            ctx.step.heartbeat()
        except StepCancelled as cancelled:
            reasons.append(str(cancelled))
            raise
        return "first"

    @app.function("taken")
    async def taken(ctx: Context) -> str:
        return await ctx.step.run("work", work, ctx)

    run_worker(app)
    run = app.start(taken)
    assert started.wait(30)
    client.hset(f"stepflow:run:{run.id}", "lease", "1")  # as after a pause of the worker, when another has claimed it
    until(lambda: reasons, what="the end of the handler")
    assert reasons == ["the run has ended, or another worker has the step"]
