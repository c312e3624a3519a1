"""A rig: a server and workers of stepflow, both fresh. Runs are queued while the workers are held back, then let go.

RQ's suspension holds them back, so no producer takes part in what is measured: the time counts from when the workers
are let go until the last run has ended.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import redis

from benchmarks.flows import QUEUE
from benchmarks.meter import Note, family, take_note
from benchmarks.servers import ProcessError, redis_info, redis_server, started, wait_until
from benchmarks.venvs import ROOT
from stepflow import Function, Run, Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.partitions import keys_for

__all__ = ["Rig", "Server", "Span", "joined", "rig", "rig_at"]

Span = tuple[Note, Note]
"""The notes at the beginning and at the end of what was measured."""
_BATCH = 1000
_DEADLINE_S = 600.0
_LOOK_S = 0.005
_STATES = ("worker_rss_mb", "server_rss_mb")


class Server(Protocol):
    """A server, or a cluster: see `RedisServer`; the port is that of one of its nodes."""

    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def pids(self) -> list[int]: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Rig:
    """A server and workers.

    Attributes:
        server, worker, log: the processes, and what the workers have said.
        producer: queues runs.
        client: looks at what is there.
    """

    server: Server
    worker: subprocess.Popen[bytes]
    log: Path
    producer: Stepflow
    client: redis.Redis
    keys: Keys

    def queue(self, function: Function[Any, Any], data: Any, runs: int) -> list[Run[Any]]:
        """Queue runs with the same data."""
        found: list[Run[Any]] = []
        for first in range(0, runs, _BATCH):
            found += self.producer.start_many(function, [data] * min(_BATCH, runs - first))
        return found

    def drain(self, count: int, *, left: int = 0) -> Span:
        """Let the workers go until ``left`` runs are live.

        Args:
            count: how many units that is.
            left: how many runs are live that are not waited for.

        Raises:
            ProcessError: a run has failed, the workers have died, or it took too long.
        """
        first = self.note(0)
        self.let_go()
        self.wait(lambda: self.count("LIVE") <= left, "runs did not end")
        last = self.note(count)
        self.hold()
        if failed := self.count("RQ_FAILED", QUEUE):
            raise ProcessError(f"{failed} runs have failed; the worker said:\n{self.log.read_text()}")
        return first, last

    def let_go(self) -> None:
        """Have the workers take what is queued."""
        for keys in self.keys.all:
            self.client.delete(keys("RQ_SUSPENDED"))
        for keys in self.keys.all:
            self.client.publish(keys("READY"), QUEUE)

    def hold(self) -> None:
        """Have the workers take nothing more."""
        for keys in self.keys.all:
            self.client.set(keys("RQ_SUSPENDED"), 1)

    def count(self, kind: str, subject: str = "") -> int:
        """The members of a sorted set, of all partitions together."""
        return sum(int(self.client.zcard(keys(kind, subject))) for keys in self.keys.all)

    def wait(self, condition: Callable[[], object], what: str, *, pause_s: float = _LOOK_S) -> None:
        """Wait until a condition holds.

        Raises:
            ProcessError: the workers have died, or it took too long.
        """
        wait_until(condition, process=self.worker, log=self.log, what=what, deadline_s=_DEADLINE_S, pause_s=pause_s)

    def settle(self) -> None:
        """Wait until the server rewrites its append-only file no more."""
        self.wait(
            lambda: redis_info(self.server.port)["aof_rewrite_in_progress"] == "0",
            "the append-only file was not rewritten",
            pause_s=0.1,
        )

    def states(self) -> list[str]:
        """What each worker says it does."""
        names = self.client.smembers(self.keys("RQ_WORKERS"))
        found = [self.client.hget(name, "state") for name in names]
        return [state.decode() if isinstance(state, bytes) else "" for state in found]

    def length(self, queue: str) -> int:
        """How many jobs of new runs are queued."""
        return int(self.client.llen(self.keys("RQ_QUEUE", queue)))

    def leases(self) -> int:
        """How many jobs the workers have."""
        return self.count("LEASES")

    def note(self, count: int) -> Note:
        """A note of this moment."""
        return take_note(count, workers=family(self.worker.pid), servers=self.server.pids)


@contextlib.contextmanager
def rig(*, concurrency: int, sticky: int, processes: int = 1) -> Iterator[Rig]:
    """A rig with one server, for as long as the block runs; its workers are held back.

    Args:
        concurrency: how many jobs each worker executes at once.
        sticky: how many steps in a row a run may execute; 0: one.
        processes: how many workers there are.

    Raises:
        ProcessError: the server or a worker did not start.
    """
    options = {"concurrency": concurrency, "sticky": sticky, "processes": processes}
    with (
        redis_server() as server,
        redis.Redis.from_url(server.url) as client,
        rig_at(server, client, **options) as made,
    ):
        yield made


@contextlib.contextmanager
def rig_at(server: Server, client: Any, **options: int) -> Iterator[Rig]:
    """As `rig`, with a server that runs.

    Args:
        client: speaks to it.
        options: as those of `rig`.
    """
    keys, producer = keys_for(server.url), Stepflow(QUEUE, redis_url=server.url)
    with tempfile.TemporaryDirectory(prefix="bench-worker-") as folder:
        log = Path(folder) / "worker.log"
        for one in keys.all:
            client.set(one("RQ_SUSPENDED"), 1)
        with started(_command(server.url, options), log=log, cwd=ROOT) as worker:
            made = Rig(server, worker, log, producer, client, keys)
            made.wait(lambda: made.states() == ["suspended"] * options["processes"], "the workers did not start")
            yield made
            producer.close()


def joined(spans: Sequence[Span]) -> Span:
    """Several spans as one, without the time between them."""
    first, last = spans[0]
    for begin, end in spans[1:]:
        added = {
            field.name: getattr(last, field.name) + getattr(end, field.name) - getattr(begin, field.name)
            for field in fields(Note)
            if field.name not in _STATES
        }
        last = replace(end, **added)
    return first, last


def _command(url: str, options: dict[str, int]) -> list[str]:
    """Stepflow's own command."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    where = ("--queue", QUEUE, "--redis-url", url, "--log-level", "WARNING")
    return [sys.executable, "-m", "stepflow_cli.commands.worker", "benchmarks.flows:app", *where, *words]
