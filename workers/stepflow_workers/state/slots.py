"""Slots: limit how many jobs a worker executes at once. A job that only waits gives its slot back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Slots"]


class Slots:
    """Counts the slots of one worker.

    Args:
        total: the number of slots.
        freed: called when a slot becomes free.
    """

    def __init__(self, total: int, freed: Callable[[], None]) -> None:
        self.total = total
        self.used = 0
        self.freed = freed

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Reserve slots during a claim, so that no other partition claims jobs for them."""
        self.used += count
        try:
            yield
        finally:
            self.used -= count

    @property
    def free(self) -> int:
        """The number of free slots; 0 also when resumed jobs use more slots than there are."""
        return max(0, self.total - self.used)

    def take(self) -> None:
        """Take a slot for a claimed job."""
        self.used += 1

    def free_one(self) -> None:
        """Free the slot of a finished job."""
        self.used -= 1
        self.freed()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Release the slot while a job waits, and take one again after that."""
        self.free_one()
        try:
            yield
        finally:
            self.take()
