"""An asyncio loop that knows when a run has nothing left to do.

A run's code is ordinary asyncio, so "it waits for steps only" is not something it says; it has to be seen. Every
task of a run carries its `RunActivity` in its context, and every callback that asyncio schedules for the run comes
through `call_soon` with that context. A run is *quiet* when a whole turn of the loop passes in which nothing of it
was scheduled. The loop's ready queue is first in, first out, which makes this exact and not a guess: a watcher that
clears the flag and comes up again has seen everything that was scheduled before it run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

__all__ = ["ACTIVITY", "RunActivity", "RunLoop", "RunTrackingMixin", "end_tasks"]

_CANCEL_AGAIN_S = 0.05


class RunActivity:
    """What the loop has seen of one run.

    Attributes:
        touched: something of the run was scheduled since this was last cleared.
        called: the run was called from outside since it was last waited for.
        tasks: the run's unfinished tasks.
        timers: timers that the run's own code started and that have not fired, some perhaps cancelled.
        threads: threads of the run that compute; one that waits for a step does not count.
    """

    __slots__ = ("_waiter", "called", "tasks", "threads", "timers", "touched")

    def __init__(self) -> None:
        self.touched = False
        self.called = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self.timers: dict[_Timed, asyncio.TimerHandle] = {}
        self.threads = 0
        self._waiter: asyncio.Future[None] | None = None

    def touch(self) -> None:
        """Note that something of the run happens."""
        self.touched = True
        self._wake()

    def call(self) -> None:
        """Wake who waits for the run: there is something new for it, or the worker stops."""
        self.called = True
        self._wake()

    def _wake(self) -> None:
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
        """Wait until something of the run happens, or it is called."""
        if not self.touched and not self.called:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self.called = False

    def has_timer(self) -> bool:
        """Whether a timer of the run's own code is still to fire."""
        self.timers = {timed: timer for timed, timer in self.timers.items() if not timer.cancelled()}
        return bool(self.timers)


class _Timed:
    """What a timer of a run calls; takes it off the list of those that are still to fire."""

    __slots__ = ("_activity", "_callback")

    def __init__(self, activity: RunActivity, callback: Any) -> None:
        self._activity = activity
        self._callback = callback

    def __call__(self, *args: Any) -> None:
        self._activity.timers.pop(self, None)
        self._callback(*args)


ACTIVITY: ContextVar[RunActivity | None] = ContextVar("stepflow_activity", default=None)


if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop
else:
    _Loop = object  # a mix-in: for uvloop's class too


class RunTrackingMixin(_Loop):
    """A mix-in for an event loop class that reports what is scheduled to the `RunActivity` of the run concerned."""

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
        callback = _timed(callback)
        return _remember(callback, super().call_later(delay, callback, *args, context=context))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; remembers the timer if a run's code starts it."""
        callback = _timed(callback)
        return _remember(callback, super().call_at(when, callback, *args, context=context))

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        """As asyncio's; counts the task among those of the run that starts it."""
        task = super().create_task(coro, name=name, context=context)
        activity = ACTIVITY.get() if context is None else context.get(ACTIVITY)
        if activity is not None:
            activity.tasks.add(task)
            task.add_done_callback(activity.tasks.discard)
        return task


def _timed(callback: Any) -> Any:
    """The callback of a timer; one of the two calls of a loop that set timers uses the other."""
    activity = ACTIVITY.get()
    return callback if activity is None or isinstance(callback, _Timed) else _Timed(activity, callback)


def _remember(callback: Any, timer: asyncio.TimerHandle) -> asyncio.TimerHandle:
    activity = ACTIVITY.get()
    if activity is not None:
        activity.timers[callback] = timer
    return timer


class RunLoop(RunTrackingMixin, asyncio.SelectorEventLoop):
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
