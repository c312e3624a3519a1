"""Slots: limit how many jobs a worker executes at once. A job that only waits gives its slot back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

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
        self._is_closed = False
        self._wanted: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Reserve slots during a claim, so that no other partition claims jobs for them."""
        self.used += count
        try:
            yield
        finally:
            self.used -= count
            self._give()

    @property
    def free(self) -> int:
        """The number of slots for new jobs; 0 also when resumed jobs use more slots than there are.

        While a step waits for several slots, there are none for new jobs. So it gets them, however many jobs there are.
        """
        return 0 if self._is_closed or self._wanted else max(0, self.total - self.used)

    def take(self) -> None:
        """Take a slot for a claimed job."""
        self.used += 1

    def free_one(self) -> None:
        """Free the slot of a finished job."""
        self._free(1)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Release the slot while a job waits, and take one again after that."""
        self.free_one()
        try:
            yield
        finally:
            self.take()

    @asynccontextmanager
    async def several(self, count: int) -> AsyncIterator[None]:
        """Use ``count`` slots in place of the one of a job, at most all that there are.

        Waiting jobs get theirs in order, all at once: two that each hold a part of what they need would wait for ever.
        """
        count = min(count, self.total)
        turn = asyncio.get_running_loop().create_future()
        self._wanted.append((count, turn))
        self.used -= 1
        self._give()
        try:
            await turn
            yield
        finally:
            self.take()
            if turn.done() and not turn.cancelled():
                self._free(count)
            else:
                self._wanted.remove((count, turn))
                self._free(0)

    def close(self) -> None:
        """Have no slots for new jobs, until `open`."""
        self._is_closed = True

    def open(self) -> None:
        """Undo `close`."""
        self._is_closed = False
        self.freed()

    def _free(self, count: int) -> None:
        self.used -= count
        self._give()
        self.freed()

    def _give(self) -> None:
        """Give the free slots to the jobs that wait for several."""
        while self._wanted and self.used + self._wanted[0][0] <= self.total:
            count, turn = self._wanted.popleft()
            self.used += count
            turn.set_result(None)
