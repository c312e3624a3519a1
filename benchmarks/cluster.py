"""Clusters side by side: ``python -m benchmarks.cluster [--count 40000]`` prints JSON, a line a sample, and a table.

The same runs, by the same number of workers, on one server, on one server with partitions, and on clusters of 1 and
of 3 primaries without replicas, repeated by turns. All of it shares the machine's cores, so that the throughput says
what workers and servers cost together; what more machines can do is said by the cost of a step on the busiest node.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.command import Case
from benchmarks.drains import SEQ10, drain_load
from benchmarks.machine import cpu_s
from benchmarks.ours import sampled
from benchmarks.rig import Rig, Server, rig_at
from benchmarks.sample import Sample, median
from benchmarks.servers import RedisServer, redis_server
from stepflow_workers.state.settings import WorkerSettings
from tests.support.cluster import LocalCluster

__all__ = ["main"]

_PARTITIONS = 12
_IN_FLIGHT = 200
Site = tuple[Server, Any]
"""A server, and a client of it."""


@dataclass(frozen=True, slots=True)
class _Cluster:
    """A cluster, as a rig takes it."""

    url: str
    port: int
    pids: list[int]
    version: str


@contextlib.contextmanager
def _single(partitions: int) -> Iterator[Site]:
    with redis_server() as found, redis.Redis(port=found.port) as client:
        url = f"{found.url}?partitions={partitions}" if partitions > 1 else found.url
        yield RedisServer(url, found.port, found.pid, found.version), client


@contextlib.contextmanager
def _cluster(primaries: int) -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-cluster-") as folder,
        LocalCluster(Path(folder), primaries=primaries, replicas=0, node_timeout_ms=15_000) as found,
        redis.RedisCluster(host="127.0.0.1", port=found.nodes[0].port) as client,
    ):
        version = f"redis {found.nodes[0].client.info('server')['redis_version']}"
        pids = [node.process.pid for node in found.nodes if node.process is not None]
        yield _Cluster(f"{found.url}?partitions={_PARTITIONS}", found.nodes[0].port, pids, version), client


_SITES: dict[str, Callable[[], AbstractContextManager[Site]]] = {
    "one server": lambda: _single(1),
    f"one server, {_PARTITIONS} partitions": lambda: _single(_PARTITIONS),
    "cluster of 1 primary": lambda: _cluster(1),
    "cluster of 3 primaries": lambda: _cluster(3),
}


def _measure(name: str, count: int, workers: int) -> tuple[Sample, float]:
    """One repetition; and the processor time of a step on the node that had the most to do, in µs."""
    case = Case("seq10", _IN_FLIGHT, "step", count)
    options = {"concurrency": _IN_FLIGHT // workers, "sticky": WorkerSettings("").sticky, "processes": workers}
    with _SITES[name]() as (server, client), rig_at(server, client, **options) as bench:
        drain_load(bench, SEQ10, case.warm_up)
        before = _used_s(bench)
        span = drain_load(bench, SEQ10, case.count - case.warm_up)
        busiest_s = max(after - was for was, after in zip(before, _used_s(bench), strict=True))
        sample = sampled(case, span, bench.server, f"{name}, {workers} workers")
        return sample, busiest_s * 1e6 / sample.count


def _used_s(bench: Rig) -> list[float]:
    return [cpu_s(pid) for pid in bench.server.pids]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--count", type=int, default=40_000, help="steps in a sample, with the warm-up")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    found: dict[str, list[tuple[Sample, float]]] = {name: [] for name in _SITES}
    for _ in range(given.repetitions):
        for name, measured in found.items():
            measured.append(_measure(name, given.count, given.workers))
            sys.stdout.write(measured[-1][0].to_json() + "\n")
            sys.stdout.flush()
    sys.stdout.write("\nsite | steps/s | worker us/step | servers us/step | busiest node us/step\n")
    for name, measured in found.items():
        middle, busiest = median(one for one, _ in measured), statistics.median(busiest for _, busiest in measured)
        figures = (f"{middle.per_s:,.0f}", f"{middle.worker_us:.1f}", f"{middle.server_us:.1f}", f"{busiest:.1f}")
        sys.stdout.write(" | ".join((name, *figures)) + "\n")


if __name__ == "__main__":
    main()
