"""The event loop of a worker: uvloop where it is installed. It tracks the tasks of runs."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from stepflow_engine.run_loop import RunLoop, RunTrackingMixin

__all__ = ["WorkerLoop", "tune_gc"]


def tune_gc() -> None:
    """Collect garbage less often: a worker makes thousands of small objects a second and hardly any cycles.

    Objects that exist at the start, mostly code, are not scanned again. (Measured: up to a quarter of a worker's time.)
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
            """The loop of uvloop with run tracking. It costs less than half the time per step of the standard loop."""
