"""The server runs and cannot do as it is asked: scripts forgotten, busy, out of memory, disk full, no replica."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.load import Load
from tests.support.processes import until
from tests.support.proxy import Proxy
from tests.support.redis_server import FaultyServer
from tests.support.site import Site

Capsys = pytest.CaptureFixture[str]
LEASE_MS = 1_000
REFUSED_S = 25.0
"""How long writes are refused at length: long enough for a job to be taken for one that kills its workers."""


@contextmanager
def flushing_scripts(site: Site) -> Iterator[None]:
    """Have the server forget all scripts, ten times a second."""
    stop = threading.Event()

    def flush() -> None:
        with site.server.admin() as admin:
            while not stop.wait(0.1):
                admin.script_flush()

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


@pytest.mark.timeout(600)
def test_scripts_that_the_server_forgets_all_the_time_are_sent_again(
    tmp_path: Path, long: bool, capsys: Capsys
) -> None:
    with Site(tmp_path, capsys) as site:
        site.start_workers(1)
        site.start_workers(1, sticky=1)
        with flushing_scripts(site), Load(site.server.url, tmp_path, pause_s=0.01) as load:
            load.await_starts(5_000 if long else 300)
        load.settle(site.client)
        flushes = site.client.info("commandstats")["cmdstat_script|flush"]["calls"]
        unknown = site.client.info("errorstats")["errorstat_NOSCRIPT"]["count"]
        site.say(f"{flushes} flushes, {unknown} scripts were unknown, {load}")
        assert min(flushes, unknown) > 10
        assert load.lost(site.client) == []
        assert load.effects.repeats().total() == 0


@pytest.mark.timeout(600)
def test_a_foreign_script_that_blocks_the_server_only_delays(tmp_path: Path, long: bool, capsys: Capsys) -> None:
    seconds = 6 if long else 3
    script = f"""
        local began = redis.call('TIME')[1]
        while redis.call('TIME')[1] - began < {seconds} do end
    """
    with Site(tmp_path, capsys, busy_reply_threshold="200") as site, Proxy(site.server.port, seed=site.seed) as proxy:
        site.start_workers(2, url=proxy.url)
        with Load(site.server.url, tmp_path) as load:
            for cut in (False, True):
                load.await_starts(20)
                with site.server.admin() as admin:
                    blocker = threading.Thread(target=admin.eval, args=(script, 0))
                    blocker.start()
                    until(lambda: _is_busy(site.server), what="the block")
                    if cut:
                        proxy.cut_all()
                    blocker.join()
                site.await_work(load.effects)
        load.settle(site.client)
        busy = site.client.info("errorstats")["errorstat_BUSY"]["count"]
        site.say(f"blocked for {seconds} s twice, {busy} times BUSY, {load}")
        assert busy > 5
        assert load.lost(site.client) == []
        assert all("notifications_interrupted" in worker.log.read_text() for worker in site.workers)


FAULTS = {
    "out_of_memory": "out of memory",
    "without_replicas": "NOREPLICAS",
    "full_disk": "MISCONF",
    "failing_snapshots": "MISCONF",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_writes_that_are_refused_for_a_while_are_typed_errors_and_leave_nothing_stuck(
    tmp_path: Path, long: bool, capsys: Capsys, fault: str
) -> None:
    with Site(tmp_path, capsys) as site:
        site.start_workers(2, lease_ms=LEASE_MS)
        with Load(site.server.url, tmp_path) as load:
            load.await_starts(40)
            refusing: AbstractContextManager[None] = getattr(site.server, fault)()
            with refusing:
                until(lambda: FAULTS[fault] in "".join(load.refused), what=f"the error: {load.refused}")
                threading.Event().wait(REFUSED_S if long else 5.0)
            site.await_work(load.effects)
        load.settle(site.client)
        site.say(f"{fault}: {load}; jobs reclaimed: {site.reclaimed}")
        assert load.lost(site.client) == []


def _is_busy(server: FaultyServer) -> bool:
    with server.admin() as admin:
        try:
            return not admin.ping()
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
