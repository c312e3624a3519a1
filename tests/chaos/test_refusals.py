"""The server refuses workers that have started: another password, a right that is missing. It is an outage."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from stepflow_broker.access.acl import rules
from stepflow_broker.access.roles import WORKER
from tests.chaos.health import check_health
from tests.support.load import Load
from tests.support.processes import WorkerProcess
from tests.support.redis_server import FaultyServer
from tests.support.site import APP, Site

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


RIGHTS = [word for word in rules(WORKER) if word.startswith("+")]
"""All commands of a worker. The long size takes away each."""
SHORT = ["+evalsha", "+xreadgroup", "+pexpire", "+rpush", "+hget"]
LEASE_MS = 3_000
"""Shorter than the time for which a right is missing, so that all leases end meanwhile."""


def _deaths(client: redis.Redis) -> list[str]:
    """The runs and steps for which a worker counts as dead."""
    found = []
    for key in client.scan_iter("stepflow:run:*", count=1_000):
        found += [key] if client.hexists(key, "deaths") else []
    for key in client.scan_iter("stepflow:steps:*", count=1_000):
        found += [field for field in client.hkeys(key) if field.endswith(":deaths")]
    return found


def _take_away(site: Site, admin: redis.Redis, load: Load, right: str, *, seconds: float) -> list[str]:
    """Take a right away for a while under load; the deaths that were counted by then."""
    load.await_starts(20)
    _set_rights(admin, without=right)
    time.sleep(seconds)
    _set_rights(admin)
    site.await_work(load.effects)
    return _deaths(site.client)


@pytest.mark.timeout(1800)
def test_a_right_that_is_missing_for_a_while_is_an_outage(tmp_path: Path, long: bool, capsys: Capsys) -> None:
    """No script stops half-way, no worker counts as dead, and the log names the right, once for each worker."""
    with Site(tmp_path, capsys) as site, site.server.admin() as admin:
        _set_rights(admin)
        site.start_workers(2, url=_url(site.server), lease_ms=LEASE_MS)
        with Load(site.server.url, tmp_path) as load:
            for right in RIGHTS if long else SHORT:
                deaths = _take_away(site, admin, load, right, seconds=4.0)
                assert (right, deaths) == (right, [])
                assert len(site.alive) == 2
        load.settle(site.client)
        site.say(f"{load}; jobs reclaimed: {site.reclaimed}")
        assert load.lost(site.client) == []
        assert site.reclaimed == 0
        check_health(site.server.url, site.client)
        for right in SHORT:
            assert _log(site).count(f" server_refuses right={right[1:]} ") == 2, right


def test_a_user_without_the_rights_of_a_worker_is_refused_at_the_start(tmp_path: Path, capsys: Capsys) -> None:
    with Site(tmp_path, capsys) as site, site.server.admin() as admin:
        for missing in ("+pexpire", "~stepflow:waits:*", "&stepflow:pauses"):
            _set_rights(admin, without=missing)
            log = tmp_path / f"{missing[1:5]}.log"
            worker = WorkerProcess(_url(site.server), APP, log=log)
            assert worker.process.wait(timeout=30) != 0
            assert f"lacks rights of role worker: {missing}; extend" in log.read_text()
