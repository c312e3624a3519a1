"""The partition workers of a worker: when they work again, and when they do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stepflow_broker.protocol.keys import Keys
from stepflow_workers.partition.partition_worker import PartitionWorker, PartitionWorkers
from stepflow_workers.state.signals import WorkerSignals

PASSES = 3


class Work:
    """A dispatcher that finds a job in each of its first passes; also a router and a completion consumer."""

    def __init__(self, state: SimpleNamespace, *, is_stopped: bool) -> None:
        self.claimed = 0
        self.passes = 0
        self._state = state
        self._is_stopped = is_stopped

    async def run(self) -> None:
        self.passes += 1
        self.claimed += self.passes < PASSES
        self._state.stopping = self._is_stopped

    async def prepare(self, *_: object) -> None: ...


@pytest.mark.parametrize(("is_stopped", "passes"), [(False, PASSES), (True, 1)])
async def test_they_work_again_while_there_was_work_but_not_once_they_are_to_stop(
    *, is_stopped: bool, passes: int
) -> None:
    """To work again they would ask the server, which may be away."""
    state = SimpleNamespace(keys=Keys(), stopping=False, signals=WorkerSignals())
    work: Any = Work(state, is_stopped=is_stopped)
    partition_workers: Any = PartitionWorkers(state, work, lambda _keys: PartitionWorker(work, work, work))  # type: ignore[arg-type]
    await partition_workers.run()
    assert work.passes == passes
