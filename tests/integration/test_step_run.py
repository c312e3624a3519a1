"""step.run, case by case, against a real server."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel

from stepflow import (
    Concurrency,
    Context,
    Limits,
    NonRetriableError,
    RetryAfterError,
    RunFailedError,
    RunStatus,
    StepError,
    Stepflow,
    StepUsageError,
    SyncContext,
)
from stepflow_workers.execution.run_driver import RunDriver
from tests.support.processes import until


async def echo(value: Any) -> Any:
    return value


class Square(BaseModel):
    result: int


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Named(TypedDict):
    name: str


# -- ids and memos -----------------------------------------------------------------


def test_steps_in_sequence_run_once_each(app: Stepflow, run_worker) -> None:
    calls = []

    async def note(n: int) -> int:
        calls.append(n)
        return n

    @app.function("count")
    async def count(ctx: Context) -> int:
        return sum([await ctx.step.run(f"step-{n}", note, n) for n in range(5)])

    run_worker(app)
    assert app.invoke(count, timeout=20) == 10
    assert calls == [0, 1, 2, 3, 4]


def test_a_repeated_id_is_a_step_of_its_own_each_time(app: Stepflow, run_worker) -> None:
    @app.function("repeat")
    async def repeat(ctx: Context) -> list[int]:
        return [await ctx.step.run("create-user", echo, n) for n in range(3)]

    run_worker(app)
    assert app.invoke(repeat, timeout=20) == [0, 1, 2]


@pytest.mark.parametrize("step_id", ["ünïcødé ☃", "with spaces\n and lines", "x" * 10_240, "a:1", "{}"])
def test_odd_ids_work(app: Stepflow, run_worker, step_id: str) -> None:
    @app.function("odd")
    async def odd(ctx: Context) -> str:
        one, two = await asyncio.gather(ctx.step.run(step_id, echo, 1), ctx.step.run(step_id, echo, 2))
        return f"{one}{two}{await ctx.step.run(step_id, echo, 3)}"

    run_worker(app)
    assert app.invoke(odd, timeout=20) == "123"


@pytest.mark.parametrize("step_id", ["", "x" * 10_241, "\ud800", None])
def test_an_id_that_cannot_be_one_fails_the_run_at_once(app: Stepflow, run_worker, step_id: Any) -> None:
    @app.function("bad-id")
    async def bad_id(ctx: Context) -> None:
        await ctx.step.run(step_id, echo, 1)

    run_worker(app)
    with pytest.raises(RunFailedError, match="step id must be") as failed:
        app.invoke(bad_id, timeout=20)
    assert failed.value.name == "StepUsageError"


# -- results -------------------------------------------------------------------------


async def give_tuple():
    return (1, 2)


async def give_datetime():
    return datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


async def typed_model() -> Square:
    return Square(result=4)


async def typed_point() -> Point:
    return Point(1, 2)


async def typed_named() -> Named:
    return {"name": "Ada"}


async def typed_time() -> datetime:
    return datetime(2024, 5, 6, tzinfo=UTC)


async def typed_uuid() -> uuid.UUID:
    return uuid.UUID(int=7)


async def typed_delta() -> timedelta:
    return timedelta(seconds=90)


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (give_tuple, [1, 2]),
        (give_datetime, "2024-05-06T07:08:09+00:00"),
        (lambda: None, None),
        (lambda: {"error": {"name": "E", "message": "m"}}, {"error": {"name": "E", "message": "m"}}),
        (lambda: {"data": 1, "error": None}, {"data": 1, "error": None}),
        (typed_model, Square(result=4)),
        (typed_point, Point(1, 2)),
        (typed_named, {"name": "Ada"}),
        (typed_time, datetime(2024, 5, 6, tzinfo=UTC)),
        (typed_uuid, uuid.UUID(int=7)),
        (typed_delta, timedelta(seconds=90)),
    ],
)
def test_a_result_is_the_same_on_the_first_pass_and_on_a_replay(app: Stepflow, run_worker, handler, expected) -> None:
    seen: list[Any] = []

    @app.function("twice", retries=1)
    async def twice(ctx: Context) -> None:
        seen.append(await ctx.step.run("give", handler))
        if ctx.attempt == 0:
            raise ValueError("once more, from the memos")

    run_worker(app)
    app.invoke(twice, timeout=20)
    assert seen == [expected, expected]
    assert type(seen[0]) is type(seen[1]) is type(expected)


@pytest.mark.parametrize("value", [float("nan"), 2**70, "\ud800", object(), b"\xff", {"a": [float("inf")]}])
def test_a_result_that_is_not_json_fails_and_is_not_retried(app: Stepflow, run_worker, value: Any) -> None:
    calls = []

    @app.function("not-json")
    async def not_json(ctx: Context) -> str:
        async def give() -> Any:
            calls.append(1)
            return value

        try:
            await ctx.step.run("give", give)
        except StepError as error:
            return error.name
        return "kept"

    run_worker(app)
    assert app.invoke(not_json, timeout=20) == "StepOutputError"
    assert calls == [1]


class Circle(Square):
    radius: int


class Dated(BaseModel):
    when: date | str


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        (Square, Circle(result=3, radius=1), "a Circle would lose its fields radius"),
        (Dated, Dated(when="2030-01-31"), "a str would come back as a date"),
        (date, "soon", "does not fit the declared return type"),
    ],
)
@pytest.mark.parametrize("place", ["step", "function"])
def test_a_result_that_would_come_back_as_another_value_fails_and_is_not_retried(
    app: Stepflow, run_worker, place: str, declared: Any, value: Any, text: str
) -> None:
    calls = []

    async def handler() -> Any:
        calls.append(1)
        return value

    async def f(ctx: Context) -> Any:
        if place == "step":
            return await ctx.step.run("a", handler)
        return await handler()

    (handler if place == "step" else f).__annotations__["return"] = declared
    app.function("f")(f)
    run_worker(app)
    with pytest.raises(RunFailedError, match=text) as failed:
        app.invoke("f")
    assert "StepOutputError" in str(failed.value)
    assert len(calls) == 1


def test_limits_are_clear_errors(url: str, run_worker) -> None:
    app = Stepflow("small", redis_url=url, limits=Limits(steps_per_run=5, step_output_bytes=100, run_state_bytes=600))

    @app.function("steps")
    async def steps(ctx: Context) -> None:
        for n in range(6):
            await ctx.step.run(f"s{n}", echo, n)

    @app.function("output")
    async def output(ctx: Context) -> None:
        await ctx.step.run("big", echo, "x" * 101)

    @app.function("state")
    async def state(ctx: Context) -> None:
        for n in range(5):
            await ctx.step.run(f"s{n}", echo, "x" * 90)

    run_worker(app)
    for function, text in ((steps, "at most 5 steps"), (output, "at most 100"), (state, "at most 600 bytes")):
        with pytest.raises(RunFailedError, match=text):
            app.invoke(function, timeout=20)


# -- failures --------------------------------------------------------------------------


def test_a_failing_step_is_retried_alone(app: Stepflow, run_worker) -> None:
    calls: list[str] = []

    @app.function("flaky")
    async def flaky(ctx: Context) -> str:
        async def first() -> None:
            calls.append("first")

        async def second() -> int:
            calls.append(f"second-{ctx.attempt}")
            if ctx.attempt < 2:
                raise ValueError("not yet")
            return ctx.attempt

        await ctx.step.run("first", first)
        return f"attempt {await ctx.step.run('second', second)}"

    run_worker(app)
    assert app.invoke(flaky, timeout=20) == "attempt 2"
    assert calls == ["first", "second-0", "second-1", "second-2"]


def test_a_step_that_fails_for_good_can_be_caught(app: Stepflow, run_worker) -> None:
    @app.function("caught", retries=1)
    async def caught(ctx: Context) -> dict[str, Any]:
        async def fail() -> None:
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("outer") from error

        try:
            await ctx.step.run("fail", fail)
        except StepError as error:
            return {
                "id": error.step_id,
                "name": error.name,
                "message": error.message,
                "cause": error.cause and error.cause.name,
                "traceback": "in fail" in error.traceback,
            }
        return {}

    run_worker(app)
    expected = {"id": "fail", "name": "ValueError", "message": "outer", "cause": "KeyError", "traceback": True}
    assert app.invoke(caught, timeout=20) == expected


def test_a_step_that_fails_for_good_and_is_not_caught_fails_the_run_at_once(app: Stepflow, run_worker) -> None:
    passes = []

    @app.function("uncaught", retries=3)
    async def uncaught(ctx: Context) -> None:
        async def fail() -> None:
            raise NonRetriableError("no use")

        passes.append(ctx.attempt)
        await ctx.step.run("fail", fail)

    run_worker(app)
    with pytest.raises(RunFailedError) as failed:
        app.invoke(uncaught, timeout=20)
    assert (failed.value.name, failed.value.message) == ("NonRetriableError", "no use")
    assert set(passes) == {0}


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (3, 4)])
def test_a_step_may_have_its_own_retries(app: Stepflow, run_worker, retries: int, attempts: int) -> None:
    calls = []

    @app.function("own", retries=1)
    async def own(ctx: Context) -> str:
        async def fail() -> None:
            calls.append(1)
            raise ValueError("no")

        try:
            await ctx.step.with_options(retries=retries).run("fail", fail)
        except StepError:
            return "failed"
        return "succeeded"

    run_worker(app)
    assert app.invoke(own, timeout=20) == "failed"
    assert len(calls) == attempts


def test_an_attempt_that_takes_too_long_has_failed(app: Stepflow, run_worker) -> None:
    @app.function("slow")
    async def slow(ctx: Context) -> list[str]:
        names = []
        for id, handler in (("async", lambda: asyncio.sleep(30)), ("sync", lambda: threading.Event().wait(5))):
            try:
                await ctx.step.with_options(retries=0, timeout=0.05).run(id, handler)
            except StepError as error:
                names.append(error.name)
        return names

    run_worker(app)
    assert app.invoke(slow, timeout=20) == ["TimeoutError", "TimeoutError"]


def test_retry_after_is_waited_for(app: Stepflow, run_worker) -> None:
    times: list[datetime] = []

    @app.function("after")
    async def after(ctx: Context) -> None:
        async def wait() -> None:
            times.append(datetime.now(UTC))
            if len(times) == 1:
                raise RetryAfterError("busy", "1s")
            if len(times) == 2:
                raise RetryAfterError("busy", datetime.now(UTC) + timedelta(milliseconds=900))

        await ctx.step.run("wait", wait)

    run_worker(app)
    app.invoke(after, timeout=20)
    assert times[1] - times[0] >= timedelta(seconds=0.99)
    assert times[2] - times[1] >= timedelta(seconds=0.89)


def test_a_function_without_steps_is_a_task_that_is_retried_as_a_whole(app: Stepflow, run_worker) -> None:
    attempts: list[int] = []

    @app.function("mail", retries=1)
    def mail(ctx: SyncContext) -> str:
        attempts.append(ctx.attempt)
        if ctx.event.data["to"] == "nobody" or not ctx.attempt:
            raise ValueError("no such address")
        return f"mailed {ctx.event.data['to']}"

    run_worker(app)
    sent, lost = app.start_many(mail, [{"to": "anna"}, {"to": "nobody"}])
    assert sent.result(20) == "mailed anna"
    with pytest.raises(RunFailedError, match="ValueError: no such address"):
        lost.result(20)
    assert sorted(attempts) == [0, 0, 1, 1]
    assert sent.steps() == []


def test_the_functions_own_code_is_retried_from_its_memos(app: Stepflow, run_worker) -> None:
    calls, attempts = [], []

    @app.function("own-code", retries=2)
    async def own_code(ctx: Context) -> int:
        attempts.append(ctx.attempt)
        value = await ctx.step.run("once", lambda: calls.append(1) or 7)
        if ctx.attempt < 2:
            raise ValueError("the code between steps")
        return value

    run_worker(app, sticky=100)  # otherwise the code runs again after its step
    assert app.invoke(own_code, timeout=20) == 7
    assert attempts == [0, 1, 2]
    assert calls == [1]


def test_the_functions_own_code_fails_the_run_when_its_retries_are_used_up(app: Stepflow, run_worker) -> None:
    attempts = []

    @app.function("hopeless", retries=1)
    async def hopeless(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("always")

    run_worker(app)
    with pytest.raises(RunFailedError, match="always"):
        app.invoke(hopeless, timeout=20)
    assert attempts == [0, 1]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_step_inside_a_steps_handler_is_refused(app: Stepflow, run_worker, kind: str) -> None:
    @app.function("nested-async")
    async def nested_async(ctx: Context) -> None:
        async def outer() -> None:
            await ctx.step.run("inner", echo, 1)

        await ctx.step.run("outer", outer)

    @app.function("nested-sync")
    def nested_sync(ctx: SyncContext) -> None:
        ctx.step.run("outer", lambda: ctx.step.run("inner", echo, 1))

    run_worker(app)
    with pytest.raises(RunFailedError, match="inside the handler of another step") as failed:
        app.invoke(nested_async if kind == "async" else nested_sync, timeout=20)
    assert failed.value.name == StepUsageError.__name__


def test_a_handler_that_is_not_callable_is_refused(app: Stepflow, run_worker) -> None:
    @app.function("coroutine")
    async def coroutine(ctx: Context) -> None:
        waiting = echo(1)
        try:
            await ctx.step.run("x", waiting)  # type: ignore[call-overload]
        finally:
            waiting.close()

    run_worker(app)
    with pytest.raises(RunFailedError, match="must be callable, got coroutine"):
        app.invoke(coroutine, timeout=20)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (BaseExceptionGroup("two", [SystemExit(3), ValueError()]), "BaseExceptionGroup"),
        (asyncio.CancelledError(), "RuntimeError"),
    ],
)
def test_a_handler_that_tries_to_end_the_process_only_fails_its_step(
    app: Stepflow, run_worker, error: BaseException, name: str
) -> None:
    @app.function("exit", retries=0)
    async def exit_(ctx: Context) -> str:
        async def leave() -> None:
            raise error

        try:
            await ctx.step.run("leave", leave)
        except StepError as failed:
            return failed.name
        return "?"

    run_worker(app)
    assert app.invoke(exit_, timeout=20) == name


@pytest.mark.parametrize("kind", ["async", "thread", "task"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("own")])
def test_a_function_that_tries_to_end_the_process_only_fails_its_run(
    app: Stepflow, run_worker, error: BaseException, kind: str
) -> None:
    async def leave() -> None:
        raise error

    @app.function("async", retries=0)
    async def leave_async(ctx: Context) -> None:
        await ctx.step.run("before", echo, 1)
        await leave()

    @app.function("thread", retries=0)
    def leave_thread(ctx: SyncContext) -> None:
        ctx.step.run("before", echo, 1)
        raise error

    @app.function("task", retries=0)
    async def leave_task(ctx: Context) -> None:
        await ctx.step.run("before", echo, 1)
        await asyncio.gather(asyncio.create_task(leave()), ctx.step.sleep("long", "1h"))

    @app.function("other")
    async def other(ctx: Context) -> str:
        return "done"

    worker = run_worker(app)
    with pytest.raises(RunFailedError) as failed:
        app.invoke(kind, timeout=20)
    assert failed.value.name == type(error).__name__
    assert app.invoke(other, timeout=20) == "done"
    assert worker.thread.is_alive()


# -- native asyncio ----------------------------------------------------------------------


def test_gather_gives_results_in_declared_order(app: Stepflow, run_worker) -> None:
    @app.function("fan")
    async def fan(ctx: Context) -> list[int]:
        return await asyncio.gather(*[ctx.step.run("part", echo, n) for n in range(50)])

    run_worker(app)
    assert app.invoke(fan, timeout=20) == list(range(50))


@pytest.mark.parametrize("sticky", [0, 1, 100])
def test_asyncio_in_all_its_forms(app: Stepflow, run_worker, sticky: int) -> None:
    async def slowly(n: int) -> int:
        await asyncio.sleep(n / 100)
        return n

    @app.function("forms")
    async def forms(ctx: Context) -> dict[str, Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step.run("grouped", echo, n)) for n in range(3)]
        background = asyncio.create_task(ctx.step.run("background", echo, "b"))
        await asyncio.sleep(0.01)
        completed = [await done for done in asyncio.as_completed([ctx.step.run("race", slowly, n) for n in (6, 3, 1)])]
        racing = [asyncio.create_task(ctx.step.run("first", slowly, n)) for n in (20, 1)]
        done, pending = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        looped = [await ctx.step.run("loop", echo, n) for n in range(3)]
        return {
            "grouped": [task.result() for task in tasks],
            "background": await background,
            "completed": sorted(completed),
            "winner": [task.result() for task in done],
            "looped": looped,
        }

    run_worker(app, sticky=sticky)
    assert app.invoke(forms, timeout=30) == {
        "grouped": [0, 1, 2],
        "background": "b",
        "completed": [1, 3, 6],
        "winner": [1],
        "looped": [0, 1, 2],
    }


@pytest.mark.parametrize("sticky", [0, 100])
def test_a_race_has_the_same_winner_on_every_replay(app: Stepflow, run_worker, sticky: int) -> None:
    orders: list[list[int]] = []

    async def slowly(n: int) -> int:
        await asyncio.sleep(n / 50)
        return n

    @app.function("race", retries=3)
    async def race(ctx: Context) -> list[int]:
        steps = [ctx.step.run(f"s{n}", slowly, n) for n in (3, 1, 2)]
        order = [await done for done in asyncio.as_completed(steps)]
        orders.append(order)
        if ctx.attempt < 3:
            raise ValueError("replay")
        return order

    run_worker(app, sticky=sticky)
    assert app.invoke(race, timeout=20) == [1, 2, 3]
    assert orders == [[1, 2, 3]] * 4


def test_one_failing_step_of_a_gather_leaves_the_others_their_results(app: Stepflow, run_worker) -> None:
    @app.function("mixed", retries=0)
    async def mixed(ctx: Context) -> list[Any]:
        async def fail() -> None:
            raise ValueError("no")

        results = await asyncio.gather(
            ctx.step.run("a", echo, 1), ctx.step.run("b", fail), ctx.step.run("c", echo, 3), return_exceptions=True
        )
        return [result.name if isinstance(result, StepError) else result for result in results]

    run_worker(app)
    assert app.invoke(mixed, timeout=20) == [1, "ValueError", 3]


def test_steps_are_found_while_the_code_waits_for_something_else(app: Stepflow, run_worker) -> None:
    gate = threading.Event()

    @app.function("busy")
    async def busy(ctx: Context) -> list[Any]:
        async def elsewhere() -> int:
            while not gate.is_set():
                await asyncio.sleep(0.01)
            return await ctx.step.run("late", echo, 2)

        async def open_gate() -> int:
            gate.set()
            return 1

        return await asyncio.gather(ctx.step.run("early", open_gate), elsewhere())

    run_worker(app)
    assert app.invoke(busy, timeout=20) == [1, 2]


# -- plain functions -------------------------------------------------------------------------


@pytest.mark.parametrize("sticky", [0, 100])
def test_a_sync_function_runs_parallel_steps(app: Stepflow, run_worker, sticky: int) -> None:
    @app.function("sync")
    def sync(ctx: SyncContext) -> int:
        a, b = ctx.step.parallel(lambda: ctx.step.run("a", lambda: 40), lambda: ctx.step.run("b", lambda: 2))
        return ctx.step.run("sum", lambda: a + b)

    run_worker(app, sticky=sticky)
    assert app.invoke(sync, timeout=20) == 42


def test_a_sync_function_retries_and_catches(app: Stepflow, run_worker) -> None:
    @app.function("sync-flaky", retries=1)
    def sync_flaky(ctx: SyncContext) -> list[str]:
        def fail() -> None:
            raise ValueError(f"attempt {ctx.attempt}")

        seen = []
        try:
            ctx.step.run("fail", fail)
        except StepError as error:
            seen.append(error.message)
        outcomes = ctx.step.parallel(
            *[lambda n=n: [ctx.step.run("deep", lambda: n), ctx.step.run("deep", lambda: n + 10)] for n in range(3)]
        )
        return [*seen, str(outcomes)]

    run_worker(app)
    assert app.invoke(sync_flaky, timeout=20) == ["attempt 1", "[[0, 10], [1, 11], [2, 12]]"]


def test_a_step_in_a_thread_that_the_run_does_not_know_is_refused(app: Stepflow, run_worker) -> None:
    @app.function("thread")
    def thread(ctx: SyncContext) -> str:
        seen: list[str] = []

        def work() -> None:
            try:
                ctx.step.run("x", lambda: 1)
            except StepUsageError as error:
                seen.append(str(error))

        other = threading.Thread(target=work)
        other.start()
        other.join()
        return seen[0]

    run_worker(app)
    assert "start threads with ctx.step.parallel" in app.invoke(thread, timeout=20)


# -- the input ---------------------------------------------------------------------------------


def test_an_event_of_the_wrong_type_fails_the_run_with_the_validation_message(app: Stepflow, run_worker) -> None:
    class Number(BaseModel):
        number: int

    @app.function("typed", event="number/given")
    async def typed(ctx: Context[Number]) -> int:
        return ctx.event.data.number**2

    run_worker(app)
    assert app.invoke(typed, {"number": 4}, timeout=20) == 16
    with pytest.raises(RunFailedError, match="number: Input should be a valid integer") as failed:
        app.invoke(typed, {"number": "four"}, timeout=20)
    assert failed.value.name == "NonRetriableError"


def test_a_memo_that_comes_while_a_run_is_being_parked_is_not_slept_through(
    app: Stepflow, run_worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the code and the parking there may be a round trip, when workers died before."""
    met: list[str] = []

    async def until_all_memos_come(driver: RunDriver) -> None:
        run, deadline = driver._run, time.monotonic() + 10
        while run.execution.applied < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        met.append(run.run_id)

    monkeypatch.setattr(RunDriver, "_forget_deaths", until_all_memos_come)

    @app.function("gather", concurrency=5)  # with a gate, a run is parked as soon as it waits
    async def gather(ctx: Context) -> list[int]:
        return await asyncio.gather(*[ctx.step.run(f"s{n}", asyncio.sleep, 0.2, n) for n in range(2)])

    run_worker(app, sticky=100)
    run = app.start(gather)
    assert run.result(10) == [0, 1]
    assert run.id in met


