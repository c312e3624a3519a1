"""Connections of event loops that have ended, of processes, and of apps that are closed."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import redis

from stepflow import Context, ResultTimeoutError, Run, RunCancelledError, Stepflow
from stepflow.client.connections import LoopConnections, ProcessConnections
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.protocol.command import command
from tests.support.command_line import environment
from tests.support.processes import until


def connections(client: redis.Redis) -> int:
    return len(client.client_list())


def files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def use(app: Stepflow, client: redis.Redis | None = None) -> None:
    """Use every kind of connection of an event loop. With a client: until the loop is subscribed to the run's end."""
    run = await app.astart("never")
    with pytest.raises(ResultTimeoutError):
        await run.aresult(0.01)
    if client is not None:
        waits = asyncio.ensure_future(run.aresult(60))
        while not client.pubsub_channels(f"*{run.id}*"):
            await asyncio.sleep(0.005)
        waits.cancel()
        await asyncio.wait([waits])


@pytest.fixture
def app(url: str) -> Stepflow:
    app = Stepflow("shop", redis_url=url)

    @app.function("never")
    async def never(ctx: Context) -> None: ...

    return app


def test_the_end_of_a_loop_closes_its_connections_in_silence(app: Stepflow, client: redis.Redis) -> None:
    asyncio.run(use(app))
    gc.collect()
    connected, opened = connections(client), files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            asyncio.run(use(app))
        gc.collect()
    until(lambda: connections(client) <= connected)
    assert files() <= opened
    assert app.backend._loops == {} or len(app.backend._loops) == 1


def test_a_loop_that_is_closed_without_a_shutdown_is_dropped_by_the_next(app: Stepflow, client: redis.Redis) -> None:
    connected, opened = connections(client), files()
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(app, client))
        loop.close()
    assert len(app.backend._loops) == 1
    until(lambda: connections(client) - connected <= 2 * len(app.backend.partition.all))
    app.close()
    until(lambda: connections(client) <= connected)
    del loop
    gc.collect()
    assert files() <= opened


def test_loops_of_several_threads_do_not_close_each_others_connections(app: Stepflow) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                asyncio.run(use(app))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_the_end_of_a_loop_does_not_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    app = Stepflow("shop")

    async def lose(server: EmbeddedServer) -> None:
        app.backend._url = server.url
        assert await app.asend("x")
        server.kill()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            asyncio.get_running_loop().create_task(app.asend("y"))
            await asyncio.sleep(0.05)

    with EmbeddedServer(tmp_path / "own") as server:
        asyncio.run(lose(server))


async def test_a_closed_app_opens_new_connections(app: Stepflow, client: redis.Redis) -> None:
    connected = connections(client)
    for _ in range(2):
        async with app.lifespan():
            await use(app)
            app.start("never")
        await asyncio.to_thread(until, lambda: connections(client) <= connected)
    run = app.start("never")
    app.close()
    assert run.status().value == "queued"
    app.close()
    app.close()
    await app.aclose()


async def test_a_call_in_another_thread_outlives_the_closing_of_its_app(app: Stepflow) -> None:
    stop = threading.Event()
    errors: list[Exception] = []

    def start() -> None:
        while not stop.is_set():
            try:
                app.start("never")
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        app.close()
        await asyncio.sleep(0.002)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_waits_of_other_threads_outlive_the_closing_of_their_app_and_learn_the_end_at_once(
    app: Stepflow, client: redis.Redis
) -> None:
    before, outcomes = connections(client), list[str]()

    def wait(run: Run[None]) -> None:
        with pytest.raises(RunCancelledError):
            run.result(60)
        outcomes.append("told")

    runs = [app.start("never") for _ in range(4)]
    threads = [threading.Thread(target=wait, args=[run]) for run in runs]
    for thread in threads:
        thread.start()
    until(lambda: are_subscribed(app, app.backend._of_process(), runs))
    app.close()
    for run in runs:
        app.run(run.id).cancel()
    for thread in threads:
        thread.join(4)  # a wait that only polls would take five seconds
    assert outcomes == ["told"] * 4
    app.close()
    until(lambda: connections(client) <= before)


async def test_waits_of_other_tasks_outlive_the_closing_of_their_app_and_learn_the_end_at_once(
    app: Stepflow, client: redis.Redis
) -> None:
    before = connections(client)
    runs = [await app.astart("never") for _ in range(4)]
    waits = [asyncio.create_task(run.aresult(60)) for run in runs]
    subscribers = app.backend._of_loop()
    await asyncio.to_thread(until, lambda: are_subscribed(app, subscribers, runs))
    await app.aclose()
    for run in runs:
        await app.run(run.id).acancel()
    async with asyncio.timeout(4):
        ends = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ends] == [RunCancelledError] * 4
    await app.aclose()
    await asyncio.to_thread(until, lambda: connections(client) <= before)


def are_subscribed(app: Stepflow, used: ProcessConnections | LoopConnections, runs: list[Run[None]]) -> bool:
    return all(used.subscriber(app.backend.partition.of(run.id)).waits.is_confirmed(run.id) for run in runs)


async def test_an_operation_that_goes_on_after_the_closing_leaves_no_connection(
    app: Stepflow, client: redis.Redis
) -> None:
    before = connections(client)
    blocking, asynchronous = app.backend.broker, app.backend.abroker
    app.start("never")
    await app.astart("never")
    await app.aclose()
    ping = command(str, "PING")
    for _ in range(3):
        blocking.execute(ping)
        await asyncio.gather(*[asynchronous.execute(ping) for _ in range(10)])
        await asyncio.to_thread(until, lambda: connections(client) <= before)


def test_a_signal_handler_may_close_the_app_while_it_chooses_its_connections(
    app: Stepflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_of = ProcessConnections.is_of

    def interrupted(self: ProcessConnections, url: str) -> bool:
        app.close()
        return is_of(self, url)

    app.start("never")
    monkeypatch.setattr(ProcessConnections, "is_of", interrupted)
    assert app.start("never").status().value == "queued"


async def test_a_changed_url_in_the_environment_leads_to_the_new_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Stepflow("shop")
    for name in ("first", "second"):
        with EmbeddedServer(tmp_path / name) as server, redis.Redis.from_url(server.url) as client:
            monkeypatch.setenv("STEPFLOW_REDIS_URL", server.url)
            app.send("blocking")
            await app.asend("asyncio")
            assert client.xlen("stepflow:events") == 2
    await app.aclose()


FEW_FILES = """
import asyncio, resource
from stepflow import Stepflow

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
app = Stepflow("shop")
for _ in range(100):
    asyncio.run(app.asend("x"))
print("sent")
"""


def test_a_process_with_few_files_can_use_many_loops(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", FEW_FILES],
        env=environment(STEPFLOW_REDIS_URL=url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("sent\n", "")
