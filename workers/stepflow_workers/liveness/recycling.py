"""Recycling: when a worker process has done its number of jobs, or uses too much memory, a new one takes its place.

The worker stops as after a signal: it claims no more jobs and finishes its running ones. It exits with `RECYCLED`, by
which the pool knows that it has to start another one at once.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from stepflow_engine.errors import ConfigurationError
from stepflow_workers.state.settings import WorkerSettings

__all__ = ["RECYCLED", "RecycleLimits", "memory_bytes"]

RECYCLED = 10
"""The exit code of a worker process whose place a new one takes."""
_POLL_S = 0.25
_MIB = 1024 * 1024
_PAGE_BYTES = resource.getpagesize()


class RecycleLimits:
    """The limits of one process.

    Args:
        settings: the settings of the worker.

    Raises:
        ConfigurationError: the process already uses more memory than it may.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        spread = random.randint(0, settings.max_jobs // 10)  # so that not all processes of a pool end at once
        self._jobs = settings.max_jobs - spread
        self._bytes = settings.max_memory_bytes
        if self._bytes and (used := memory_bytes()) > self._bytes:
            raise ConfigurationError(
                f"max_memory must be more than a process uses at its start, {used // _MIB} MiB, "
                f"got {self._bytes // _MIB} MiB"
            )

    async def reached(self, jobs: Callable[[], int]) -> str:
        """Wait until a limit is reached, and return which: ``jobs`` or ``memory``.

        The memory counts after the first job, so that processes that start with too much still make progress.

        Args:
            jobs: how many jobs the worker has finished.
        """
        while True:
            done, used = jobs(), memory_bytes() if self._bytes else 0
            is_large = done > 0 and used > self._bytes
            reason = "jobs" if self._jobs and done >= self._jobs else "memory" if is_large else ""
            if reason:
                return reason
            await asyncio.sleep(_POLL_S)


def memory_bytes() -> int:
    """The resident memory of this process, in bytes. Where the system does not tell it, the most that it has used."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