def test_a_line_before_a_fan_out_is_logged_once_however_many_workers_execute_its_steps(
    app: Stepflow, run_worker, caplog: pytest.LogCaptureFixture
) -> None:
    workers: set[int] = set()

    @app.function("fan")
    async def fan(ctx: Context) -> None:
        async def work() -> None:
            workers.add(id(asyncio.get_running_loop()))
            await asyncio.sleep(0.1)

        ctx.logger.warning("before")
        await asyncio.gather(*[ctx.step.run(f"s{n}", work) for n in range(20)])
        ctx.logger.warning("after")

    for _ in range(2):
        run_worker(app, concurrency=2)
    app.invoke(fan, timeout=20)
    assert len(workers) == 2
    assert [record.message for record in caplog.records if record.name.endswith("run")] == ["before", "after"]


# -- waits that asyncio does not know -----------------------------------------------------


@pytest.mark.parametrize("kind", ["future", "thread"])
def test_a_run_that_waits_by_a_future_of_its_own_is_parked_and_continues_when_it_is_set(
    app: Stepflow, run_worker, kind: str
) -> None:
    @app.function("one", concurrency=Concurrency(1))
    async def one(ctx: Context) -> object:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        if kind == "thread":
            threading.Timer(1.0, loop.call_soon_threadsafe, (ended.set_result, "set")).start()
            step = asyncio.create_task(ctx.step.sleep("long", "1h"))
        else:
            step = asyncio.create_task(ctx.step.sleep("short", "1s"))
            step.add_done_callback(lambda _: ended.set_result("set"))
        result = await ended
        step.cancel()
        return result

    run_worker(app)
    first = app.start(one)
    until(lambda: first.status() is RunStatus.WAITING, seconds=10, what="the park")
    second = app.start(one)
    assert [first.result(timeout=10), second.result(timeout=10)] == ["set", "set"]
