"""How a plain queue is measured, the same for each: jobs are queued first, and then a worker is started.

Neither a producer nor anybody who polls takes part in what is measured: the worker counts its jobs, and notes time and
processor time itself (see `benchmarks.counter`). `start` measures the producer alone: no worker runs.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import command
from benchmarks.command import Case
from benchmarks.counter import Plan
from benchmarks.meter import Note, between, read_notes, take_note
from benchmarks.sample import Sample
from benchmarks.servers import ProcessError, RedisServer, redis_ask, redis_server, started, wait_until

__all__ = ["URL", "Setup", "run"]

URL = "STEPFLOW_BENCH_URL"
"""The variable that names the server to a worker."""
_DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True)
class Setup:
    """A configuration of a queue.

    Attributes:
        settings: what it is, in a few words.
        in_flight: how many jobs the worker has at hand at once.
        jobs: how many jobs are measured.
        length: the Redis command that says how many jobs are queued.
        producer: makes, on the server of a URL, a function that queues so many jobs, so many in a round trip.
        worker: the command line of a worker, on the server of a URL.
        starts: how many jobs a producer is measured with, by how many it queues in a round trip.
    """

    settings: str
    in_flight: int
    jobs: int
    length: str
    producer: Callable[[str], Callable[[int, int], None]]
    worker: Callable[[str], Sequence[str]]
    starts: Mapping[int, int] = field(default_factory=dict)

    def cases(self) -> list[Case]:
        """What is measured with it."""
        starts = [Case("start", size, "start", count, self.settings) for size, count in self.starts.items()]
        return [Case("jobs", self.in_flight, "job", self.jobs, self.settings), *starts]


def run(doc: str | None, system: str, setups: Sequence[Setup]) -> None:
    """The command line of a queue."""
    by_settings = {setup.settings: setup for setup in setups}

    def measure(case: Case) -> Sample:
        setup = by_settings[case.settings]
        with redis_server() as server:
            first, last = (_start if case.workload == "start" else _drain)(case, setup, server)
        return between(
            first,
            last,
            system=system,
            version=importlib.metadata.version(system),
            workload=case.workload,
            in_flight=case.in_flight,
            unit=case.unit,
            settings=case.settings,
            server=server.version,
        )

    command.run(doc, [case for setup in setups for case in setup.cases()], measure)


def _start(case: Case, setup: Setup, server: RedisServer) -> tuple[Note, Note]:
    """Queue jobs; the first 20 % are the warm-up."""
    add, size = setup.producer(server.url), case.in_flight
    warm_up = max(case.warm_up // size, 1) * size
    count = max(case.count // size * size, warm_up + size)
    notes = []
    for more, total in ((warm_up, warm_up), (count - warm_up, count)):
        add(more, size)
        notes.append(take_note(total, workers=[os.getpid()], servers=[server.pid]))
    _check_length(setup, server, count)
    return notes[0], notes[1]


def _drain(case: Case, setup: Setup, server: RedisServer) -> tuple[Note, Note]:
    """Queue jobs, then start a worker and wait until it has done them all."""
    setup.producer(server.url)(case.count, 1)
    _check_length(setup, server, case.count)
    with tempfile.TemporaryDirectory(prefix="bench-worker-") as name:
        notes, log = Path(name) / "notes", Path(name) / "worker.log"
        plan = Plan(str(notes), case.warm_up, case.count, server.pid)
        with started(setup.worker(server.url), log=log, env={URL: server.url, **plan.to_env()}) as process:
            wait_until(
                lambda: len(read_notes(notes)) == 2,
                process=process,
                log=log,
                what=f"{case.count} jobs of {setup.settings}",
                deadline_s=_DEADLINE_S,
                pause_s=0.1,
            )
        first, last = read_notes(notes)
    return first, last


def _check_length(setup: Setup, server: RedisServer, count: int) -> None:
    length = int(redis_ask(server.port, setup.length))
    if length != count:
        raise ProcessError(f"{setup.settings}: {count} jobs were sent, and {length} are queued ({setup.length})")
