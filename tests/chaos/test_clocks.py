"""Wrong clocks: the server's alone counts. Workers' may be off, and the server's may jump."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import pytest

from stepflow import Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.views.listings import read_workers
from tests.chaos.health import check_health
from tests.support.clocks import MovedServer, shifted
from tests.support.ledgers import EffectLedger
from tests.support.load import Load
from tests.support.processes import until
from tests.support.site import Site

pytestmark = pytest.mark.needs("libfaketime")

Capsys = pytest.CaptureFixture[str]
KEYS = Keys()
OFF_S = 600
MOVED_S = 60
DAY_S = 86_400


def at_s(effects: EffectLedger, run_id: str, step: str) -> float:
    """When a step of a run was executed, by the clock that only grows."""
    return next(effect.at_ns for effect in effects.effects() if (effect.run_id, effect.step) == (run_id, step)) / 1e9


def told_clocks(app: Stepflow) -> dict[int, int]:
    """By how much each worker's clock is off, as its heartbeat tells: process id → seconds, by ten minutes."""
    producer, now = app.backend, time.time()
    seen = {worker.pid: worker.last_heartbeat for worker in read_workers(producer.broker, producer.partition)}
    return {pid: round(((ms or 0) / 1000 - now) / OFF_S) * OFF_S for pid, ms in seen.items()}


@pytest.mark.timeout(600)
def test_workers_whose_clocks_are_ten_minutes_off_lose_double_and_wake_nothing_early(
    tmp_path: Path, long: bool, capsys: Capsys
) -> None:
    with Site(tmp_path, capsys) as site:
        for seconds in (-OFF_S, 0, OFF_S):
            site.start_workers(1, env=shifted(seconds))
        offs = {worker.pid: off for worker, off in zip(site.workers, (-OFF_S, 0, OFF_S), strict=True)}
        app = Stepflow("faults", redis_url=site.server.url)
        with Load(site.server.url, tmp_path) as load:
            due_s, due = time.monotonic() + 4, time.time() + 4
            data = {"ledger": str(load.effects.path), "for": "1.5s", "until": due}
            naps = app.start_many("faults/nap", [data] * 60)
            load.await_starts(1_000 if long else 100)
            site.await_work(load.effects)
            for nap in naps:
                nap.result(60)
        load.settle(site.client)
        told = told_clocks(app)
        site.say(f"three workers, clocks off by {sorted(offs.values())} s, {load}")
        assert told == offs
        assert load.lost(site.client) == []
        assert load.effects.repeats().total() == 0
        assert site.reclaimed == 0
        check_health(site.server.url, site.client)
        for nap in naps:
            assert at_s(load.effects, nap.id, "slept") - at_s(load.effects, nap.id, "before") >= 1.49
            assert at_s(load.effects, nap.id, "woke") >= due_s - 0.01
        app.close()


def have_all_seen(site: Site, server: MovedServer) -> bool:
    """Whether, since the last jump, a worker has looked at the leases, and all have been extended."""
    looked_s, now_s = int(site.client.get(KEYS("LAST_LEASE_SCAN")).split()[0]) / 1000, server.now()
    return abs(now_s - looked_s) < MOVED_S / 2 and not site.client.zcount(KEYS("LEASES"), "-inf", now_s * 1000)


def await_lease_scan(site: Site, server: MovedServer) -> None:
    """Wait until a worker has seen the present time of the server: all do within a few seconds."""

    def seen_ms() -> int:
        return int(site.client.get(KEYS("LAST_LEASE_SCAN")).split()[0])

    first_ms = server.now() * 1000
    until(lambda: seen_ms() > first_ms + 4_000, what="a second scan of the leases")


@pytest.mark.timeout(600)
def test_a_server_whose_clock_jumps_loses_and_doubles_nothing(tmp_path: Path, long: bool, capsys: Capsys) -> None:
    with Site(tmp_path, capsys, kind=MovedServer) as site:
        server = cast(MovedServer, site.server)
        site.start_workers(3)
        with Load(server.url, tmp_path) as load:
            for seconds in (MOVED_S, 0, -MOVED_S, 0) * (5 if long else 1):
                load.await_starts(40)
                server.move(seconds)
                until(lambda seconds=seconds: abs(server.now() - time.time() - seconds) < 1, what="the jump")
                site.await_work(load.effects)
                until(lambda: have_all_seen(site, server), what="the extension of all leases")
        load.settle(site.client)
        site.say(f"{server.moves} jumps of the server's clock by {MOVED_S} s, {load}; jobs reclaimed: {site.reclaimed}")
        assert server.moves == (20 if long else 4)
        assert load.lost(site.client) == []
        assert load.effects.repeats().total() == 0
        check_health(server.url, site.client)


@pytest.mark.timeout(600)
def test_sleeps_last_as_long_as_the_servers_clock_says(tmp_path: Path, capsys: Capsys) -> None:
    with Site(tmp_path, capsys, kind=MovedServer) as site:
        server, effects = cast(MovedServer, site.server), EffectLedger(tmp_path / "effects")
        site.start_workers(2)
        app = Stepflow("faults", redis_url=server.url)
        data = {"ledger": str(effects.path), "for": f"{MOVED_S // 2}s"}

        def asleep(count: int) -> bool:
            return site.client.zcard(KEYS("TIMEOUTS")) == count

        began = time.monotonic()
        first = app.start("faults/nap", data)
        until(lambda: asleep(1), what="the first sleep")
        server.move(MOVED_S)
        first.result(30)
        assert time.monotonic() - began < MOVED_S // 2, "it did not wake by the server's clock"
        assert effects.repeats().total() == 0
        check_health(server.url, site.client)
        app.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ahead_s", [MOVED_S, 3 * DAY_S])
def test_what_began_while_the_clock_was_ahead_ends_after_its_time(tmp_path: Path, capsys: Capsys, ahead_s: int) -> None:
    with Site(tmp_path, capsys, kind=MovedServer) as site:
        server, effects = cast(MovedServer, site.server), EffectLedger(tmp_path / "effects")
        site.start_workers(2)
        app = Stepflow("faults", redis_url=server.url)
        data = {"ledger": str(effects.path), "for": "1s"}
        app.invoke("faults/nap", data, timeout=30)
        server.move(ahead_s)
        nap = app.start("faults/nap", {**data, "for": "15s"})
        until(lambda: site.client.zcard(KEYS("TIMEOUTS")) == 1, what="the sleep")
        await_lease_scan(site, server)
        server.move(0)
        ((_, due_ms),) = site.client.zrange(KEYS("TIMEOUTS"), 0, -1, withscores=True)
        assert due_ms / 1000 > server.now() + ahead_s - 30, "it began before the clock was ahead"
        nap.result(60)
        app.invoke("faults/nap", data, timeout=60)
        assert at_s(effects, nap.id, "slept") - at_s(effects, nap.id, "before") >= 15
        assert server.moves == 2
        assert effects.repeats().total() == 0
        check_health(server.url, site.client)
        app.close()
