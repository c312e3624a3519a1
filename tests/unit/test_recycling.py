"""When a worker process is replaced."""

from __future__ import annotations

import asyncio

import pytest

from stepflow_workers.liveness import recycling
from stepflow_workers.liveness.recycling import RecycleLimits
from stepflow_workers.state.settings import WorkerSettings


async def test_the_memory_of_a_process_counts_after_its_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([10])
    monkeypatch.setattr(recycling, "memory_bytes", lambda: next(used, 200))
    monkeypatch.setattr(recycling, "_POLL_S", 0.0)
    limits = RecycleLimits(WorkerSettings("redis://127.0.0.1:1/0", max_memory_bytes=100))
    jobs = [0]
    reached = asyncio.create_task(limits.reached(lambda: jobs[0]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reached.done()
    jobs[0] = 1
    assert await reached == "memory"
