"""The source files that one run passes through: ``python -m tests.support.traced_files FOLDER``.

It starts a server and a worker in this process, runs a function with one step, and prints each file of the product
that was entered between ``send`` and ``result``, in order of first entry. `PERIODIC` has the files that the periodic
tasks of the worker may add.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from stepflow import Context, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_workers.state.settings import WorkerSettings
from tests.support.pages import ROOT
from tests.support.processes import WorkerThread, until

__all__ = ["PERIODIC", "traced_files"]

PERIODIC = frozenset(
    {
        "broker/stepflow_broker/redis_client/operation.py",
        "broker/stepflow_broker/redis_client/subscriptions.py",
        "broker/stepflow_broker/registry/flow_control.py",
        "broker/stepflow_broker/transitions/invokes/outbox.py",
        "broker/stepflow_broker/transitions/jobs/leases.py",
        "broker/stepflow_broker/transitions/pauses.py",
        "broker/stepflow_broker/transitions/schedules.py",
        "broker/stepflow_broker/views/run_end_waits.py",
        "workers/stepflow_workers/consumers/completions.py",
        "workers/stepflow_workers/liveness/lease_renewer.py",
        "workers/stepflow_workers/liveness/lease_sidecar.py",
        "workers/stepflow_workers/scheduling/cron.py",
    }
)
"""Files that may be entered meanwhile: a periodic task of the worker is due, or the run has not ended at ``result``."""

_FOLDERS = tuple(f"{ROOT / name}/" for name in ("engine", "broker", "sdk", "workers", "cli"))


class _Tracer:
    """Records the files whose functions are called, in all threads that start after it."""

    def __init__(self) -> None:
        self._files: dict[str, None] | None = None

    def install(self) -> None:
        sys.setprofile(self._on_event)
        threading.setprofile(self._on_event)

    @contextmanager
    def recording(self) -> Iterator[dict[str, None]]:
        self._files = files = {}
        try:
            yield files
        finally:
            self._files = None

    def _on_event(self, frame: FrameType, what: str, _arg: Any) -> None:
        files, name = self._files, frame.f_code.co_filename
        if files is not None and what == "call" and name.startswith(_FOLDERS):
            files.setdefault(name)


def traced_files(folder: Path) -> list[str]:
    """The files, relative to the root of the tree. The server has its data in ``folder``."""
    tracer = _Tracer()
    tracer.install()
    runs: list[str] = []
    with EmbeddedServer(folder) as server:
        app = Stepflow("traced", redis_url=server.url)

        @app.function("traced", event="traced")
        async def function(ctx: Context) -> int:
            if ctx.run_id not in runs:
                runs.append(ctx.run_id)
            return await ctx.step.run("step", _step)

        worker = WorkerThread(app, WorkerSettings(server.url))
        try:
            _run(app, runs)  # the first run also fills caches
            with tracer.recording() as files:
                _run(app, runs)
        finally:
            worker.stop()
    return [str(Path(name).relative_to(ROOT)) for name in files]


async def _step() -> int:
    return 1


def _run(app: Stepflow, runs: list[str]) -> None:
    count = len(runs)
    app.send("traced", {})
    until(lambda: len(runs) > count, what="the start of the run")
    assert app.run(runs[-1]).result(timeout=30) == 1


if __name__ == "__main__":
    print("\n".join(traced_files(Path(sys.argv[1]))))
