"""Producers: send, start, invoke and handles, blocking and asyncio, with no worker code needed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import redis

from stepflow import (
    BackendUnavailableError,
    ConfigurationError,
    Context,
    Event,
    EventError,
    FunctionNotFoundError,
    Limits,
    Reason,
    ResultTimeoutError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    RunStatus,
    Stepflow,
)
from tests.support.partition_merging_client import server_urls
from tests.support.processes import until


@pytest.fixture
def seen(app: Stepflow) -> list[tuple[str, object]]:
    """What functions were started with; two of the three are started by ``order/placed``."""
    found: list[tuple[str, object]] = []

    @app.function("mail", event="order/placed")
    async def mail(ctx: Context) -> None:
        found.append(("mail", ctx.event.data))

    @app.function("stock", triggers=["order/placed", "stock/*"])
    async def stock(ctx: Context) -> None:
        found.append(("stock", ctx.event.data))

    @app.function("other", event="order/placed-late")
    async def other(ctx: Context) -> None:
        found.append(("other", ctx.event.data))

    return found


def test_an_event_starts_every_function_whose_trigger_matches(app: Stepflow, seen, run_worker, url: str) -> None:
    run_worker(app)
    producer = Stepflow("producer", redis_url=url)
    producer.send("order/placed", {"n": 1})
    until(lambda: len(seen) == 2)
    producer.send("stock/counted.late", {"n": 2})
    until(lambda: len(seen) == 3)
    assert sorted(seen, key=str) == [("mail", {"n": 1}), ("stock", {"n": 1}), ("stock", {"n": 2})]


def test_an_event_sent_before_any_worker_has_started_is_not_lost(app: Stepflow, seen, run_worker) -> None:
    app.send("order/placed", {"n": 1})
    run_worker(app)
    until(lambda: len(seen) == 2)


def test_an_event_id_starts_each_function_once(app: Stepflow, seen, run_worker) -> None:
    for _ in range(3):
        assert app.send("order/placed", {"n": 1}, id="order-17") == "order-17"
    app.send([Event("order/placed", {"n": 1}, id="order-17"), Event("stock/x", {"n": 2}, id="x")])
    run_worker(app)
    until(lambda: len(seen) == 3)
    app.send("order/placed", {"n": 1}, id="order-17")
    app.send("stock/x", {"n": 3}, id="y")
    until(lambda: ("stock", {"n": 3}) in seen)
    assert len(seen) == 4


def test_many_events_leave_in_one_call(app: Stepflow, run_worker) -> None:
    got: list[int] = []

    @app.function("many", event="many/sent")
    async def many(ctx: Context) -> None:
        got.append(ctx.event.data)

    run_worker(app)
    ids = app.send([Event("many/sent", n) for n in range(1000)])
    assert len(set(ids)) == 1000
    until(lambda: len(got) == 1000)
    assert sorted(got) == list(range(1000))


def test_a_function_is_started_by_its_id_from_an_app_that_does_not_have_it(app: Stepflow, run_worker, url: str) -> None:
    @app.function("double")
    async def double(ctx: Context) -> int:
        return ctx.event.data["n"] * 2

    run_worker(app)
    producer = Stepflow("elsewhere", redis_url=url)
    until(lambda: _known(producer, "shop/double"))
    assert producer.invoke("shop/double", {"n": 4}, timeout=20) == 8


def _known(producer: Stepflow, function: str) -> bool:
    try:
        producer.start(function, {"n": 0})
    except FunctionNotFoundError:
        return False
    return True


def test_an_unknown_function_is_said_to_be_one(app: Stepflow) -> None:
    with pytest.raises(FunctionNotFoundError, match="could not find function with ID: nothing"):
        app.start("nothing")


def test_a_start_with_an_id_can_be_repeated(app: Stepflow, run_worker) -> None:
    calls = []

    @app.function("once")
    async def once(ctx: Context) -> int:
        calls.append(1)
        return 1

    run_worker(app)
    first = app.start(once, id="a")
    assert first.result(20) == 1
    assert app.start(once, id="a").id == first.id
    assert app.start(once, id="b").result(20) == 1
    assert len(calls) == 2


def test_a_handle_tells_apart_how_a_run_ends(app: Stepflow, run_worker, tmp_path: Path) -> None:
    gate = threading.Event()

    @app.function("fails", retries=0)
    async def fails(ctx: Context) -> None:
        raise ValueError("broken")

    @app.function("waits")
    async def waits(ctx: Context) -> str:
        return await ctx.step.run("wait", lambda: gate.wait(30) and "done")

    run_worker(app)
    with pytest.raises(RunFailedError, match="ValueError: broken") as failed:
        app.invoke(fails, timeout=20)
    assert (failed.value.status, failed.value.name, failed.value.message) == ("failed", "ValueError", "broken")

    run = app.start(waits)
    with pytest.raises(ResultTimeoutError):
        run.result(timeout=0.2)
    until(lambda: run.status() is RunStatus.RUNNING)
    assert run.cancel("not wanted") is True
    assert run.cancel() is False
    with pytest.raises(RunCancelledError, match="not wanted"):
        run.result(5)
    gate.set()

    again = app.start(waits)
    assert again.result(20) == "done"
    assert again.status() is RunStatus.COMPLETED

    for call in (app.run("nothing").status, app.run("nothing").result, app.run("nothing").cancel):
        with pytest.raises(RunNotFoundError, match="there is no run 'nothing'"):
            call()


def test_a_cancelled_run_stops_between_steps(app: Stepflow, run_worker) -> None:
    gate, after = threading.Event(), []

    @app.function("cancelled")
    async def cancelled(ctx: Context) -> None:
        await ctx.step.run("first", lambda: gate.wait(30))
        await ctx.step.run("second", lambda: after.append(1))

    worker = run_worker(app)
    run = app.start(cancelled)
    until(lambda: run.status() is RunStatus.RUNNING)
    run.cancel()
    gate.set()
    worker.stop()
    assert run.status() is RunStatus.CANCELLED
    assert after == []


async def test_the_asyncio_twins_do_the_same(app: Stepflow, run_worker) -> None:
    @app.function("double", event="double/asked")
    async def double(ctx: Context) -> int:
        return ctx.event.data["n"] * 2

    run_worker(app)
    assert await app.ainvoke(double, {"n": 3}, timeout=20) == 6
    runs = await asyncio.gather(*[app.astart(double, {"n": n}) for n in range(50)])
    assert await asyncio.gather(*[run.aresult(20) for run in runs]) == [n * 2 for n in range(50)]
    assert await runs[0].astatus() is RunStatus.COMPLETED
    assert await runs[0].acancel() is False
    assert await app.asend("double/asked", {"n": 1}, id="one") == "one"
    with pytest.raises(FunctionNotFoundError):
        await app.astart("nothing")
    await app.aclose()


async def test_a_thousand_waits_share_one_connection(app: Stepflow, run_worker, client: redis.Redis) -> None:
    gate = threading.Event()

    @app.function("gated")
    async def gated(ctx: Context) -> int:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return ctx.event.data

    @app.function("ready")
    async def ready(ctx: Context) -> None: ...

    run_worker(app)
    await app.ainvoke(ready, timeout=20)  # by then all connections are there
    before = len(client.client_list())
    runs = await asyncio.gather(*[app.astart(gated, n) for n in range(1000)])
    results = asyncio.gather(*[run.aresult(60) for run in runs])
    await asyncio.sleep(0.2)
    assert len(client.client_list()) - before <= 5 * len(app.backend.partition.all)
    gate.set()
    assert await results == list(range(1000))
    await app.aclose()


def reads(url: str) -> int:
    """How often a field was asked for."""
    count = 0
    for one in server_urls(url):
        with redis.Redis.from_url(one) as server:
            count += server.info("commandstats").get("cmdstat_hget", {}).get("calls", 0)
    return count


def test_waiting_for_a_result_does_not_poll(app: Stepflow, start_worker, url: str, client: redis.Redis) -> None:
    @app.function("never")
    async def never(ctx: Context) -> None: ...

    run = app.start(never)
    outcomes: list[str] = []

    def wait() -> None:
        try:
            run.result(3)
        except ResultTimeoutError as error:
            outcomes.append(error.name)

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: client.pubsub_channels(f"stepflow:run-ended:{run.id}"))
    before = reads(url)
    waiter.join()
    assert reads(url) - before <= 2
    assert outcomes == ["ResultTimeoutError"]


@pytest.mark.parametrize(
    ("event", "data", "text"),
    [
        ("x", "y" * 600_000, "at most 524,288"),
        ("x", {"when": object()}, "must be JSON"),
        ("x", float("nan"), "has no JSON form"),
        ("", {}, "event name must be"),
        ("x" * 20_000, {}, "event name must be"),
    ],
)
def test_an_event_that_cannot_be_sent_is_refused_where_it_is_sent(app: Stepflow, event, data, text, client) -> None:
    with pytest.raises(EventError, match=text):
        app.send(event, data)
    assert client.keys("*") == []


def test_too_many_events_in_one_send_are_refused(url: str) -> None:
    app = Stepflow("few", redis_url=url, limits=Limits(events_per_send=2))
    with pytest.raises(EventError, match="at most 2"):
        app.send([Event("x")] * 3)


def test_a_server_that_cannot_be_used_is_a_clear_error_without_the_password(unused_tcp_port: int) -> None:
    app = Stepflow("shop", redis_url=f"redis://user:secret@127.0.0.1:{unused_tcp_port}/0")
    app.backend.broker._retry_for_s = 0.1
    with pytest.raises(BackendUnavailableError, match="is it running") as failed:
        app.send("x")
    assert "secret" not in str(failed.value)
    with pytest.raises(ConfigurationError, match="is not a server's URL"):
        Stepflow("shop", redis_url="http://x").send("x")


def test_an_app_says_what_is_wrong_with_its_settings() -> None:
    app = Stepflow("shop")

    @app.function("one")
    async def one(ctx: Context) -> None: ...

    with pytest.raises(ConfigurationError, match=r"function 'one': app .* already has"):
        app.function("one")(one.handler)
    with pytest.raises(ConfigurationError, match="must be callable"):
        app.function("two")(7)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="retries must be"):
        app.function("three", retries=21)(one.handler)
    with pytest.raises(ConfigurationError, match="write"):
        Stepflow("shop", retention="soon")
    with pytest.raises(ConfigurationError, match="at least 1s, got 0"):
        Stepflow("shop", retention=0)
    with pytest.raises(ConfigurationError, match="must not contain"):
        Stepflow("a/b")


def test_many_runs_start_in_one_call(app: Stepflow, run_worker) -> None:
    @app.function("double")
    async def double(ctx: Context) -> int:
        return 2 * ctx.event.data

    run_worker(app)
    runs = app.start_many(double, range(250))
    assert [run.result(20) for run in runs] == [2 * n for n in range(250)]
    assert app.start_many("double", []) == []


async def test_many_runs_start_in_one_call_without_blocking_the_loop(app: Stepflow, run_worker) -> None:
    @app.function("double")
    async def double(ctx: Context) -> int:
        return 2 * ctx.event.data

    run_worker(app)
    runs = await app.astart_many("shop/double", [1, 2, 3])
    assert [await run.aresult(20) for run in runs] == [2, 4, 6]
    await app.aclose()


def test_of_many_runs_none_starts_when_one_cannot(app: Stepflow, client: redis.Redis) -> None:
    @app.function("f")
    async def f(ctx: Context) -> None: ...

    with pytest.raises(EventError, match="must be JSON"):
        app.start_many(f, [1, 2, float("nan")])
    with pytest.raises(EventError, match="start_many: data must have at most 5,000 items, got 5,001"):
        app.start_many(f, range(5_001))
    assert not client.exists("stepflow:live")


@pytest.mark.roles("producer", "operator")
async def test_a_run_is_explained_in_an_event_loop_too(app: Stepflow) -> None:
    @app.function("lonely")
    async def lonely(ctx: Context) -> None: ...

    run = await app.astart(lonely)
    reason = await run.aexplain()
    assert isinstance(reason, Reason)
    assert (reason.kind, reason) == ("queued", run.explain())
    with pytest.raises(RunNotFoundError, match="there is no run 'nothing'"):
        await app.run("nothing").aexplain()
    await app.aclose()


@pytest.mark.parametrize("place", ["body", "handler", "thread"])
@pytest.mark.parametrize("call", ["invoke", "result"])
def test_a_blocking_wait_in_the_event_loop_of_a_worker_is_refused(
    app: Stepflow, run_worker, place: str, call: str
) -> None:
    ran: list[str] = []

    @app.function("child")
    async def child(ctx: Context) -> str:
        ran.append(ctx.run_id)
        return "done"

    def block() -> object:
        return app.invoke(child, timeout=5) if call == "invoke" else app.start(child).result(5)

    @app.function("parent", retries=0)
    async def parent(ctx: Context) -> object:
        async def handler() -> object:
            return block()

        match place:
            case "body":
                return block()
            case "handler":
                return await ctx.step.run("s", handler)
            case _:
                return await ctx.step.run("s", block)

    run_worker(app)
    if place == "thread":
        assert app.invoke(parent, timeout=20) == "done"
        return
    with pytest.raises(RunFailedError, match="would block the event loop") as failed:
        app.invoke(parent, timeout=20)
    assert failed.value.name == "StepUsageError"
    assert call == "result" or not ran
