"""The server refuses workers that have started: another password, a right that is missing. It is an outage."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from stepflow_broker.access.acl import rules
from stepflow_broker.access.roles import WORKER
from tests.support.load import Load
from tests.support.processes import until
from tests.support.redis_server import FaultyServer
from tests.support.site import Site

Capsys = pytest.CaptureFixture[str]
USER, PASSWORD = "a-worker", "before"


def _url(server: FaultyServer) -> str:
    return server.url.replace("redis://", f"redis://{USER}:{PASSWORD}@")


def _set_rights(admin: redis.Redis, *, without: str = "") -> None:
    words = [word for cluster in (False, True) for word in rules(WORKER, cluster=cluster) if word != without]
    admin.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *dict.fromkeys(words))


def _log(site: Site) -> str:
    return "".join(worker.log.read_text() for worker in site.workers)


@pytest.mark.timeout(600)
def test_a_password_that_changes_before_the_workers_know_it_is_an_outage(
    tmp_path: Path, long: bool, capsys: Capsys
) -> None:
    with Site(tmp_path, capsys) as site, site.server.admin() as admin:
        _set_rights(admin)
        site.start_workers(2, url=_url(site.server))
        with Load(site.server.url, tmp_path) as load:
            load.await_starts(20)
            admin.execute_command("ACL", "SETUSER", USER, "resetpass", ">after")
            for client in admin.client_list():
                if client.get("user") == USER:
                    admin.client_kill_filter(_id=client["id"])
            time.sleep(20.0 if long else 4.0)
            assert len(site.alive) == 2
            _set_rights(admin)
            site.await_work(load.effects)
        load.settle(site.client)
        site.say(f"{load}; jobs reclaimed: {site.reclaimed}")
        assert "refuses the user or password" in _log(site)
        assert load.lost(site.client) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("right", ["+evalsha", "+xreadgroup"])
def test_a_right_that_is_missing_for_a_while_is_an_outage(
    tmp_path: Path, long: bool, capsys: Capsys, right: str
) -> None:
    with Site(tmp_path, capsys) as site, site.server.admin() as admin:
        _set_rights(admin)
        site.start_workers(2, url=_url(site.server))
        with Load(site.server.url, tmp_path) as load:
            load.await_starts(20)
            _set_rights(admin, without=right)
            until(lambda: right[1:] in _log(site), what="the refusal in the log")
            time.sleep(20.0 if long else 4.0)
            _set_rights(admin)
            site.await_work(load.effects)
            assert len(site.alive) == 2
        load.settle(site.client)
        site.say(f"{right}: {load}; jobs reclaimed: {site.reclaimed}")
        assert load.lost(site.client) == []
