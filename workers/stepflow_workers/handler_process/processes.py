"""HandlerProcesses: the processes of a worker for isolated handlers. They start when they are needed, and are kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stepflow_engine.handler_control import HandlerControl
from stepflow_workers.handler_process.process import HandlerProcess

__all__ = ["HandlerProcesses", "usable_cpus"]

_MAX_CALLS = 1_000
"""After so many handlers a new process takes the place of one."""
_MAX_IDLE_BYTES = 512 * 1024**2
"""A process that keeps more memory than this after a handler is not used again."""
_POLL_S = 0.25


class HandlerProcesses:
    """At most ``limit`` processes, each with one handler at a time.

    Args:
        limit: how many handlers execute at once; 0: as many as there are CPUs.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._permits: asyncio.Semaphore | None = None
        self._idle: list[HandlerProcess] = []
        self._used: set[HandlerProcess] = set()

    @asynccontextmanager
    async def one(self, control: HandlerControl, *, memory_bytes: int = 0) -> AsyncIterator[HandlerProcess]:
        """A process for one handler. Waits until one is free. It is killed if the block is left by an error.

        Args:
            control: that of the handler: a wait ends when it is cancelled.
            memory_bytes: the memory limit of the handler; 0: none.

        Raises:
            RuntimeError: nobody needs the result any more.
            HandlerProcessError: no process can start.
        """
        if self._permits is None:
            self._permits = asyncio.Semaphore(self._limit or usable_cpus())
        await self._acquire(self._permits, control)
        try:
            process = self._idle_one(memory_bytes) or await HandlerProcess.start()
            self._used.add(process)
            try:
                yield process
            except BaseException:
                process.kill_now()
                raise
            finally:
                self._used.discard(process)
            self._keep(process)
        finally:
            self._permits.release()

    def close(self) -> None:
        """Kill all processes."""
        left = [*self._idle, *self._used]
        self._idle.clear()
        self._used.clear()
        for process in left:
            process.kill_now()
        for process in left:
            process.wait()

    async def _acquire(self, permits: asyncio.Semaphore, control: HandlerControl) -> None:
        taking = asyncio.get_running_loop().create_task(permits.acquire())
        try:
            while not taking.done():
                await asyncio.wait({taking}, timeout=_POLL_S)
                if control.cancelled:
                    raise RuntimeError(control.cancelled)
        except BaseException:
            if not taking.cancel():
                permits.release()
            raise

    def _idle_one(self, memory_bytes: int) -> HandlerProcess | None:
        """An idle process, the one that was used last. One that has half of the memory of the limit is replaced."""
        while self._idle:
            process = self._idle.pop()
            if process.is_alive and not (memory_bytes and process.memory_bytes() > memory_bytes // 2):
                return process
            process.kill_now()
        return None

    def _keep(self, process: HandlerProcess) -> None:
        if process.is_alive and process.calls < _MAX_CALLS and process.memory_bytes() <= _MAX_IDLE_BYTES:
            self._idle.append(process)
        else:
            process.kill_now()


def usable_cpus() -> int:
    """The number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
