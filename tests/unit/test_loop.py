"""The loop that sees when a run is quiet, and what tasks wait for."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from stepflow_engine.run_loop import ACTIVITY, RunActivity, end_tasks
from stepflow_engine.suspension import is_blocked_on_run
from tests.support.replay import on_run_loop

pytestmark = pytest.mark.usefixtures("each_loop")


def tracked(work: Coroutine[Any, Any, Any]) -> tuple[RunActivity, asyncio.Task[Any]]:
    """A task of a run."""
    activity = RunActivity()
    context = contextvars.copy_context()
    context.run(ACTIVITY.set, activity)
    return activity, context.run(asyncio.get_running_loop().create_task, work)


def test_a_run_is_quiet_when_it_waits() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        seen = []

        async def work() -> None:
            for n in range(50):
                await asyncio.sleep(0)
                seen.append(n)
            await future

        activity, task = tracked(work())
        await activity.settled()
        assert seen == list(range(50))
        future.set_result(None)
        await activity.settled()
        assert task.done()

    on_run_loop(main())


def test_tasks_that_a_runs_task_starts_are_the_runs() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def work() -> None:
            await asyncio.gather(*[asyncio.create_task(inner()) for _ in range(3)])

        async def inner() -> None:
            await asyncio.wait_for(asyncio.shield(future), 60)

        activity, task = tracked(work())
        await activity.settled()
        assert task in activity.tasks
        assert len(activity.tasks) >= 4
        future.set_result(None)
        await task
        await activity.settled()
        assert not activity.tasks

    on_run_loop(main())


def test_other_tasks_of_the_loop_do_not_touch_a_run() -> None:
    async def main() -> None:
        activity, task = tracked(asyncio.sleep(60))
        await activity.settled()
        for _ in range(10):
            await asyncio.create_task(asyncio.sleep(0))
        assert not activity.touched
        task.cancel()

    on_run_loop(main())


def test_a_timer_of_the_run_is_known_until_it_has_fired_or_is_cancelled() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired = loop.create_future()

        async def work() -> None:
            loop.call_later(0.02, fired.set_result, None)
            cancelled = loop.call_at(loop.time() + 60, fired.cancel)
            await asyncio.sleep(0)
            cancelled.cancel()

        activity, _ = tracked(work())
        await activity.settled()
        assert len(activity.timers) == 2
        assert activity.has_timer()
        assert len(activity.timers) == 1
        time.sleep(0.03)  # it is due now, and has not fired
        assert activity.has_timer()
        await fired
        assert not activity.has_timer()

    on_run_loop(main())


def test_a_change_that_came_before_it_is_waited_for_is_not_missed() -> None:
    async def main() -> None:
        activity = RunActivity()
        activity.touch()
        await activity.changed()

    on_run_loop(main())


def test_a_thread_that_computes_keeps_a_run_from_being_quiet() -> None:
    async def main() -> None:
        activity = RunActivity()
        activity.threads = 1
        settled = asyncio.create_task(activity.settled())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not settled.done()
        activity.threads = 0
        activity.touch()
        await settled

    on_run_loop(main())


async def waits_of(work: Coroutine[Any, Any, Any]) -> bool:
    """Whether the last task that ``work`` starts waits inside its run."""
    activity, task = tracked(work)
    await activity.settled()
    try:
        return is_blocked_on_run(task, activity.tasks)
    finally:
        for left in list(activity.tasks):
            left.cancel()


def test_waiting_for_the_worlds_future_is_waiting_outside() -> None:
    async def main() -> None:
        async def work() -> None:
            await asyncio.get_running_loop().create_future()

        assert not await waits_of(work())

    on_run_loop(main())


def test_waiting_for_another_task_or_its_primitives_is_waiting_inside() -> None:
    async def main() -> None:
        async def for_task() -> None:
            await asyncio.create_task(asyncio.Event().wait())

        async def for_group() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())

        async def for_gather() -> None:
            await asyncio.gather(asyncio.Event().wait(), asyncio.Event().wait())

        async def for_wait() -> None:
            await asyncio.wait([asyncio.create_task(asyncio.Event().wait())])

        async def for_lock() -> None:
            lock = asyncio.Lock()
            await lock.acquire()
            await lock.acquire()

        for work in (for_task(), for_group(), for_gather(), for_wait(), for_lock()):
            assert await waits_of(work)
        assert await waits_of(asyncio.Queue[int]().get())
        assert await waits_of(asyncio.Semaphore(0).acquire())

    on_run_loop(main())


def test_waiting_for_another_runs_task_is_waiting_outside() -> None:
    async def main() -> None:
        other = asyncio.create_task(asyncio.Event().wait())

        async def work() -> None:
            await other

        assert not await waits_of(work())
        other.cancel()

    on_run_loop(main())


def test_a_task_that_misses_its_cancel_is_cancelled_again() -> None:
    async def main() -> int:
        missed = 0

        async def deaf() -> None:
            nonlocal missed
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    missed += 1
                    if missed == 3:
                        raise

        task = asyncio.create_task(deaf())
        await asyncio.sleep(0)
        await end_tasks([task, asyncio.create_task(asyncio.sleep(60))])
        assert task.cancelled()
        return missed

    assert on_run_loop(main()) == 3
