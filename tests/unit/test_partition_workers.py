"""The partition workers of a worker: when they work again, and when they do not. And whom a free slot wakes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_workers.partition.partition_worker import PartitionWorker, PartitionWorkers
from stepflow_workers.state.wakeups import Wakeups
from tests.support.plain import PLAIN

PASSES = 3


class Work:
    """A dispatcher that finds a job in each of its first passes; also a router and completions that prepare nothing."""

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
async def test_they_work_again_while_there_was_work_but_not_once_they_stop(*, is_stopped: bool, passes: int) -> None:
    """Another pass would wait for a server that may be unreachable."""
    state: Any = SimpleNamespace(stopping=False)
    work: Any = Work(state, is_stopped=is_stopped)
    partition_workers = PartitionWorkers(state, work, {PLAIN: PartitionWorker(work, work, work, work.prepare)})
    await partition_workers.run()
    assert work.passes == passes


class Sleeper:
    """A dispatcher that counts how often it is woken."""

    def __init__(self, *, wants_slots: bool) -> None:
        self.wants_slots = wants_slots
        self.woken = 0

    def wake(self, *, has_jobs: bool = False) -> None:
        self.woken += 1

    def timer_set(self, delay_ms: int) -> None: ...


def test_a_free_slot_wakes_the_next_dispatcher_that_wants_one() -> None:
    sleepers = [Sleeper(wants_slots=wants_slots) for wants_slots in (True, False, True)]
    first = Partition.first_of(Keys.over(len(sleepers)), NO_ENCRYPTION)
    wakeups = Wakeups(first)
    for partition, sleeper in zip(first.all, sleepers, strict=True):
        wakeups.add(partition, sleeper)
    for _ in range(4):
        wakeups.slot_freed()
    assert [sleeper.woken for sleeper in sleepers] == [2, 0, 2]
