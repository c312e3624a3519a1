"""The slots of a worker: who gets how many, in which order."""

from __future__ import annotations

import asyncio

import pytest

from stepflow_workers.state.slots import Slots


class Jobs:
    """Jobs that hold slots until they are told to end."""

    def __init__(self, total: int) -> None:
        self.woken = 0
        self.slots = Slots(total, self._wake)
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def _wake(self) -> None:
        self.woken += 1

    async def start(self, name: str, count: int) -> None:
        """A claimed job, which executes a step with so many slots."""
        self.slots.take()
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, count))
        await settle()

    async def _run(self, name: str, count: int) -> None:
        try:
            async with self.slots.several(count):
                self.running.append(name)
                await self._ends[name].wait()
                self.running.remove(name)
        finally:
            self.slots.free_one()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks[name]
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_step_waits_for_all_its_slots_and_no_job_is_claimed_meanwhile() -> None:
    jobs = Jobs(4)
    await jobs.start("a", 1)
    await jobs.start("b", 1)
    assert jobs.slots.free == 2
    await jobs.start("wide", 3)
    assert (jobs.running, jobs.slots.free) == (["a", "b"], 0)
    await jobs.end("a")
    assert (jobs.running, jobs.slots.free) == (["b", "wide"], 0)
    await jobs.end("b")
    assert jobs.slots.free == 1
    woken = jobs.woken
    await jobs.end("wide")
    assert (jobs.slots.free, jobs.slots.used) == (4, 0)
    assert jobs.woken > woken


async def test_steps_that_wait_for_several_slots_get_them_in_order_and_do_not_block_each_other() -> None:
    jobs = Jobs(3)
    await jobs.start("a", 1)
    await jobs.start("first", 3)
    await jobs.start("second", 2)
    assert jobs.running == ["a"]
    await jobs.end("a")
    assert jobs.running == ["first"]
    await jobs.end("first")
    assert jobs.running == ["second"]
    await jobs.end("second")
    assert jobs.slots.free == 3


async def test_a_step_that_needs_more_slots_than_there_are_takes_all() -> None:
    jobs = Jobs(2)
    await jobs.start("a", 1)
    await jobs.start("wide", 100)
    assert jobs.running == ["a"]
    await jobs.end("a")
    assert (jobs.running, jobs.slots.used) == (["wide"], 2)
    await jobs.end("wide")
    assert jobs.slots.free == 2


@pytest.mark.parametrize("runs", [False, True])
async def test_a_cancelled_step_leaves_no_slot_behind(runs: bool) -> None:
    jobs = Jobs(2)
    if not runs:
        await jobs.start("a", 1)
    await jobs.start("wide", 2)
    await jobs.start("next", 2)
    assert jobs.running == (["wide"] if runs else ["a"])
    jobs.tasks["wide"].cancel()
    await settle()
    if not runs:
        await jobs.end("a")
    assert jobs.running[-1] == "next"
    await jobs.end("next")
    assert (jobs.slots.free, jobs.slots.used) == (2, 0)


async def test_a_closed_worker_claims_no_jobs_and_lets_its_own_go_on() -> None:
    jobs = Jobs(2)
    jobs.slots.close()
    await jobs.start("wide", 2)
    assert (jobs.running, jobs.slots.free) == (["wide"], 0)
    await jobs.end("wide")
    assert jobs.slots.free == 0
    jobs.slots.open()
    assert jobs.slots.free == 2
