"""Whether a task waits for its own run only: for a step, or for another task of the run.

If all tasks of a run do, the run makes no progress before a step ends, so a worker can drop it from memory. A task that
waits for a socket or a timer is different: it continues without a step. asyncio does not report the difference, so this
module checks on what the task is suspended.

This check knows the waits of asyncio itself. A task may also wait for a bare future, as in anyio and in code of users.
Then it counts what the run has opened outside: see `RunActivity.is_open`. If there is nothing, only the run can set the
future. The future may also be set from outside in a way that is not counted, such as over a connection that another run
has opened. The run is parked then, and `RunActivity.on_touch` queues it when its code continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import Any

__all__ = ["WAITS_INSIDE", "is_blocked_on_run"]

WAITS_INSIDE = frozenset(
    {"asyncio.tasks", "asyncio.taskgroups", "asyncio.locks", "asyncio.queues", "stepflow_engine.threads"}
)
"""Modules whose coroutines wait for other tasks of the run only. Timers are checked separately."""


def is_blocked_on_run(task: asyncio.Task[Any], tasks: Set[asyncio.Task[Any]]) -> bool:
    """Whether ``task`` is suspended on one of ``tasks``, on a gather, or in asyncio's own synchronisation."""
    waits_for = getattr(task, "_fut_waiter", None)
    if waits_for is None:
        return False
    if isinstance(waits_for, asyncio.Task):
        return waits_for in tasks
    if hasattr(waits_for, "_children"):  # asyncio.gather's future
        return True
    coroutine: Any = task.get_coro()
    while hasattr(inner := getattr(coroutine, "cr_await", None), "cr_frame"):
        coroutine = inner
    frame = getattr(coroutine, "cr_frame", None)
    return frame is not None and frame.f_globals.get("__name__") in WAITS_INSIDE
