"""The event loop of a worker: uvloop's where there is one, watched like any that runs functions."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from stepflow_engine.run_loop import RunLoop, RunTrackingMixin

__all__ = ["WorkerLoop", "tune_gc"]


def tune_gc() -> None:
    """Look for garbage cycles less often: a worker makes thousands of small objects a second and hardly any cycle.

    What is there at the start, code above all, is not looked at again. (Measured: up to a quarter of a worker's time.)
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


if TYPE_CHECKING:
    WorkerLoop = RunLoop
else:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        WorkerLoop = RunLoop
    else:

        class WorkerLoop(RunTrackingMixin, uvloop.Loop):
            """uvloop's loop, watched: it costs a step less than half of what the standard loop does."""
