"""Slots: how many jobs a worker executes at once. A job that only waits gives its slot back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Slots"]


class Slots:
    """Counts the slots of one worker.

    Args:
        total: how many there are.

    Attributes:
        freed: called when one becomes free.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.freed: Callable[[], None] = _nobody

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Keep slots free for jobs that are being claimed, so that nobody else claims jobs for them."""
        self.used += count
        try:
            yield
        finally:
            self.used -= count

    @property
    def free(self) -> int:
        """How many are free; 0 also when jobs that waited have gone on and there are too few."""
        return max(0, self.total - self.used)

    def take(self) -> None:
        """Take a slot, for a job that has been claimed."""
        self.used += 1

    def free_one(self) -> None:
        """Free a slot: its job is done."""
        self.used -= 1
        self.freed()

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Give the slot back, for the time that a job waits."""
        self.free_one()
        try:
            yield
        finally:
            self.take()


def _nobody() -> None:
    """Nobody wants to know."""
