"""The progress of a census, read from the run's memos."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from examples.census.flow import LIST_MODULES, LIST_PACKAGES
from stepflow_broker.broker import Broker
from stepflow_broker.keys import Keys
from stepflow_broker.runs import read_memos, read_run, read_status, read_steps
from stepflow_engine.memo import Memo, read_memo

__all__ = ["RUN", "Crash", "Progress", "format_progress"]

RUN = "the run's code"

_BAR = 30
_ALWAYS = 3  # two steps list, one reports


@dataclass(frozen=True, slots=True)
class Crash:
    """The death of a worker. Times are milliseconds since the epoch.

    Attributes:
        worker: the worker.
        at_ms: when it died.
        in_hand: what it was executing: ids of steps, and ``RUN`` if it held the run's own code.
        reclaimed_at_ms: when all of that was ready for others; ``None`` while it is not.
    """

    worker: str
    at_ms: int
    in_hand: tuple[str, ...]
    reclaimed_at_ms: int | None = None


class Progress:
    """What is known of one run; `refresh` learns more.

    Args:
        broker: reads from the server.
        run_id: the run.

    Attributes:
        memos: of the steps that are done, in the order in which they were recorded.
    """

    def __init__(self, broker: Broker, run_id: str) -> None:
        self.memos: list[Memo] = []
        self._broker = broker
        self._keys = Keys()
        self._run_id = run_id

    def refresh(self) -> None:
        """Read the memos that are new."""
        new = self._broker.run(read_memos(self._keys, self._run_id, len(self.memos)))
        self.memos += [read_memo(text) for _, text in new]

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        status = self._broker.run(read_status(self._keys, self._run_id))
        return status is not None and status.ended

    @property
    def done(self) -> int:
        """How many steps are done."""
        return len(self.memos)

    @property
    def total(self) -> int | None:
        """How many steps there are; ``None`` until all parts are listed."""
        lists = [memo.data for memo in self.memos if memo.id in (LIST_PACKAGES, LIST_MODULES) and not memo.failure]
        return sum(map(len, lists)) + _ALWAYS if len(lists) == 2 else None

    @property
    def by_worker(self) -> Counter[str]:
        """How many steps each worker did."""
        return Counter(memo.detail["worker"] for memo in self.memos)

    def in_hand(self, worker: str) -> tuple[str, ...]:
        """What a worker holds: its leases last longer than it, when it dies."""
        run = self._broker.run(read_run(self._keys, self._run_id))
        steps = self._broker.run(read_steps(self._keys, self._run_id))
        held = tuple(step.id for step in steps if step.state == "leased" and step.owner == worker)
        holds_run = run is not None and run.continuation == "leased" and run.owner == worker
        return (*held, RUN) if holds_run else held

    def started_again_at_ms(self, crash: Crash) -> int | None:
        """When the last step that was in hand at a crash was started by another worker."""
        again = [m for m in self.memos if m.id in crash.in_hand and m.detail["worker"] != crash.worker]
        return max((memo.detail["started_at"] for memo in again), default=None)


def format_progress(progress: Progress, workers: list[str]) -> str:
    """One line: a bar, the steps done of all, and how many each worker did."""
    total = progress.total or 0
    filled = _BAR * progress.done // total if total else 0
    shares = "   ".join(f"{name} {progress.by_worker[name]:>3}" for name in workers)
    return f"[{'#' * filled}{'-' * (_BAR - filled)}] {progress.done:>3} of {total or '?':>3} steps   {shares}"
