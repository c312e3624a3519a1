"""The event loop of a worker: uvloop where it is installed. It tracks the tasks of runs."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.run_loop import RunLoop, RunTrackingMixin

__all__ = ["WorkerLoop", "tune_gc"]

_log = logging.getLogger(WORKER_LOGGER)


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
