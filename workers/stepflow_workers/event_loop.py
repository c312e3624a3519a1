"""The event loop of a worker: uvloop where it is installed. It tracks the tasks of runs."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.run_loop import RunLoop, RunTrackingMixin

__all__ = ["WorkerLoop", "run_to_end", "tune_gc"]

_log = logging.getLogger(WORKER_LOGGER)
_LEFT_S = 1.0
"""How long tasks that handlers have left behind may take to end."""


def tune_gc() -> None:
    """Collect garbage less often: a worker makes thousands of small objects a second and hardly any cycles.

    Objects that exist at the start, mostly code, are not scanned again. (Measured: up to a quarter of a worker's time.)
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


class _WorkerLoopMixin(RunTrackingMixin):
    def set_task_factory(self, factory: Any) -> None:
        """Ignore a task factory, for the reason that `RunTrackingMixin.create_task` gives."""
        if factory is not None:
            _log.warning("task_factory_ignored", extra={"factory": repr(factory)})


if TYPE_CHECKING:
    WorkerLoop = RunLoop
else:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy

        class WorkerLoop(_WorkerLoopMixin, RunLoop):
            """The standard selector loop with run tracking."""
    else:

        class WorkerLoop(_WorkerLoopMixin, uvloop.Loop):
            """The loop of uvloop with run tracking. It costs less than half the time per step of the standard loop."""


def run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run the work of a worker in a loop of its own. Other than `asyncio.run`, it does not wait for code of handlers.

    A task that a handler has left behind may catch every cancellation, and a thread of the default executor cannot be
    interrupted. Tasks get a second to end, threads nothing.

    asyncio ends the loop when a task of user code raises SystemExit: then it is resumed. The task keeps the error, and
    the code that awaits the task gets it.
    """
    loop = WorkerLoop()
    asyncio.set_event_loop(loop)
    try:
        _run(loop, loop.create_task(work))
    finally:
        try:
            _end(loop)
        finally:
            asyncio.set_event_loop(None)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    while True:
        try:
            loop.run_until_complete(task)
            return
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            _log.warning("exit_ignored", extra={"error": repr(error)})


def _end(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        _, left = loop.run_until_complete(asyncio.wait(left, timeout=_LEFT_S))
    if left:
        _log.warning("tasks_left", extra={"count": len(left)})
        return  # a closed loop would report each of them again
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
