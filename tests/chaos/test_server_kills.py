"""The server is killed and restarted under load: nothing that it acknowledged is lost, and no worker stays deaf."""

from __future__ import annotations

from pathlib import Path

import pytest
from rq.command import send_shutdown_command

from tests.support.load import Load
from tests.support.site import Site

Capsys = pytest.CaptureFixture[str]


@pytest.mark.timeout(1800)
def test_with_fsync_always_kills_of_the_server_lose_nothing_acknowledged(
    tmp_path: Path, long: bool, capsys: Capsys
) -> None:
    kills, back_s = 20 if long else 3, []
    with Site(tmp_path, capsys, fsync="always") as site:
        site.start_workers(2)
        with Load(site.server.url, tmp_path) as load:
            for _ in range(kills):
                load.await_starts(site.chance.randint(10, 40))
                site.server.restart(away_s=site.chance.uniform(0.0, 3.0))
                back_s.append(site.await_work(load.effects))
        load.settle(site.client)
        site.say(f"{kills} kills of the server, {load}; each worker worked again after at most {max(back_s):.1f} s")
        assert site.server.kills == kills
        assert load.lost(site.client) == []


@pytest.mark.timeout(1800)
def test_kills_of_all_workers_and_the_server_at_once_lose_nothing(tmp_path: Path, long: bool, capsys: Capsys) -> None:
    kills = 20 if long else 2
    with Site(tmp_path, capsys, fsync="always") as site:
        site.start_workers(2)
        with Load(site.server.url, tmp_path) as load:
            for _ in range(kills):
                load.await_starts(site.chance.randint(10, 40))
                site.kill_workers()
                site.server.restart()
                site.start_workers(2)
                site.await_work(load.effects)
        load.settle(site.client)
        site.say(f"{kills} kills of everything, {load}")
        assert (site.server.kills, len(site.workers)) == (kills, 2 * kills + 2)
        assert load.lost(site.client) == []


@pytest.mark.timeout(600)
def test_after_a_server_was_away_for_seconds_no_worker_is_deaf_to_events_or_commands(
    tmp_path: Path, long: bool, capsys: Capsys
) -> None:
    with Site(tmp_path, capsys) as site:
        (worker,) = site.start_workers(1)
        with Load(site.server.url, tmp_path) as load:
            for away_s in (3.0, 30.0) if long else (3.0,):
                load.await_starts(20)
                site.server.restart(away_s=away_s)
                site.await_work(load.effects)
        load.settle(site.client)
        assert load.lost(site.client) == []
        (name,) = (key.removeprefix("rq:worker:") for key in site.client.scan_iter("rq:worker:*"))
        send_shutdown_command(site.client, name)
        assert worker.process.wait(20) == 0
        assert {"routing_interrupted", "notifications_interrupted"} <= set(worker.log.read_text().split())
