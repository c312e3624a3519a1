"""stepflow: ``python -m benchmarks.stepflow [--workload seq10 --in-flight 200]`` prints JSON, a line a workload.

The runs are queued first, while RQ's suspension holds the worker back; then the worker is let go, and the time counts
until the last run has ended. So no producer takes part in what is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.flows import app
from benchmarks.machine import cpu_s, rss_mb, steal_s
from stepflow_broker.broker import Broker
from stepflow_broker.keys import Keys
from stepflow_broker.runs import start_run
from stepflow_broker.server import EmbeddedServer
from stepflow_engine.codec import dumps
from stepflow_workers.pool import WorkerSpec, run_worker
from stepflow_workers.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Workload:
    """What is run.

    Attributes:
        name: of the workload.
        function, data: what each run is.
        steps: steps in a run.
        runs: how many runs.
        in_flight: how many at once.
    """

    name: str
    function: str
    data: int
    steps: int
    runs: int
    in_flight: int


WORKLOADS = (
    Workload("seq10", "seq", 10, 10, 300, 1),
    Workload("seq10", "seq", 10, 10, 3000, 200),
    Workload("fan1000", "fan", 1000, 1000, 5, 200),
    Workload("seq1000", "seq", 1000, 1000, 3, 1),
    Workload("invoke", "invoke", 10, 10, 100, 1),
    Workload("invoke", "invoke", 10, 10, 1000, 200),
    Workload("invoke_fan1000", "invoke-fan", 1000, 1000, 3, 200),
)


class Bench:
    """A server and a worker, both fresh."""

    def __init__(self, folder: Path, *, in_flight: int, sticky: int) -> None:
        self.server = EmbeddedServer(folder).start()
        self.client = redis.Redis.from_url(self.server.url)
        self.broker, self.keys = Broker(self.server.url), Keys()
        self.client.set(self.keys("RQ_SUSPENDED"), 1)
        settings = WorkerSettings(self.server.url, concurrency=in_flight, sticky=sticky)
        context = multiprocessing.get_context("spawn")
        self.worker = context.Process(
            target=run_worker, args=(WorkerSpec(("benchmarks.flows:app",), settings, "WARNING"),), daemon=True
        )
        self.worker.start()

    def queue(self, workload: Workload, runs: int) -> None:
        """Queue runs, while the worker is suspended."""
        now_ms = time.time_ns() // 1_000_000
        event = dumps({"name": "bench", "id": "x", "ts": now_ms, "data": workload.data})
        for first in range(0, runs, 1000):
            self.broker.run_all(
                [
                    start_run(
                        self.keys,
                        app.functions[workload.function].config,
                        run_id=f"{now_ms:x}{n:08x}",
                        event=event,
                        dedupe=False,
                    )
                    for n in range(first, min(first + 1000, runs))
                ]
            )

    def release(self) -> float:
        """Let the worker go; the seconds until every run has ended."""
        self.client.delete(self.keys("RQ_SUSPENDED"))
        begin = time.perf_counter()
        self.client.publish(self.keys("READY"), "bench")
        while self.client.zcard(self.keys("LIVE")):
            time.sleep(0.005)
        seconds = time.perf_counter() - begin
        self.client.set(self.keys("RQ_SUSPENDED"), 1)
        time.sleep(1.2)  # the worker sees the suspension at its next look, once a second
        return seconds

    def close(self) -> None:
        """Stop both."""
        self.worker.terminate()
        self.worker.join()
        self.broker.close()
        self.server.stop()


def measure(workload: Workload, *, repetitions: int, sticky: int) -> dict[str, Any]:
    """Run a workload, after a warm-up, and say what it took: medians."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), in_flight=workload.in_flight, sticky=sticky)
        try:
            bench.queue(workload, max(1, workload.runs // 5))
            bench.release()
            samples = [_sample(bench, workload) for _ in range(repetitions)]
        finally:
            bench.close()
    medians = {name: round(statistics.median(sample[name] for sample in samples), 3) for name in samples[0]}
    return {"system": "stepflow", **asdict(workload), "sticky": sticky, "repetitions": repetitions, **medians}


def _sample(bench: Bench, workload: Workload) -> dict[str, float]:
    bench.queue(workload, workload.runs)
    pids = {"worker": bench.worker.pid or 0, "server": bench.server.process.pid if bench.server.process else 0}
    before, steal = {name: cpu_s(pid) for name, pid in pids.items()}, steal_s()
    seconds = bench.release()
    steps = workload.runs * workload.steps
    used = {f"{name}_cpu_us_per_step": (cpu_s(pid) - before[name]) / steps * 1e6 for name, pid in pids.items()}
    return {
        "steps_per_s": steps / seconds,
        "ms_per_step": seconds * 1000 / steps * workload.in_flight,
        **used,
        "worker_rss_mb": rss_mb(pids["worker"]),
        "server_rss_mb": rss_mb(pids["server"]),
        "steal_s": steal_s() - steal,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", help="only this one")
    parser.add_argument("--in-flight", type=int, help="only with this many runs at once")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--sticky", type=int, default=WorkerSettings("").sticky)
    options = parser.parse_args()
    for workload in WORKLOADS:
        if options.workload in (None, workload.name) and options.in_flight in (None, workload.in_flight):
            print(json.dumps(measure(workload, repetitions=options.repetitions, sticky=options.sticky)), flush=True)


if __name__ == "__main__":
    main()
