"""Durability "replicated": what is acknowledged is on a replica too, or the producer is told that it may not be."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from stepflow import BackendUnavailableError, ConfigurationError, Context, Event, ReplicationError, RunStatus, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.protocol.keys import Keys
from tests.support.processes import until

KEYS = Keys()
pytestmark = [pytest.mark.single_server("a primary and a replica of its own"), pytest.mark.slow]


class Pair:
    """A primary and its replica, and an app whose producers want both to have what they send."""

    def __init__(self, folder: Path) -> None:
        self._servers = [EmbeddedServer(folder / name, repl_diskless_sync_delay="0") for name in ("primary", "replica")]

    def __enter__(self) -> Pair:
        primary, replica = [server.start() for server in self._servers]
        self.primary = redis.Redis(port=primary.port, decode_responses=True)
        self.replica = redis.Redis(port=replica.port, decode_responses=True)
        self.replica.replicaof("127.0.0.1", str(primary.port))
        until(lambda: self.primary.wait(1, 100) == 1, what="the replica")
        self.app = make_app(primary.url)
        return self

    def __exit__(self, *_: object) -> None:
        self.app.close()
        for client, server in zip((self.primary, self.replica), self._servers, strict=True):
            client.close()
            server.stop()

    @contextmanager
    def replica_stopped(self) -> Iterator[None]:
        process = self._servers[1].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def calls(self, command: str) -> int:
        return int(self.primary.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def make_app(url: str) -> Stepflow:
    app = Stepflow("safe", redis_url=url, durability="replicated", replica_timeout="2s")

    @app.function("noted", event="note")
    async def noted(ctx: Context) -> None:
        """Never executed here."""

    return app


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path) as found:
        yield found


def test_what_start_start_many_and_send_have_acknowledged_is_on_the_replica(pair: Pair) -> None:
    runs = [pair.app.start("noted", {}, id="one"), *pair.app.start_many("noted", [{}] * 250)]
    assert [pair.replica.exists(KEYS("RUN", run.id)) for run in runs] == [1] * 251
    pair.app.send("note", {})
    pair.app.send([Event("note", {}), Event("note", {})])
    assert pair.replica.xlen(KEYS("EVENTS")) == 3


async def test_so_is_what_their_twins_have_acknowledged(pair: Pair) -> None:
    runs = [await pair.app.astart("noted", {}), *await pair.app.astart_many("noted", [{}] * 250)]
    assert [pair.replica.exists(KEYS("RUN", run.id)) for run in runs] == [1] * 251
    await pair.app.asend("note", {})
    assert pair.replica.xlen(KEYS("EVENTS")) == 1
    await pair.app.aclose()


async def test_starts_of_one_loop_that_come_together_wait_for_the_replica_together(pair: Pair) -> None:
    await pair.app.astart("noted", {})
    before = pair.calls("wait")
    runs = await asyncio.gather(*[pair.app.astart("noted", {"n": n}) for n in range(200)])
    assert len({run.id for run in runs}) == 200
    assert pair.calls("wait") - before <= 4
    assert [pair.replica.exists(KEYS("RUN", run.id)) for run in runs] == [1] * 200
    await pair.app.aclose()


def test_a_start_that_no_replica_confirms_is_an_error_and_may_be_repeated(pair: Pair) -> None:
    with pair.replica_stopped():
        with pytest.raises(ReplicationError, match="may or may not survive a fail-over; the same call") as caught:
            pair.app.start("noted", {}, id="one")
        assert (caught.value.confirmed, caught.value.timeout_ms) == (0, 2_000)
        assert isinstance(caught.value, BackendUnavailableError)
    run = pair.app.start("noted", {}, id="one")
    assert run.status() is RunStatus.QUEUED
    assert pair.primary.zcard(KEYS("LIVE")) == 1


def test_a_repeated_start_is_not_confirmed_by_a_replica_that_lacks_the_first(pair: Pair) -> None:
    """The second call may write nothing itself; then its own connection has nothing to wait for."""
    with pair.replica_stopped():
        for _ in range(2):
            with pytest.raises(ReplicationError):
                pair.app.start("noted", {}, id="one")
            pair.app.close()


async def test_an_error_reaches_all_who_wait_together_and_the_next_call_is_made_anew(pair: Pair) -> None:
    with pair.replica_stopped():
        starts = [pair.app.astart("noted", {}, id=f"n{n}") for n in range(3)]
        errors = await asyncio.gather(*starts, return_exceptions=True)
        assert [type(error) for error in errors] == [ReplicationError] * 3
    await asyncio.gather(*[pair.app.astart("noted", {}, id=f"n{n}") for n in range(3)])
    assert pair.primary.zcard(KEYS("LIVE")) == 3
    await pair.app.aclose()


def test_a_script_that_the_server_has_forgotten_is_sent_again_before_the_wait(pair: Pair) -> None:
    pair.primary.script_flush()
    run = pair.app.start("noted", {})
    assert pair.replica.exists(KEYS("RUN", run.id))
    assert pair.calls("wait") >= 2


def test_without_any_replica_the_error_comes_when_the_time_is_over(url: str) -> None:
    app = make_app(url)
    with pytest.raises(ReplicationError, match="within 2s"):
        app.start("noted", {})
    app.close()


def test_nothing_is_left_behind_for_good(pair: Pair) -> None:
    pair.app.start("noted", {})
    assert 0 < pair.primary.ttl(KEYS("REPLICATED")) <= 60


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"durability": "both"}, '"primary" or "replicated"'),
        ({"replica_timeout": 0}, "at least 1ms"),
        ({"replica_timeout": "11s"}, "at most 10s"),
        ({"replica_timeout": "soon"}, "replica_timeout"),
    ],
)
def test_a_durability_that_is_none_is_refused_when_the_app_is_made(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Stepflow("safe", **settings)  # type: ignore[arg-type]
