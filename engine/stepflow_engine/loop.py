"""An asyncio loop that knows when a run has nothing left to do.

A run's code is ordinary asyncio, so "it waits for steps only" is not something it says; it has to be seen. Every
task of a run carries its `Activity` in its context, and every callback that asyncio schedules for the run comes
through `call_soon` with that context. A run is *quiet* when a whole turn of the loop passes in which nothing of it
was scheduled. The loop's ready queue is first in, first out, which makes this exact and not a guess: a watcher that
clears the flag and comes up again has seen everything that was scheduled before it run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

__all__ = ["ACTIVITY", "Activity", "RunLoop", "TracksRuns", "end_tasks"]

_CANCEL_AGAIN_S = 0.05


class Activity:
    """What the loop has seen of one run.

    Attributes:
        touched: something of the run was scheduled since this was last cleared.
        tasks: the run's unfinished tasks.
        timers: timers that the run's own code started, some perhaps already over.
        threads: threads of the run that compute; one that waits for a step does not count.
    """

    __slots__ = ("_waiter", "tasks", "threads", "timers", "touched")

    def __init__(self) -> None:
        self.touched = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self.timers: list[asyncio.TimerHandle] = []
        self.threads = 0
        self._waiter: asyncio.Future[None] | None = None

    def touch(self) -> None:
        """Note that something of the run happens."""
        self.touched = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def settled(self) -> None:
        """Wait until the run is quiet. To be called from outside the run's context."""
        while True:
            self.touched = False
            await asyncio.sleep(0)
            if self.touched:
                continue
            if not self.threads:
                return
            await self.changed()

    async def changed(self) -> None:
        """Wait until something of the run happens."""
        if self.touched:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def has_timer(self, now: float) -> bool:
        """Whether a timer of the run's own code is still to come (``now`` in the loop's time)."""
        self.timers = [timer for timer in self.timers if not timer.cancelled() and timer.when() > now]
        return bool(self.timers)


ACTIVITY: ContextVar[Activity | None] = ContextVar("stepflow_activity", default=None)


if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop
else:
    _Loop = object  # a mix-in: for uvloop's class too


class TracksRuns(_Loop):
    """A mix-in for an event loop class that reports what is scheduled to the `Activity` of the run concerned."""

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's; touches the run in whose context the callback will run."""
        activity = ACTIVITY.get() if context is None else context.get(ACTIVITY)
        if activity is not None:
            activity.touch()
        return super().call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; remembers the timer if a run's code starts it."""
        return _remember(super().call_later(delay, callback, *args, context=context))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; remembers the timer if a run's code starts it."""
        return _remember(super().call_at(when, callback, *args, context=context))

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        """As asyncio's; counts the task among those of the run that starts it."""
        task = super().create_task(coro, name=name, context=context)
        activity = ACTIVITY.get() if context is None else context.get(ACTIVITY)
        if activity is not None:
            activity.tasks.add(task)
            task.add_done_callback(activity.tasks.discard)
        return task


def _remember(timer: asyncio.TimerHandle) -> asyncio.TimerHandle:
    activity = ACTIVITY.get()
    if activity is not None and (not activity.timers or activity.timers[-1] is not timer):
        activity.timers.append(timer)
    return timer


class RunLoop(TracksRuns, asyncio.SelectorEventLoop):
    """The standard selector loop, watched."""


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended; what they raise is dropped.

    A cancel is repeated until it is heeded: `asyncio.wait_for` before Python 3.12 forgets one that comes together with
    what it waits for, and libraries use it.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
        await asyncio.gather(*ended, return_exceptions=True)
