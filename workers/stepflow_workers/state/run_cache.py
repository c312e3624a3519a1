"""Runs that a worker has in memory: suspended code, kept so that it need not be replayed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepflow import Function
from stepflow_broker.transitions.jobs import Lease
from stepflow_engine.execution import Execution
from stepflow_engine.memo import Memo

__all__ = ["IDLE_HOLD_S", "CachedRun", "RunCache"]

IDLE_HOLD_S = 5.0
"""How long the code of a run is held with its lease while no memo of its steps comes."""


@dataclass(slots=True, eq=False)
class CachedRun:
    """A pass over a run's code in this process.

    Attributes:
        run_id, function, event, execution: what it is a pass of; the event as JSON text.
        attempt: of the function.
        lease: that of the continuation, while this worker has it: only then may the pass plan or end the run.
        users: how many jobs of this worker use the pass now; it is not evicted before they are done.
        planned: keys of steps that are known to have jobs, children or waits.
        distant_waits: those of them that end later than the code is kept with its lease.
        state_bytes: the size of the memos that are known.
        deaths: the workers that died with the continuation since it last made progress.
        lock: held by the job that advances the code.
    """

    run_id: str
    function: Function
    event: bytes
    execution: Execution
    attempt: int
    lease: Lease | None = None
    users: int = 0
    planned: set[str] = field(default_factory=set)
    distant_waits: set[str] = field(default_factory=set)
    state_bytes: int = 0
    deaths: tuple[str, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def apply_memo(self, position: int, key: str, memo: Memo, size: int = 0) -> None:
        """Give the code a memo that was stored at a position."""
        self.planned.discard(key)
        self.distant_waits.discard(key)
        self.state_bytes += size
        self.deaths = ()
        self.execution.offer(position, key, memo)


class RunCache:
    """The passes in memory, the least recently used of those that nobody uses evicted first.

    Args:
        most: how many unused ones are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._runs: OrderedDict[str, CachedRun] = OrderedDict()

    def get(self, run_id: str) -> CachedRun | None:
        """The pass of a run, if it is in memory and still good."""
        run = self._runs.get(run_id)
        if run is not None and run.execution.closed:
            del self._runs[run_id]
            return None
        return run

    def put(self, run: CachedRun) -> None:
        """Keep a pass."""
        self._runs[run.run_id] = run

    @contextlib.contextmanager
    def in_use(self, run: CachedRun, lease: Lease) -> Iterator[None]:
        """Keep a run from eviction while a job uses it. At the end the job's lease is given up."""
        run.users += 1
        try:
            yield
        finally:
            if run.lease is lease:
                run.lease = None
            self._leave(run)

    def _leave(self, run: CachedRun) -> None:
        run.users -= 1
        if self._runs.get(run.run_id) is run:
            self._runs.move_to_end(run.run_id)
        self._evict()

    def drop(self, run: CachedRun) -> None:
        """Give a pass up."""
        run.execution.close()
        if self._runs.get(run.run_id) is run:
            del self._runs[run.run_id]

    def _evict(self) -> None:
        over = len(self._runs) - self._most
        if over > 0:
            unused = (run for run in self._runs.values() if not run.users)
            for run in list(itertools.islice(unused, over)):
                self.drop(run)

    def close(self) -> None:
        """Give all passes up."""
        for run in list(self._runs.values()):
            self.drop(run)

    def __iter__(self) -> Iterator[CachedRun]:
        return iter(list(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)
