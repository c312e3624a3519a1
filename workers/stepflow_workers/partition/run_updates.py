"""RunUpdates: reads what notifications say of the runs in memory.

A notification is a hint. This module reads the memos and the status of the run from the server, and believes only them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from stepflow_broker.transitions.runs.run_state import read_undoing
from stepflow_engine.errors import BackendUnavailableError, CorruptDataError, DecryptionError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_workers.execution.run_loader import catch_up
from stepflow_workers.state.run_cache import CachedRun
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["RunUpdates"]

_log = logging.getLogger(WORKER_LOGGER)


class RunUpdates:
    """Reads new memos and cancellations of the runs in the memory of one worker."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._wanted: dict[CachedRun, int] = {}
        self._reading: set[CachedRun] = set()
        self._checked: set[CachedRun] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def read_memos(self, run_id: str, position: int, key: str) -> None:
        """Read the memos of a run that has one at this position. A run has one read at a time, of all that is new.

        A position that the execution has already applied, of a step that it still waits for, means that the server may
        have lost memos. They are read again from this position.
        """
        run = self._state.cache.get(run_id)
        if run is None or not (position > run.execution.applied or run.execution.lacks(key)):
            return
        since = max(0, position - 1)
        self._wanted[run] = min(self._wanted.get(run, since), since)
        if run not in self._reading:
            self._reading.add(run)
            self._start(self._read(run))

    def check_cancelled(self, run_id: str) -> None:
        """Drop a run if it has ended, or undoes its steps since."""
        run = self._state.cache.get(run_id)
        if run is not None and run not in self._checked:
            self._checked.add(run)
            self._start(self._check(run))

    def _start(self, update: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(update)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, run: CachedRun) -> None:
        try:
            while (since := self._wanted.pop(run, None)) is not None and not run.execution.closed:
                await catch_up(self._state, run, since=min(since, run.execution.applied))
        except (DecryptionError, CorruptDataError):  # the job that loads the run reports it
            self._state.cache.drop(run)
        except BackendUnavailableError as error:  # the run reads its memos before it is parked
            _log.warning("server_unavailable", extra={"error": str(error)})
        finally:
            self._wanted.pop(run, None)
            self._reading.discard(run)

    async def _check(self, run: CachedRun) -> None:
        try:
            status, undoing = await self._state.broker.execute(read_undoing(self._state.partition, run.run_id))
        except BackendUnavailableError as error:  # the next script call of the run is refused
            _log.warning("server_unavailable", extra={"error": str(error)})
        else:
            if status is None or status.ended or undoing != run.undoing:
                self._state.cache.drop(run)
                self._state.interrupt(run.run_id, reason="the run has ended")
        finally:
            self._checked.discard(run)
