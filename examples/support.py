"""Runs a Redis server and workers inside the process of an example.

A real program does not need this module: it connects to a Redis server, and ``stepflow-worker`` processes execute its
functions. Only this module of the small examples imports from packages other than ``stepflow``.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepflow import Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.transitions.schedules import fire_cron, read_crons
from stepflow_engine.codec import pretty
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker

__all__ = ["move_schedules_back", "pretty", "show", "temporary_server", "worker"]


@contextmanager
def temporary_server() -> Iterator[str]:
    """The URL of a Redis server that is deleted at the end."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        yield server.url


@contextmanager
def worker(url: str, *apps: Stepflow) -> Iterator[None]:
    """A worker in a thread of this process, so that an example can read the in-memory stand-ins."""
    worker = StepWorker(list(apps), WorkerSettings(url))
    thread = threading.Thread(target=worker.work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(30)


def show(title: str, result: Any) -> None:
    """Print what an example shows and its result."""
    print(f"{title}:\n{pretty(result)}\n")


def move_schedules_back(client: Stepflow, hours: int) -> None:
    """Set the last processed time of all schedules back, as if no worker had run since then."""
    broker, partition = client.backend.broker, client.backend.partition
    deadline = time.monotonic() + 30
    while (
        not any(found := broker.execute_all([read_crons(one) for one in partition.all])) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    for one, schedules in zip(partition.all, found, strict=True):
        for name, last_ms in schedules.items():
            broker.execute(fire_cron(one, name, last_ms=last_ms, until_ms=last_ms - hours * 3_600_000, starts=()))
