"""Waiting for results: what it costs, what a cancelled wait leaves behind, and how it survives an outage."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stepflow import (
    BackendUnavailableError,
    Context,
    PermissionDeniedError,
    ResultTimeoutError,
    RunCancelledError,
    Stepflow,
)
from stepflow_broker.embedded_server import EmbeddedServer
from tests.support.command_line import call, register
from tests.support.partition_merging_client import server_urls
from tests.support.processes import until

WAIT_S = 1
COUNTED = ("hget", "hmget", "hgetall", "evalsha", "subscribe", "unsubscribe")


def commands(url: str) -> int:
    """How many commands of waiters the server has executed."""
    count = 0
    for one in server_urls(url):
        with redis.Redis.from_url(one) as server:
            stats = server.info("commandstats")
            count += sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in COUNTED)
    return count


@pytest.fixture
def never(app: Stepflow) -> str:
    """A function that no worker executes."""

    @app.function("never")
    async def never(ctx: Context) -> None: ...

    return "never"


def _result(app: Stepflow) -> None:
    app.start("never").result(WAIT_S)


def _invoke(app: Stepflow) -> None:
    app.invoke("never", timeout=WAIT_S)


def _aresult(app: Stepflow) -> None:
    async def wait() -> None:
        await (await app.astart("never")).aresult(WAIT_S)

    asyncio.run(wait())


def _ainvoke(app: Stepflow) -> None:
    asyncio.run(app.ainvoke("never", timeout=WAIT_S))


WAYS = {"result": _result, "invoke": _invoke, "aresult": _aresult, "ainvoke": _ainvoke}


@pytest.mark.parametrize("way", WAYS)
def test_a_wait_costs_a_few_commands_and_no_processor_time(app: Stepflow, never: str, way: str, url: str) -> None:
    app.start(never)  # by then the server knows the script
    before, used = commands(url), time.process_time()
    with pytest.raises(ResultTimeoutError):
        WAYS[way](app)
    assert commands(url) - before <= 8  # it starts the run; reads its status; subscribes; reads; unsubscribes; reads
    assert time.process_time() - used < WAIT_S / 2


async def test_two_hundred_waits_of_a_loop_cost_a_few_commands_each(app: Stepflow, never: str, url: str) -> None:
    runs = await asyncio.gather(*[app.astart(never) for _ in range(200)])
    before = commands(url)
    outcomes = await asyncio.gather(*[run.aresult(WAIT_S) for run in runs], return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ResultTimeoutError}
    assert commands(url) - before <= 5 * 200
    await app.aclose()


def test_two_hundred_threads_wait_on_one_subscribed_connection(app: Stepflow, never: str, url: str) -> None:
    runs = app.start_many(never, [None] * 200)
    outcomes: collections.Counter[str] = collections.Counter()

    def wait(n: int) -> None:
        try:
            runs[n].result(2)
        except Exception as error:
            outcomes[type(error).__name__] += 1

    others = set(threading.enumerate())
    threads = [threading.Thread(target=wait, args=(n,)) for n in range(200)]
    before = commands(url)
    for thread in threads:
        thread.start()
    assert app.start(never).id
    for thread in threads:
        thread.join()
    assert outcomes == {"ResultTimeoutError": 200}
    assert commands(url) - before <= 6 * 200 + 10
    assert len(set(threading.enumerate()) - others) <= len(app.backend.partition.all)


async def test_a_wait_that_is_cancelled_at_any_moment_leaves_nothing_behind(
    app: Stepflow, never: str, client: redis.Redis
) -> None:
    runs = await asyncio.gather(*[app.astart(never) for _ in range(200)])
    waits = [asyncio.create_task(run.aresult()) for run in runs]
    for turns, wait in enumerate(waits):
        asyncio.get_running_loop().call_later(turns / 4000, wait.cancel)
    done, pending = await asyncio.wait(waits, timeout=20)
    assert pending == set()
    assert all(wait.cancelled() for wait in done)
    assert app.backend._of_loop().waits == 0
    until(lambda: not client.pubsub_channels("stepflow:run-ended:*"))
    await app.aclose()


@pytest.mark.parametrize("end", ["wait_for", "timeout"])
async def test_a_bound_of_asyncio_ends_a_wait(app: Stepflow, never: str, end: str) -> None:
    async def bounded() -> None:
        run = await app.astart(never)
        if end == "wait_for":
            await asyncio.wait_for(run.aresult(), 0.05)
        else:
            async with asyncio.timeout(0.05):
                await run.aresult()

    waits = [asyncio.create_task(bounded()) for _ in range(100)]
    _, pending = await asyncio.wait(waits, timeout=20)
    assert pending == set()
    assert {type(wait.exception()) for wait in waits} == {TimeoutError}
    await app.aclose()


def test_a_command_that_waits_costs_a_few_commands(app: Stepflow, never: str, url: str) -> None:
    register(url, app)
    before = commands(url)
    assert call("invoke", "shop/never", "--timeout", f"{WAIT_S}s", "--redis-url", url).returncode == 6
    assert commands(url) - before <= 12


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that only this test uses."""
    with EmbeddedServer(tmp_path / "own", fsync="always") as server:
        yield server


