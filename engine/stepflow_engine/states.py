"""The states of a run."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["RunStatus"]


class RunStatus(StrEnum):
    """Where a run is.

    ::

        queued ⇄ running ⇄ waiting        live
                    ↓         ↓
        completed, failed, cancelled      ended, for good
        skipped                           ended before it began: its function's flow control did not let it start

    A run is ``queued`` while its next job is ready, ``running`` while a worker holds it, and ``waiting`` while it
    needs no worker: for steps that others execute, for a retry, for a child or a time.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self in _ENDED


_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.SKIPPED})
