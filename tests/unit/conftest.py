"""Fixtures of the fast tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from stepflow_engine.run_loop import RunLoop
from stepflow_workers.event_loop import WorkerLoop
from tests.support.replay import LOOP


@pytest.fixture(params=[RunLoop, WorkerLoop], ids=["asyncio", "uvloop"])
def each_loop(request: pytest.FixtureRequest) -> Iterator[type[asyncio.AbstractEventLoop]]:
    """Both loops that functions may run on, one after the other."""
    before = LOOP.set(request.param)
    yield request.param
    LOOP.reset(before)
