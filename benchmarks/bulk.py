"""Bulk: many failed runs are retried at a rate while workers are killed, and how long other runs take meanwhile.

``python -m benchmarks.bulk --runs 15000 --rate 500 --kill-every 5`` starts a server and workers of its own. The other
runs are of another function on the same queue. Each has one step, and is timed from its creation to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.servers import RedisServer, redis_server, started
from benchmarks.venvs import ROOT
from stepflow import Bulk, BulkInfo, Context, Run, RunStatus, Stepflow
from stepflow_broker.views.listings import read_workers

__all__ = ["app", "main"]

app = Stepflow("bulk")
_OTHERS_PER_S = 20
_SEEDED = 1_000
_LOOK_S = 0.2


def _exists(path: str) -> bool:
    return Path(path).exists()


async def _charge(closed: str) -> str:
    if _exists(closed):
        raise ValueError("the bank is closed")
    return "charged"


@app.function("order", retries=0)
async def order(ctx: Context) -> str:
    """Fail as long as a file exists."""
    return await ctx.step.with_options(retries=0).run("charge", _charge, ctx.event.data["closed"])


@app.function("other")
async def other(ctx: Context) -> int:
    """The other work."""
    return await ctx.step.run("one", int, 1)


class _Workers:
    """Worker processes, of which the oldest can be killed."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self._url, self._folder = server.url, folder
        self._numbers = itertools.count(1)
        self._running: list[tuple[contextlib.ExitStack, subprocess.Popen[bytes]]] = []

    def add(self) -> None:
        """Start a worker."""
        number, stack = next(self._numbers), contextlib.ExitStack()
        words = ["-m", "stepflow_cli.commands.worker", "benchmarks.bulk:app", "--name", f"w{number}"]
        command = [sys.executable, *words, "--redis-url", self._url, "--log-level", "ERROR"]
        process = stack.enter_context(started(command, log=self._folder / f"worker-{number}.log", cwd=ROOT))
        self._running.append((stack, process))

    def kill_oldest(self) -> None:
        """Kill the worker that has run for the longest time, and start another."""
        stack, process = self._running.pop(0)
        process.kill()
        stack.close()
        self.add()

    def close(self) -> None:
        """Stop all of them."""
        for stack, _ in self._running:
            stack.close()


class _OtherWork:
    """Starts runs of the other function at a steady rate, in a thread, as long as the block lasts."""

    def __init__(self, producer: Stepflow) -> None:
        self._producer = producer
        self._runs: list[Run[object]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._start, daemon=True)

    def __enter__(self) -> _OtherWork:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _start(self) -> None:
        while not self._ended.wait(1 / _OTHERS_PER_S):
            self._runs.append(self._producer.start("other"))

    def latencies_ms(self) -> list[float]:
        """How long the runs took, from their creation to their end, by the clock of the server."""
        _wait(lambda: all(run.status().ended for run in self._runs[-50:]))
        ended = [run.info() for run in self._runs]
        return [(one.ended_at - one.created_at).total_seconds() * 1000 for one in ended if one.ended_at]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15_000, help="how many runs have failed")
    parser.add_argument("--rate", type=float, default=500, help="how many are retried in a second")
    parser.add_argument("--kill-every", type=float, default=5, metavar="S", help="seconds between kills; 0: no kills")
    parser.add_argument("--workers", type=int, default=3, help="how many worker processes there are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-bulk-") as name, redis_server() as server:
        workers, producer = _Workers(server, Path(name)), Stepflow("bulk", redis_url=server.url)
        try:
            _measure(producer, workers, Path(name) / "closed", options)
        finally:
            workers.close()
            producer.close()


def _measure(producer: Stepflow, workers: _Workers, closed: Path, options: argparse.Namespace) -> None:
    for _ in range(options.workers):
        workers.add()
    backend = producer.backend
    _wait(lambda: len(read_workers(backend.broker, backend.partition)) == options.workers)
    closed.touch()
    for first in range(0, options.runs, _SEEDED):
        producer.start_many("order", [{"closed": str(closed)}] * min(_SEEDED, options.runs - first))
    _wait(lambda: producer.fork_many("order", dry_run=True).matched == options.runs)
    closed.unlink()
    with _OtherWork(producer) as before:
        time.sleep(options.runs / options.rate / 2)
    began = time.monotonic()
    with _OtherWork(producer) as during:
        bulk = producer.fork_many("order", per_second=options.rate)
        selected_s = time.monotonic() - began
        info, kills = _watch(bulk, workers, options.kill_every)
        took_s = time.monotonic() - began
    _wait(lambda: len(list(producer.runs("order", status="completed", limit=None))) == options.runs)
    every = list(producer.runs("order", limit=None))
    forks = Counter(run.listed.forked_from for run in every if run.listed and run.listed.forked_from)
    failed = Counter(run.id for run in every if run.listed and run.listed.status is RunStatus.FAILED)
    print(
        f"{options.runs:,} failed runs, {options.rate:g} in a second at most, {options.workers} workers, {kills} kills"
    )
    print(f"selected and started in {selected_s:.2f} s, all forked in {took_s:.1f} s: {info.rate:g} in a second")
    print(f"done {info.done:,}, skipped {info.skipped:,}, refused {info.refused:,}")
    is_exact = forks == failed and len(every) == 2 * options.runs
    print(f"each retried once: {'yes' if is_exact else 'NO'}\n")
    print(f"{'other runs':<12} {'count':>6} {'p50 ms':>8} {'p95 ms':>8} {'max ms':>8}")
    for name, work in (("before", before), ("meanwhile", during)):
        times = work.latencies_ms()
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"{name:<12} {len(times):>6} {statistics.median(times):>8.1f} {p95:>8.1f} {max(times):>8.1f}")
    if not is_exact:
        sys.exit("runs were lost, or retried twice")


def _watch(bulk: Bulk, workers: _Workers, kill_every_s: float) -> tuple[BulkInfo, int]:
    """The end of a bulk, and how many workers were killed meanwhile."""
    kills = 0
    while not (info := bulk.wait(kill_every_s or None)).ended:
        workers.kill_oldest()
        kills += 1
    return info, kills


def _wait(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(_LOOK_S)


if __name__ == "__main__":
    main()
