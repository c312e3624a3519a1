"""An asyncio event loop that detects when the code of a run is quiet.

The code of a run is ordinary asyncio code, so it does not report that it waits for steps only: the loop detects it.
Every task of a run has the `RunActivity` of the run in its context, and asyncio schedules every callback of the run
through `call_soon` with that context. A run is *quiet* when a whole turn of the loop passes without a callback of the
run. This is exact, because the ready queue of the loop is first in, first out: when a watcher that has cleared the flag
runs again, every callback that was scheduled before it has run.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextvars import Context, ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

__all__ = ["ACTIVITY", "RunActivity", "RunLoop", "RunTrackingMixin", "end_tasks", "is_run_loop"]

_CANCEL_AGAIN_S = 0.05


class RunActivity:
    """The tasks, timers and threads of one run, and whether it is quiet.

    Attributes:
        touched: a callback of the run was scheduled since this was last cleared.
        notified: `notify` was called since `changed` last returned.
        tasks: the unfinished tasks of the run.
        timers: the timers of the run's own code that have not fired; some may be cancelled.
        threads: the number of threads of the run that compute. A thread that waits for a step does not count.
        operations: the number of operations outside of the run that its code waits for: a call in an executor, a name
            that is looked up, a connection that is made.
        transports: the connections, servers and processes that the code has opened.
        on_touch: called once, when the run is touched next; ``None``: nothing is called.
    """

    __slots__ = (
        "_waiter",
        "notified",
        "on_touch",
        "operations",
        "tasks",
        "threads",
        "timers",
        "touched",
        "transports",
    )

    def __init__(self) -> None:
        self.touched = False
        self.notified = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self.timers: dict[_Timed, asyncio.TimerHandle] = {}
        self.threads = 0
        self.operations = 0
        self.transports: list[Any] = []
        self.on_touch: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def track(self, task: asyncio.Task[Any]) -> None:
        """Add a task of the run, however it was made."""
        if task not in self.tasks and not task.done():
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def touch(self) -> None:
        """Record that a callback of the run is scheduled."""
        self.touched = True
        if self._waiter is not None:
            self._wake()
        if self.on_touch is not None:
            on_touch, self.on_touch = self.on_touch, None
            on_touch()

    def notify(self) -> None:
        """Let `changed` return: the run has a new memo, or the worker stops."""
        self.notified = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def settled(self) -> None:
        """Wait until the run is quiet. Call it outside of the context of the run."""
        while True:
            self.touched = False
            await _next_turn()
            if self.touched:
                continue
            if not self.threads:
                return
            await self.changed()

    async def changed(self) -> None:
        """Wait until a callback of the run is scheduled, or `notify` is called."""
        if not self.touched and not self.notified:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self.notified = False

    def has_timer(self) -> bool:
        """Whether a timer of the run's own code has not fired yet."""
        if self.timers:
            self.timers = {timed: timer for timed, timer in self.timers.items() if not timer.cancelled()}
        return bool(self.timers)

    def is_open(self) -> bool:
        """Whether something outside of the run, which its code has opened, may continue the code."""
        self.transports = [transport for transport in self.transports if not _is_closed(transport)]
        return bool(self.operations or self.transports)

    async def outside(self, operation: Awaitable[Any]) -> Any:
        """Await an operation outside of the run, and remember the connections that it opens."""
        self.operations += 1
        try:
            result = await operation
        finally:
            self.operations -= 1
        opened = result[0] if isinstance(result, tuple) and result else result
        if hasattr(opened, "is_closing") or hasattr(opened, "is_serving"):  # uvloop has classes of its own
            self.transports.append(opened)
        return result


@types.coroutine
def _next_turn() -> Generator[None, None, None]:
    """Let the loop run what is scheduled: ``asyncio.sleep(0)`` at half its cost."""
    yield


def _is_closed(opened: Any) -> bool:
    """Whether a transport or a server is closed."""
    return bool(opened.is_closing()) if hasattr(opened, "is_closing") else not opened.is_serving()