async def test_waits_go_on_through_an_outage(own: EmbeddedServer) -> None:
    app = Stepflow("shop", redis_url=own.url)

    @app.function("never")
    async def never(ctx: Context) -> None: ...

    run = app.start(never)
    blocking = [asyncio.create_task(asyncio.to_thread(run.result, 60)) for _ in range(3)]
    waits = [*blocking, *[asyncio.create_task(run.aresult(60)) for _ in range(3)]]
    with redis.Redis.from_url(own.url) as client:
        await asyncio.to_thread(until, lambda: _subscribed(client, run.id) == 2)
    own.stop()
    await asyncio.sleep(0.5)
    assert not any(wait.done() for wait in waits)
    own.start()
    with redis.Redis.from_url(own.url) as client:
        await asyncio.to_thread(until, lambda: _subscribed(client, run.id) == 2)
    assert await run.acancel("enough")
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RunCancelledError}
    await app.aclose()
    app.close()


def _subscribed(client: redis.Redis, run_id: str) -> int:
    """How many connections are subscribed to the end of a run."""
    with contextlib.suppress(redis.ConnectionError):
        [(_, number)] = client.pubsub_numsub(f"stepflow:run-ended:{run_id}")
        return number
    return 0


async def test_a_wait_without_the_right_to_subscribe_is_a_typed_error(own: EmbeddedServer) -> None:
    with redis.Redis.from_url(own.url) as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">deaf", "~*", "&*", "+@all", "-subscribe")
    app = Stepflow("shop", redis_url=own.url.replace("//", "//deaf:deaf@"))

    @app.function("never")
    async def never(ctx: Context) -> None: ...

    run = app.start(never)
    for _ in range(2):
        with pytest.raises(PermissionDeniedError, match="subscribe"):
            await asyncio.to_thread(run.result, 20)
        with pytest.raises(PermissionDeniedError, match="subscribe"):
            await run.aresult(20)
    await app.aclose()
    app.close()


async def test_a_wait_gives_up_on_a_server_that_stays_away(
    own: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepflow_broker.views.results._AWAY_S", 0.1)
    app = Stepflow("shop", redis_url=own.url)

    @app.function("never")
    async def never(ctx: Context) -> None: ...

    run = app.start(never)
    waits = [asyncio.create_task(run.aresult(60)), asyncio.create_task(asyncio.to_thread(run.result, 60))]
    with redis.Redis.from_url(own.url) as client:
        await asyncio.to_thread(until, lambda: _subscribed(client, run.id) == 2)
    own.stop()
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BackendUnavailableError}
    await app.aclose()
    app.close()
