"""The cache of runs: suspended code in memory, which saves a replay."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stepflow import Function
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.execution import Execution
from stepflow_engine.memo import Memo

__all__ = ["IDLE_HOLD_S", "CachedRun", "RunCache"]

IDLE_HOLD_S = 5.0
"""How long a worker retains the code of a run, and its lease, while no memo of its steps arrives."""


@dataclass(slots=True, eq=False)
class CachedRun:
    """One execution of a run's code in this process.

    Attributes:
        run_id, function, event, execution: the run and its code; the event as JSON text.
        attempt: the attempt at the function.
        keys_of: the run of which the idempotency keys of its steps are: itself, or the first run that it repeats.
        lease: the lease of the continuation, while this worker has it: only then may it plan steps or end the run.
        users: how many jobs of this worker use the run now; it is not evicted meanwhile.
        planned: keys of steps known to have jobs, children or waits.
        distant_waits: those of them that end later than `IDLE_HOLD_S` from now.
        state_bytes: the size of the known memos, as they are stored.
        uncommitted: the sizes of the memos of steps that this worker has executed and not yet committed.
        uncommitted_bytes: their sum.
        deaths: the workers that died with the continuation since it last made progress.
        stored_tags: the tags of the code that this worker has stored.
        stored_values: the values of the code that this worker has stored.
        stored_patches: how many decisions at patches are stored.
        has_stored_undo: whether it is stored that the code has requested a step with an undo handler.
        undoing: the status with which the run ends when its steps are undone; ``""``: it does not undo them.
        round: how often the run has continued as new.
        depth: how many parents it has above it; ``None``: this worker has not read it.
        lock: held by the job that advances the code.
    """

    run_id: str
    function: Function
    event: bytes
    execution: Execution
    attempt: int
    keys_of: str
    lease: Lease | None = None
    users: int = 0
    planned: set[str] = field(default_factory=set)
    distant_waits: set[str] = field(default_factory=set)
    state_bytes: int = 0
    uncommitted: dict[str, int] = field(default_factory=dict)
    uncommitted_bytes: int = 0
    deaths: tuple[str, ...] = ()
    stored_tags: Mapping[str, str] = field(default_factory=dict)
    stored_values: Mapping[str, bytes] = field(default_factory=dict)
    stored_patches: int = 0
    has_stored_undo: bool = False
    undoing: str = ""
    round: int = 0
    depth: int | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def has_unstored(self) -> bool:
        """Whether the code has said something of the run that is not stored: tags, values, patches, undo handlers."""
        execution = self.execution
        return (
            execution.tags != self.stored_tags
            or execution.values != self.stored_values
            or len(execution.patches.decisions) != self.stored_patches
            or (execution.has_undo and not self.has_stored_undo)
        )

    @property
    def has_open_patches(self) -> bool:
        """Whether the code has taken a way at a patch that is not decided, so that another job cannot continue it."""
        patches = self.execution.patches
        return self.lease is None and (patches.is_provisional or len(patches.decisions) != self.stored_patches)

    def apply_memo(self, position: int, key: str, memo: Memo, size: int) -> None:
        """Apply a memo that is stored at a position. A memo can come several ways, and counts once.

        Args:
            size: the length of the memo as it is stored, in bytes.
        """
        self.planned.discard(key)
        self.distant_waits.discard(key)
        self.drop_uncommitted(key)
        if self.execution.offer(position, key, memo):
            self.state_bytes += size
            self.deaths = ()

    def has_room(self, size: int) -> bool:
        """Whether the limit for all memos of a run allows another memo. It does not hold for undo handlers."""
        size += self.state_bytes + self.uncommitted_bytes
        return bool(self.undoing) or size <= self.function.limits.run_state_bytes

    def add_uncommitted(self, key: str, size: int) -> None:
        """Count the memo of a step until it is applied, or until `drop_uncommitted`."""
        self.uncommitted_bytes += size - self.uncommitted.get(key, 0)
        self.uncommitted[key] = size

    def drop_uncommitted(self, key: str) -> None:
        """Count the memo of a step no longer: it is stored, or it was refused."""
        self.uncommitted_bytes -= self.uncommitted.pop(key, 0)


class RunCache:
    """The runs in memory. The least recently used of the unused ones is evicted first.

    Args:
        capacity: the number of runs above which it evicts.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._runs: OrderedDict[str, CachedRun] = OrderedDict()

    def get(self, run_id: str) -> CachedRun | None:
        """Return a run, if it is in memory and not closed."""
        run = self._runs.get(run_id)
        if run is not None and run.execution.closed:
            del self._runs[run_id]
            return None
        return run

    def add(self, run: CachedRun) -> None:
        """Add a run."""
        self._runs[run.run_id] = run

    def release(self, run: CachedRun) -> None:
        """Count one user less, and evict runs beyond the capacity."""
        run.users -= 1
        if self._runs.get(run.run_id) is run:
            self._runs.move_to_end(run.run_id)
        self._evict()

    def drop(self, run: CachedRun) -> None:
        """Close a run and remove it."""
        run.execution.close()
        if self._runs.get(run.run_id) is run:
            del self._runs[run.run_id]

    def _evict(self) -> None:
        over = len(self._runs) - self._capacity
        if over > 0:
            unused = (run for run in self._runs.values() if not run.users)
            for run in list(itertools.islice(unused, over)):
                self.drop(run)

    def close(self) -> None:
        """Drop all runs."""
        for run in list(self._runs.values()):
            self.drop(run)

    def __iter__(self) -> Iterator[CachedRun]:
        return iter(list(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)