class _Timed:
    """The callback of a timer of a run. When it is called, it removes the timer from `RunActivity.timers`."""

    __slots__ = ("_activity", "_callback")

    def __init__(self, activity: RunActivity, callback: Any) -> None:
        self._activity = activity
        self._callback = callback

    def __call__(self, *args: Any) -> None:
        self._activity.timers.pop(self, None)
        self._callback(*args)


ACTIVITY: ContextVar[RunActivity | None] = ContextVar("run_activity", default=None)


if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop
else:
    _Loop = object  # a mix-in: for uvloop's class too


class RunTrackingMixin(_Loop):
    """A mix-in for an event loop class. It reports each scheduled callback to the `RunActivity` of its run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._schedule = super().call_soon  # each call of super() costs as much as the rest of our `call_soon`

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback, and touch the run in whose context it will run.

        The first step of every task passes here, also of a task that was made without `create_task`.
        """
        activity = ACTIVITY.get() if context is None else context.get(ACTIVITY)
        if activity is not None:
            activity.touch()
            task: Any = getattr(callback, "__self__", None)
            if issubclass(type(task), asyncio.Task) and task not in activity.tasks:
                activity.track(task)
        return self._schedule(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a timer, and record it if the code of a run starts it."""
        callback = _timed(callback)
        return _remember(callback, super().call_later(delay, callback, *args, context=context))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a timer, and record it if the code of a run starts it."""
        callback = _timed(callback)
        return _remember(callback, super().call_at(when, callback, *args, context=context))

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in an executor, and count it among the operations of the run until it has ended."""
        future = super().run_in_executor(executor, func, *args)
        activity = ACTIVITY.get()
        if activity is not None:
            activity.operations += 1
            future.add_done_callback(partial(_end_operation, activity))
        return future

    def create_task(
        self, coro: Any, *, name: Any = None, context: Context | None = None, **_options: Any
    ) -> asyncio.Task[Any]:
        """Create a task, and add it to the tasks of the run that creates it.

        A task factory, and the option ``eager_start`` of newer versions of Python, are ignored. An eager task runs
        before anything can record it, so a race would have another winner on a replay.
        """
        return asyncio.Task(coro, loop=self, name=name, context=context)


def _end_operation(activity: RunActivity, _: asyncio.Future[Any]) -> None:
    activity.operations -= 1


def _outside(name: str) -> Any:
    """A method of the loop that awaits something outside of the run which calls it."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        operation = getattr(super(RunTrackingMixin, self), name)(*args, **kwargs)
        activity = ACTIVITY.get()
        return operation if activity is None else activity.outside(operation)

    method.__name__ = name
    return method


for _name in (
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "getaddrinfo",
    "getnameinfo",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendfile",
    "sock_sendto",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
):
    setattr(RunTrackingMixin, _name, _outside(_name))


def _timed(callback: Any) -> Any:
    """Wrap the callback of a timer once: `call_later` of a loop may use its `call_at`."""
    activity = ACTIVITY.get()
    return callback if activity is None or isinstance(callback, _Timed) else _Timed(activity, callback)


def _remember(callback: Any, timer: asyncio.TimerHandle) -> asyncio.TimerHandle:
    activity = ACTIVITY.get()
    if activity is not None:
        activity.timers[callback] = timer
    return timer


class RunLoop(RunTrackingMixin, asyncio.SelectorEventLoop):
    """The standard selector loop with run tracking."""


def is_run_loop() -> bool:
    """Whether the caller runs in the event loop of a worker, where a blocking wait would stop all its runs."""
    return isinstance(asyncio._get_running_loop(), RunTrackingMixin)


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended. Their errors are dropped.

    Each cancel is repeated until the task ends. Before Python 3.12, `asyncio.wait_for` loses a cancel that arrives
    together with its result, and libraries use it.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
        await asyncio.gather(*ended, return_exceptions=True)
