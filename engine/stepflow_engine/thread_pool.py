"""ThreadPool: the threads of a worker for plain ``def`` code, which are kept and used again.

Libraries keep things per thread, above all connections to databases. A new thread for each call would open a new
connection for each.

Not a `concurrent.futures.ThreadPoolExecutor`, for three reasons. A call that never returns occupies one of its threads
for ever, so as many of them as it has threads stop all others. The interpreter waits for its threads at exit, so such a
call would also hold up a worker that stops. And its threads keep the names that they were started with.

Here a call never waits for a thread: if none is idle, a new one starts. What is limited is the number of idle threads.
So a call that never returns costs its own thread and nothing else: the next call takes, or starts, another one. The
callers limit how many calls there are at once: the steps that execute by the slots of the worker, the functions that
are suspended by its cache.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from stepflow_engine.product import NAME
from stepflow_engine.terminal_text import cut, printable

__all__ = ["ThreadPool"]

_IDLE = f"{NAME} idle"
_MAX_NAME = 100


class ThreadPool:
    """Runs calls in threads, and keeps the threads.

    The threads are daemons: a process that has released its jobs does not wait for them.

    Args:
        max_idle: how many threads without a call it keeps. 0: each thread ends after its call.
    """

    def __init__(self, max_idle: int = 0) -> None:
        self._max_idle = max_idle
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[_PooledThread] = []

    def start(self, call: Callable[[], None], *, name: str) -> None:
        """Run ``call`` in a thread. What it raises is dropped.

        Args:
            name: the name of the thread during the call: profilers and log lines show it.

        Raises:
            RuntimeError: the system allows no more threads.
        """
        name = f"{NAME} {printable(cut(name, _MAX_NAME))}"
        with self._lock:
            thread = self._idle.pop() if self._idle else None  # the last one: the data of its last call is in caches
            if thread is not None:
                thread.take(call, name)
        if thread is None:
            _PooledThread(self).start(call, name)

    def close(self) -> None:
        """End the idle threads now, and the others after their calls."""
        with self._lock:
            self._max_idle = 0
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.end()

    def keep(self, thread: _PooledThread) -> bool:
        """Keep a thread that has no call; false: it must end.

        In a process that a handler has forked, the thread that forked is the only one, and nothing calls it again.
        Another thread may have had the lock.
        """
        if os.getpid() != self._pid:
            return False
        with self._lock:
            if thread.has_call or thread in self._idle:
                return True
            if len(self._idle) >= self._max_idle:
                return False
            self._idle.append(thread)
            return True


class _PooledThread:
    """One thread.

    Libraries that limit the time of a call raise an error in its thread, and it may arrive after the call, at any point
    of this class. So what a thread does next follows from its attributes alone, and each step can be repeated.
    """

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool
        self._call: Callable[[], None] | None = None
        self._ended = False
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def has_call(self) -> bool:
        """Whether it has a call that it has not begun."""
        return self._call is not None

    def start(self, call: Callable[[], None], name: str) -> None:
        """Start the thread with its first call."""
        self._call, self._thread.name = call, name
        self._thread.start()

    def take(self, call: Callable[[], None], name: str) -> None:
        """Give the idle thread a call."""
        self._call, self._thread.name = call, name
        self._wakeups.put(None)

    def end(self) -> None:
        """End the idle thread."""
        self._ended = True
        self._wakeups.put(None)

    def _run(self) -> None:
        while True:
            try:  # around the loop: between two steps an error may arrive, too
                while self._go_on():
                    pass
                return
            except BaseException:  # noqa: BLE001, S112  user code: what a call raises is dropped
                continue

    def _go_on(self) -> bool:
        """Execute the next call, or wait for one; false: the thread ends."""
        if self._call is not None:
            call, self._call = self._call, None
            call()
            return True
        if self._ended:
            return False
        self._thread.name = _IDLE
        if not self._pool.keep(self):
            return False
        self._wakeups.get()
        return True
