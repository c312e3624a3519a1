"""Fail-overs by Sentinel under load: what they lose, how long they last, and that they leave nothing stuck.

A primary, two replicas and three sentinels are local processes. Before it is killed, the primary goes on alone for a
while: what it acknowledges then, no replica has. That is what `durability="replicated"` is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stepflow import Stepflow
from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from tests.chaos.health import check_health
from tests.support.command_line import call
from tests.support.ledgers import EffectLedger
from tests.support.load import Load
from tests.support.plain import PLAIN
from tests.support.processes import WorkerProcess, until
from tests.support.sentinels import PASSWORD, SENTINEL_PASSWORD, SentinelSet
from tests.support.site import APP, CONSUMING_S, pids_since

ALONE_S = 0.3
HEARD_S = 25.0
LEASE_MS = 10_000  # the default: longer than a fail-over lasts, so that nobody counts as dead for one


@contextlib.contextmanager
def working(url: str, folder: Path, count: int = 2) -> Iterator[list[WorkerProcess]]:
    """Workers that are killed at the end; their logs are printed, and name no password."""
    workers = [WorkerProcess(url, APP, log=folder / f"worker-{n}.log", lease_ms=LEASE_MS) for n in range(count)]
    try:
        until(lambda: all(" worker_started " in worker.log.read_text() for worker in workers), what="the workers")
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            print(f"--- {worker.log.name}\n{worker.log.read_text()[-20_000:]}")
    logs = "".join(worker.log.read_text() for worker in workers)
    assert "***@127.0.0.1" in logs
    assert PASSWORD not in logs
    assert SENTINEL_PASSWORD not in logs


def fail_over(servers: SentinelSet, load: Load, workers: list[WorkerProcess]) -> tuple[int, float]:
    """Kill the primary; how many ms no start was acknowledged, and after how many seconds all workers worked again."""
    killed_at = servers.kill_primary(alone_s=ALONE_S)
    killed_ns = time.monotonic_ns()
    servers.await_failover()
    load.await_starts(1)
    back_at = min(at for at in load.acknowledged_at.values() if at > killed_at)
    wanted = {worker.pid for worker in workers}
    until(lambda: wanted <= pids_since(load.effects, killed_ns), seconds=CONSUMING_S, what=f"work by all of {wanted}")
    return round((back_at - killed_at) * 1000), (time.monotonic_ns() - killed_ns) / 1e9


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("durability", ["primary", "replicated"])
def test_failovers_of_the_primary_leave_no_run_stuck_and_no_worker_deaf(
    tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str], durability: str
) -> None:
    seed = random.randrange(1_000_000)
    chance, count, gaps_ms, back_s = random.Random(seed), 10 if long else 2, [], []
    with SentinelSet(tmp_path / "servers") as servers, working(servers.url, tmp_path) as workers:
        with Load(servers.url, tmp_path, pause_s=0.01, durability=durability) as load:
            for n in range(count):
                if n:
                    servers.bring_back()
                load.await_starts(chance.randint(20, 60))
                gap_ms, seconds = fail_over(servers, load, workers)
                gaps_ms.append(gap_ms)
                back_s.append(seconds)
        assert all(worker.process.poll() is None for worker in workers)
        with servers.primary.admin() as client:
            repaired = repair(servers.url)
            load.settle(client, all_memos=False)
            lost = settled_losses(load, client)
            check_health(servers.url, client)
            seen = call("workers", "--redis-url", servers.url)
            assert (seen.returncode, seen.stdout.count(" faults")) == (0, len(workers)), seen.stderr
    gaps_ms.sort()
    with capsys.disabled():
        print(
            f"\n{servers.failovers} fail-overs (seed {seed}), durability {durability}: {len(lost)} of "
            f"{len(load.starts.runs())} acknowledged starts lost; no start acknowledged for {gaps_ms[0]} to "
            f"{gaps_ms[-1]} ms (median {gaps_ms[len(gaps_ms) // 2]}); all workers worked again after at most "
            f"{max(back_s):.1f} s; {repaired} findings repaired; {load}",
            end="",
        )
    assert servers.failovers == count
    if durability == "replicated":
        assert lost == []


@pytest.mark.timeout(300)
async def test_who_waits_for_a_result_hears_of_it_from_the_new_primary(tmp_path: Path) -> None:
    """Within a time that is shorter than that after which a waiter looks without having heard."""
    gate, effects = tmp_path / "gate", EffectLedger(tmp_path / "effects")
    with SentinelSet(tmp_path / "servers") as servers, working(servers.url, tmp_path, 1):
        app = Stepflow("faults", redis_url=servers.url)
        run = await app.astart("faults/gated", {"ledger": str(effects.path), "gates": [str(gate)]})
        waiting = [
            asyncio.create_task(run.aresult(HEARD_S)),
            asyncio.create_task(asyncio.to_thread(run.result, HEARD_S)),
        ]
        await asyncio.to_thread(until, lambda: effects.count(), what="the step")
        await asyncio.to_thread(servers.kill_primary)
        await asyncio.to_thread(servers.await_failover)
        gate.touch()
        assert await asyncio.gather(*waiting) == [[effects.effects()[-1].note]] * 2
        assert servers.failovers == 1
        await app.aclose()
        app.close()


@pytest.mark.timeout(300)
def test_a_sentinel_of_another_installation_leads_nobody_to_its_primary(tmp_path: Path) -> None:
    """It is the first in the URL, and answers at once."""
    with SentinelSet(tmp_path / "servers") as servers, servers.stray_sentinel() as (port, other):
        url = servers.url_with(port, *[sentinel.port for sentinel in servers.sentinels])
        with working(url, tmp_path, 1) as workers:
            app = Stepflow("faults", redis_url=url)
            run = app.start("faults/gated", {"ledger": str(tmp_path / "effects"), "gates": []})
            assert len(run.result(30)) == 0
            app.close()
            assert other.dbsize() == 0
            with servers.primary.admin() as admin:
                assert admin.exists(Keys()("RUN", run.id))
            log = workers[0].log.read_text()
        assert log.count(" sentinel_disagrees ") == 1
        assert f"sentinel=127.0.0.1:{port}" in log


def repair(url: str) -> int:
    """Have the doctor mend what a fail-over has left; how many findings it had."""
    broker = Broker(url)
    try:
        return len([finding for finding in examine(broker, PLAIN, repair=True) if finding.repaired])
    finally:
        broker.close()


def settled_losses(load: Load, client: redis.Redis) -> list[str]:
    """The acknowledged starts that the primary does not know, when no event is left that would start them."""
    assert client.xlen(Keys()("EVENTS")) == 0
    return load.lost(client)
