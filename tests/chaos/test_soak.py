"""A worker that works for long: its memory, its files and the server's keys are at the end what they were at first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from stepflow import Context, Stepflow
from stepflow_broker.transitions.runs.run_control import forget_runs
from tests.chaos.health import check_health
from tests.support.plain import PLAIN
from tests.support.processes import WorkerProcess, until

STEPS = 10
BATCH = 500
MIB = 1024 * 1024
GROWTH_MIB = 16
"""What allocators and caches may keep; 1,000,000 steps that leak 17 bytes each are over it."""

app = Stepflow("soak", retention="2s")


async def nothing(value: int) -> int:
    return value


@app.function("ten")
async def ten(ctx: Context) -> int:
    """Ten steps, an event that is waited for among them, and a child."""
    total = 0
    for n in range(STEPS - 2):
        total += await ctx.step.run(f"s{n}", nothing, n)
    await ctx.step.sleep("nap", 0.01)
    return total + await ctx.step.invoke("one", one)


@app.function("one")
async def one(ctx: Context) -> int:
    return await ctx.step.run("s", nothing, 1)


@dataclass(frozen=True, slots=True)
class Use:
    """What a worker and the server use."""

    memory_mib: float
    files: int
    keys: int
    clients: int

    @classmethod
    def of(cls, worker: WorkerProcess, client: redis.Redis) -> Use:
        status = Path(f"/proc/{worker.pid}/status").read_text()
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        files = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
        keys = len(list(client.scan_iter("*", count=1_000)))  # DBSIZE counts those that have expired, too
        return cls(kib / 1024, files, keys, client.info("clients")["connected_clients"])


@pytest.mark.timeout(3600)
def test_after_very_many_steps_nothing_has_grown(
    url: str, client: redis.Redis, start_worker, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = 1_000_000 if long else 10_000
    worker = start_worker("tests.chaos.test_soak:app", lease_ms=10_000)
    until(lambda: client.hlen("stepflow:functions") == 2, what="the registration")
    producer = Stepflow("soak", redis_url=url, retention="2s")
    rounds = steps // (STEPS * BATCH)
    _work(producer, client, max(1, rounds // 10))
    before, began = _at_rest(producer, client, worker), time.monotonic()
    _work(producer, client, rounds)
    took = time.monotonic() - began
    after = _at_rest(producer, client, worker)
    with capsys.disabled():
        print(f"\n{rounds * BATCH * STEPS:,} steps in {took:.0f} s: before {before}, after {after}")
    assert (after.files, after.keys, after.clients) == (before.files, before.keys, before.clients)
    assert after.memory_mib < before.memory_mib + GROWTH_MIB
    check_health(url, client)


def _work(producer: Stepflow, client: redis.Redis, rounds: int) -> None:
    """Start runs, as many at a time as are soon done, until all have ended."""
    for _ in range(rounds):
        producer.start_many("soak/ten", [None] * BATCH)
        until(lambda: client.zcard("stepflow:live") < BATCH, seconds=120, what="room for more runs")
    until(lambda: not client.zcard("stepflow:live"), seconds=120, what="the end of all runs")


def _at_rest(producer: Stepflow, client: redis.Redis, worker: WorkerProcess) -> Use:
    """What is used when everything that has ended is forgotten."""
    until(lambda: not _left(client), what="the end of the retention")
    while any(producer.backend.broker.execute(forget_runs(PLAIN, limit=500))):
        pass
    return Use.of(worker, client)


def _left(client: redis.Redis) -> bool:
    """Whether anything of a run is still kept."""
    kinds = ("run", "memos", "order")
    return any(next(client.scan_iter(f"stepflow:{kind}:*", count=1_000), None) for kind in kinds)
