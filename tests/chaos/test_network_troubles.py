"""The network between workers and server fails: late replies, useless connections, a worker that is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepflow import Stepflow
from stepflow_broker.protocol.keys import Keys
from tests.support.ledgers import EffectLedger
from tests.support.load import Load
from tests.support.processes import until
from tests.support.proxy import Proxy
from tests.support.site import Site

KEYS = Keys()
Capsys = pytest.CaptureFixture[str]


@pytest.mark.timeout(1800)
def test_replies_that_are_late_lose_and_double_nothing(tmp_path: Path, long: bool, capsys: Capsys) -> None:
    with Site(tmp_path, capsys) as site, Proxy(site.server.port, seed=site.seed) as proxy:
        site.start_workers(2, url=proxy.url)
        proxy.delay_s = (0.05, 0.5)
        with Load(proxy.url, tmp_path) as load:
            load.await_starts(300 if long else 15)
        load.settle(site.client)
        site.say(f"{proxy.delays} late replies, {load}")
        assert proxy.delays > 100
        assert load.lost(site.client) == []
        assert load.effects.repeats().total() == 0


def test_workers_come_back_from_connections_that_are_accepted_and_never_answered(
    tmp_path: Path, capsys: Capsys
) -> None:
    with Site(tmp_path, capsys) as site, Proxy(site.server.port, seed=site.seed) as proxy:
        workers = site.start_workers(2, url=proxy.url)
        with Load(site.server.url, tmp_path) as load:
            load.await_starts(20)
            with proxy.silent():
                proxy.cut_all()
                until(lambda: proxy.silenced >= 2 * len(workers), what="the half-open connections")
            back_s = site.await_work(load.effects)
        load.settle(site.client)
        site.say(f"{proxy.silenced} half-open connections, {load}; all worked again after {back_s:.1f} s")
        assert load.lost(site.client) == []


def test_workers_pause_between_connections_that_are_accepted_and_closed(tmp_path: Path, capsys: Capsys) -> None:
    with Site(tmp_path, capsys) as site, Proxy(site.server.port, seed=site.seed) as proxy:
        site.start_workers(1, url=proxy.url)
        with Load(site.server.url, tmp_path) as load:
            load.await_starts(20)
            with proxy.closing():
                proxy.cut_all()
                load.await_starts(150)
                refused = proxy.refused
            site.await_work(load.effects)
        load.settle(site.client)
        site.say(f"{refused} connections were closed at once, {load}")
        assert 2 <= refused < 100


def test_what_a_worker_commits_after_it_was_cut_off_for_three_leases_is_refused(tmp_path: Path, capsys: Capsys) -> None:
    gates = [tmp_path / "first", tmp_path / "second"]
    effects = EffectLedger(tmp_path / "effects")
    with Site(tmp_path, capsys) as site, Proxy(site.server.port, seed=site.seed) as proxy:
        (cut_off,) = site.start_workers(1, url=proxy.url, lease_ms=1_000)
        app = Stepflow("faults", redis_url=site.server.url)
        run = app.start("faults/gated", {"ledger": str(effects.path), "gates": [str(gate) for gate in gates]})
        until(lambda: effects.count(run.id, "g0") == 1, what="the first execution")
        with proxy.blackhole():
            (other,) = site.start_workers(1, lease_ms=1_000)
            until(lambda: effects.count(run.id, "g0") == 2, what="the execution elsewhere")
            gates[0].touch()  # both executions end
            until(lambda: effects.count(run.id, "g1") == 1, what="the other's next step")
            until(lambda: site.client.hlen(KEYS("MEMOS", run.id)) == 1, what="the other's commit")
        until(lambda: "lease_lost" in cut_off.log.read_text(), what="the refusal")
        assert "lease_lost" not in other.log.read_text()
        gates[1].touch()
        assert run.result(20) == [effect.note for effect in effects.effects() if effect.pid == other.pid]
        assert effects.count(run.id) == 3
        load = Load(site.server.url, tmp_path)
        with load:
            site.await_work(load.effects)
        load.settle(site.client)
        app.close()
