"""Wakeups: wakes the dispatchers of a worker when the worker itself makes work for them."""

from __future__ import annotations

from typing import Protocol

from stepflow_broker.protocol.partition import Partition

__all__ = ["Sleeper", "Wakeups"]


class Sleeper(Protocol):
    """A dispatcher, as its worker wakes it."""

    @property
    def wants_slots(self) -> bool:
        """Whether there may be jobs for it to claim."""
        ...

    def wake(self, *, has_jobs: bool = False) -> None:
        """Poll now."""

    def timer_set(self, delay_ms: int) -> None:
        """Poll when a new timer is due."""


class Wakeups:
    """The dispatchers of one worker, by partition. A freed slot goes to each in turn.

    Built first and empty; each dispatcher is added when it is built.
    """

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._sleepers: dict[Partition, Sleeper] = {}
        self._order: list[Sleeper] = []
        self._next = 0

    def add(self, partition: Partition, sleeper: Sleeper) -> None:
        """Add the dispatcher of a partition."""
        self._sleepers[partition] = sleeper
        self._order.append(sleeper)

    def slot_freed(self) -> None:
        """A slot is free: wake the next dispatcher that may have jobs."""
        for n in range(self._next, self._next + len(self._order)):
            sleeper = self._order[n % len(self._order)]
            if sleeper.wants_slots:
                self._next = n + 1
                sleeper.wake()
                return

    def job_queued(self, run_id: str) -> None:
        """Wake the dispatcher of a run for which the worker has queued a job: the worker may claim it itself."""
        self._sleepers[self._partition.of(run_id)].wake(has_jobs=True)

    def timer_set(self, run_id: str, delay_ms: int) -> None:
        """Wake the dispatcher of a run for which the worker has set a timer, due in ``delay_ms`` milliseconds."""
        self._sleepers[self._partition.of(run_id)].timer_set(delay_ms)
