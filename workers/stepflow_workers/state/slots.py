"""Slots: how many jobs a worker executes at once. A job that only waits gives its slot back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stepflow_workers.state.signals import WorkerSignals

__all__ = ["Slots"]


class Slots:
    """Counts the slots of one worker.

    Args:
        total: how many there are.
        signals: receives ``slot_freed``.
    """

    def __init__(self, total: int, signals: WorkerSignals) -> None:
        self.total = total
        self.used = 0
        self._signals = signals

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Reserve slots for jobs that are being claimed, so that no other partition claims jobs for them."""
        self.used += count
        try:
            yield
        finally:
            self.used -= count

    @property
    def free(self) -> int:
        """How many are free. 0 also when more jobs are executing than there are slots, after waiting jobs resumed."""
        return max(0, self.total - self.used)

    def take(self) -> None:
        """Take a slot for a claimed job."""
        self.used += 1

    def release(self) -> None:
        """Free the slot of a job that is done."""
        self.used -= 1
        self._signals.slot_freed()

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Give the slot back while a job waits."""
        self.release()
        try:
            yield
        finally:
            self.take()

    def close(self) -> None:
        """Leave no slot free until `reopen`. Jobs that are executing keep theirs."""
        self.used += self.total

    def reopen(self) -> None:
        """Undo `close`."""
        self.used -= self.total
        self._signals.slot_freed()
