"""A cluster under load: its slots move, and its primaries are killed. What that loses, and that nothing is left stuck.

A move stands still half-way until the server has refused a script: then the partition stands still too, and goes on
when the move is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from stepflow import Stepflow
from stepflow_broker.doctor.examine import examine
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import keys_for
from stepflow_engine.errors import BackendUnavailableError
from stepflow_engine.ids import run_id_for
from tests.chaos.health import check_health
from tests.support.cluster import LocalCluster, slot_of
from tests.support.command_line import call
from tests.support.load import Load
from tests.support.partition_merging_client import whole_client
from tests.support.plain import plain_partition
from tests.support.processes import WorkerProcess, until
from tests.support.site import APP, CONSUMING_S

LEASE_MS = 10_000  # the default: longer than a fail-over lasts, so that nobody counts as dead for one


@contextlib.contextmanager
def working(url: str, folder: Path, count: int = 2) -> Iterator[list[WorkerProcess]]:
    """Workers that are killed at the end; their logs are printed."""
    workers = [WorkerProcess(url, APP, log=folder / f"worker-{n}.log", lease_ms=LEASE_MS) for n in range(count)]
    try:
        until(lambda: all(" worker_started " in worker.log.read_text() for worker in workers), what="the workers")
        yield workers
        assert all(worker.process.poll() is None for worker in workers), "a worker died"
        assert not any("non local key" in worker.log.read_text() for worker in workers), "a script failed half-way"
    finally:
        for worker in workers:
            worker.kill()
            print(f"--- {worker.log.name}\n{worker.log.read_text()[-20_000:]}")


def slots_of(url: str) -> list[int]:
    """The slot of each partition."""
    return [slot_of(keys("LIVE")) for keys in keys_for(url).all]


def await_work(load: Load, workers: list[WorkerProcess], url: str, slots: Collection[int], since_ns: int) -> float:
    """Wait until each worker has executed a step of the partitions of these slots; how many seconds after a moment."""
    wanted, keys = {worker.pid for worker in workers}, keys_for(url)

    def have_all_worked() -> bool:
        done = [effect for effect in load.effects.effects() if effect.at_ns >= since_ns]
        return wanted <= {effect.pid for effect in done if slot_of(keys.of(effect.run_id)("LIVE")) in slots}

    until(have_all_worked, seconds=CONSUMING_S, what=f"work by all of {wanted} in what was moved")
    return (time.monotonic_ns() - since_ns) / 1e9


def move(cluster: LocalCluster, slot: int) -> float:
    """Move a slot to another primary, half-way held up until scripts were refused; for how many seconds."""
    source = cluster.owner(slot)
    refused, began = cluster.errors(), time.monotonic()
    target = next(node for node in cluster.primaries() if node is not source)
    with cluster.moving_slot(slot, target):
        until(lambda: (cluster.errors() - refused).keys() & {"TRYAGAIN", "ASK"}, what="a script that is refused")
    return time.monotonic() - began


def settle(cluster: LocalCluster, load: Load, workers: list[WorkerProcess], *, all_memos: bool) -> list[str]:
    """Wait until all has ended, and see that all is well; the acknowledged starts that the cluster does not know."""
    with whole_client(cluster.url) as client:
        load.settle(client, all_memos=all_memos)
        check_health(cluster.url, client)
        lost = load.lost(client)
    seen = call("workers", "--redis-url", cluster.url)
    assert (seen.returncode, seen.stdout.count(" faults")) == (0, len(workers)), seen.stderr
    assert cluster.errors()["CROSSSLOT"] == 0
    return lost


@pytest.mark.timeout(1800)
def test_slots_that_move_under_load_lose_nothing_and_leave_no_run_stuck(
    tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalCluster(tmp_path / "nodes") as cluster, working(cluster.url, tmp_path) as workers:
        slots, still_s = slots_of(cluster.url), []
        with Load(cluster.url, tmp_path, pause_s=0.01) as load:
            for slot in slots if long else slots[:2]:
                for _ in range(2):
                    load.await_starts(20)
                    still_s.append(move(cluster, slot))
                    await_work(load, workers, cluster.url, [slot], time.monotonic_ns())
        lost = settle(cluster, load, workers, all_memos=True)
        errors = cluster.errors()
        with capsys.disabled():
            print(
                f"\n{cluster.moves} moves of slots, half-way for at most {max(still_s) * 1000:.0f} ms: {load}; scripts "
                f"refused: {errors['TRYAGAIN'] + errors['ASK']}; CROSSSLOT: {errors['CROSSSLOT']}",
                end="",
            )
        assert lost == []
        assert cluster.moves == 2 * (len(slots) if long else 2)


@pytest.mark.timeout(1800)
def test_primaries_that_are_killed_under_load_leave_no_run_stuck_and_no_worker_deaf(
    tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1_000_000)
    chance, kills, gaps_ms, back_s = random.Random(seed), 10 if long else 1, [], []
    with LocalCluster(tmp_path / "nodes") as cluster, working(cluster.url, tmp_path) as workers:
        slots = slots_of(cluster.url)
        with Load(cluster.url, tmp_path, pause_s=0.01) as load:
            for _ in range(kills):
                load.await_starts(chance.randint(20, 60))
                killed_ns = time.monotonic_ns()
                slot = chance.choice(slots)
                hit = [other for other in slots if cluster.owner(other) is cluster.owner(slot)]
                dead = cluster.kill_primary(slot=slot)
                load.await_starts(20)
                gaps_ms.append(longest_gap_ms(load, killed_ns))
                back_s.append(await_work(load, workers, cluster.url, hit, killed_ns))
                cluster.restart(dead)
        repaired = repair(cluster.url)
        lost = settle(cluster, load, workers, all_memos=False)
        gaps_ms.sort()
        with capsys.disabled():
            print(
                f"\n{cluster.failovers} kills of primaries (seed {seed}): {len(lost)} of {len(load.starts.runs())} "
                f"acknowledged starts lost; no start acknowledged for {gaps_ms[0]} to {gaps_ms[-1]} ms (median "
                f"{gaps_ms[len(gaps_ms) // 2]}); all workers worked again after at most {max(back_s):.1f} s; "
                f"{repaired} findings repaired; {load}; CROSSSLOT: {cluster.errors()['CROSSSLOT']}",
                end="",
            )
        assert cluster.failovers == kills


def longest_gap_ms(load: Load, since_ns: int) -> int:
    """The longest time since a moment in which no start was acknowledged."""
    moments = [since_ns / 1e9, *(at for at in load.acknowledged_at.values() if at * 1e9 > since_ns)]
    return round(max(later - earlier for earlier, later in itertools.pairwise(moments)) * 1000)


def repair(url: str) -> int:
    """Have the doctor mend what a fail-over has left; how many findings it had."""
    broker = Broker(url)
    try:
        return len([finding for finding in examine(broker, plain_partition(url), repair=True) if finding.repaired])
    finally:
        broker.close()


def _run_ids(url: str, lost: Collection[int], count: int) -> tuple[list[str], list[str]]:
    """Ids of starts whose runs are in partitions that work, and in lost ones."""
    keys = keys_for(url)
    ids = [str(number) for number in range(20 * count)]
    parts: tuple[list[str], list[str]] = ([], [])
    for one in ids:
        run_id = run_id_for(one, "faults/gated")
        parts[slot_of(keys.of(run_id)("LIVE")) in lost].append(one)
    return parts[0][:count], parts[1][:count]


async def _run_async(app: Stepflow, data: object, run_id: str) -> object:
    try:
        return await (await app.astart("faults/gated", data, id=run_id)).aresult(10)
    finally:
        await app.aclose()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [0, 1])
def test_workers_and_producers_start_without_a_lost_primary_and_take_up_its_partitions(
    tmp_path: Path, long: bool, number: int
) -> None:
    """Each primary has a third of the partitions: the first that of the first partition, the second what all share."""
    options = {"replicas": 0, "cluster_require_full_coverage": "no"}
    with LocalCluster(tmp_path / "nodes", **options) as cluster:  # type: ignore[arg-type]
        url, node = cluster.url, cluster.primaries()[number]
        lost = [slot for slot in slots_of(url) if cluster.owner(slot) is node]
        there, missing = _run_ids(url, lost, 20 if long else 5)
        node.kill()
        until(lambda: all(one.cluster("INFO")["cluster_slots_fail"] != "0" for one in cluster.running), what="the loss")
        with working(url, tmp_path, 1) as workers, contextlib.closing(Stepflow("faults", redis_url=url)) as app:
            data = {"ledger": str(tmp_path / "effects"), "gates": []}
            runs = [app.start("faults/gated", data, id=one) for one in there[1:]]
            assert [run.result(10) for run in runs] == [[]] * len(runs)
            assert asyncio.run(_run_async(app, data, there[0])) == []
            log = workers[0].log.read_text()
            (line,) = [one for one in log.splitlines() if " partitions_unavailable " in one]
            assert line.count("sf:") == len(lost)
            with pytest.raises(BackendUnavailableError):
                app.start("faults/gated", data, id=missing[0])
            listed = call("runs", "list", "--redis-url", url)
            assert (listed.returncode, listed.stdout.count("faults/gated")) == (0, len(there)), listed.stderr
            assert f"{len(lost)} of {len(slots_of(url))} partitions do not answer" in listed.stderr
            assert call("queues", "--redis-url", url).returncode == 0
            assert call("runs", "show", runs[0].id, "--redis-url", url).returncode == 0
            node.start()
            cluster.await_agreement()
            until(lambda: workers[0].log.read_text().count(" partition_available ") == len(lost), what="the partitions")
            runs = [app.start("faults/gated", data, id=one) for one in missing]
            assert [run.result(10) for run in runs] == [[]] * len(runs)
            until(lambda: call("workers", "--redis-url", url).stdout.count(" faults") == 1, what="the registration")
            with whole_client(url) as client:
                check_health(url, client)
