"""Signals between the parts of a worker: something has happened that another part acts on at once."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SignalHandler", "WorkerSignals"]


class SignalHandler(Protocol):
    """Acts on signals. `PartitionWorkers` is the one of a worker."""

    def job_queued(self, run_id: str) -> None:
        """A job was queued for a run by this worker, which may claim it itself."""

    def timer_set(self, run_id: str, delay_ms: int) -> None:
        """A timer was set for a run by this worker; it is due after ``delay_ms``."""

    def slot_freed(self) -> None:
        """A slot is free."""


class WorkerSignals:
    """Passes signals on to their handler. Before a handler subscribes, and after the worker has stopped, they are lost.

    A lost signal costs time only: every worker also polls.
    """

    def __init__(self) -> None:
        self._handler: SignalHandler | None = None

    def subscribe(self, handler: SignalHandler) -> None:
        """Pass signals on to this handler from now on."""
        self._handler = handler

    def job_queued(self, run_id: str) -> None:
        """See `SignalHandler.job_queued`."""
        if self._handler is not None:
            self._handler.job_queued(run_id)

    def timer_set(self, run_id: str, delay_ms: int) -> None:
        """See `SignalHandler.timer_set`."""
        if self._handler is not None:
            self._handler.timer_set(run_id, delay_ms)

    def slot_freed(self) -> None:
        """See `SignalHandler.slot_freed`."""
        if self._handler is not None:
            self._handler.slot_freed()
