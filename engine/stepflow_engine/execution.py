"""Replay: one pass of a function over its memos, suspended where it waits for steps.

Theory of operation. The function's code runs as an asyncio task. Where it asks for a step that has a memo, it is
given the memo; where there is none, it waits. `Execution.advance` lets the code run until it is quiet and says what
then holds:

============  ==========================================================================
`Returned`    the code came to its end
`Raised`      the code raised
`Waiting`     the code waits for steps that have no memo; somebody has to see to them
============  ==========================================================================

Memos have a position: the order in which they were recorded. When several steps are waited for at once, their memos
are delivered one at a time, in that order, and the code comes to rest between two of them. So a race has the winner
that it had the first time, and the nth repeat of an id is the same repeat. While the code has a single task and asks
for a step that has a memo, nothing else can race with it, and the memo is given at once: a replay of n sequential
steps does not turn the loop at all.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from stepflow_engine.errors import LimitError, StepUsageError
from stepflow_engine.ids import StepKeys
from stepflow_engine.limits import check_id
from stepflow_engine.memo import Memo
from stepflow_engine.run_loop import ACTIVITY, RunActivity
from stepflow_engine.steps import StepCall, StepRequest
from stepflow_engine.suspension import is_blocked_on_run

__all__ = ["HANDLER_ATTEMPT", "HANDLER_KEY", "Execution", "Outcome", "Raised", "Returned", "Waiting"]

HANDLER_ATTEMPT: contextvars.ContextVar[int | None] = contextvars.ContextVar("stepflow_handler_attempt", default=None)
"""The attempt number of the step whose handler runs in this context, if one does."""
HANDLER_KEY: contextvars.ContextVar[str] = contextvars.ContextVar("stepflow_handler_key", default="")
"""The idempotency key of that step; ``""``: no handler runs."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The code returned a value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """The code raised an error outside of any step, or did not catch a step's."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Waiting:
    """The code waits for steps.

    Attributes:
        fresh: steps that it asks for since the last outcome, in that order.
        blocked: it waits for steps and for nothing else: it cannot go on before one of them ends.
        alone: the one fresh step is all that it waits for, so nothing else can happen before that ends.
    """

    fresh: list[StepCall]
    blocked: bool
    alone: bool


Outcome = Returned | Raised | Waiting


class Execution:
    """One pass over a function. To be used from one event loop, a `RunTrackingMixin` one.

    Args:
        body: makes the coroutine of the code; it is given this execution.
        most_steps: how many steps a run may have.
        own_tasks: tasks that belong to the machinery and not to the code (one more for code in a thread).
    """

    def __init__(
        self,
        body: Callable[[Execution], Coroutine[Any, Any, Any]],
        *,
        most_steps: int = 10_000,
        own_tasks: int = 1,
    ) -> None:
        self.activity = RunActivity()
        self.context = contextvars.copy_context()
        self.context.run(ACTIVITY.set, self.activity)
        self.applied = 0
        self.closed = False
        self._body = body
        self._most_steps = most_steps
        self._own_tasks = own_tasks
        self._main: asyncio.Task[Any] | None = None
        self._end: Returned | Raised | None = None
        self._keys = StepKeys()
        self._asked: set[str] = set()
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self._past_memos = False
        self._memos: dict[str, tuple[int, Memo]] = {}
        self._early: dict[int, tuple[str, Memo]] = {}
        self._pending: dict[str, StepCall] = {}
        self._fresh: list[StepCall] = []
        self._deliverable: list[tuple[int, str]] = []
        self._asking: set[asyncio.Task[Any]] = set()
        self._rests = False

    # -- the code's side ---------------------------------------------------------

    async def ask(self, step_id: str, request: StepRequest) -> Memo:
        """Ask for a step and wait for its end. Called by step tools, inside the run's context.

        Raises:
            StepUsageError: a step is asked for inside a step's handler, or with an id that cannot be one.
            LimitError: the run would have more steps than are allowed.
        """
        key = self._next_key(step_id)
        known = self._memos.get(key)
        if known is not None and not self._pending and len(self.activity.tasks) <= self._own_tasks:
            del self._memos[key]
            return known[1]
        call = StepCall(key, step_id, request, asyncio.get_running_loop().create_future())
        self._pending[key] = call
        if known is None:
            self._past_memos = True
            self._fresh.append(call)
        else:
            heapq.heappush(self._deliverable, (known[0], key))
        task = _this_task()
        self._asking.add(task)
        try:
            return await call.future
        finally:
            self._asking.discard(task)
            self._pending.pop(key, None)

    def _next_key(self, step_id: str) -> str:
        if self.closed:
            raise asyncio.CancelledError
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError(
                f"step {step_id!r} is asked for inside another step's handler, where it could not be kept; "
                "ask for it in the function itself, before or after that step"
            )
        try:
            check_id(step_id, "a step's id")
        except ValueError as error:
            raise StepUsageError(str(error)) from None
        if len(self._asked) >= self._most_steps:
            raise LimitError(
                f"the run asked for more than {self._most_steps:,} steps; split the work over several runs "
                "with step.invoke, or do more in one step"
            )
        key = self._keys.next(step_id)
        self._asked.add(key)
        if (awaited := self._awaited.pop(key, None)) is not None and not awaited.done():
            awaited.set_result(None)
        return key

    # -- the worker's side -------------------------------------------------------

    def start(self) -> asyncio.Task[Any]:
        """Start the code. Memos are best added before."""
        loop = asyncio.get_running_loop()
        self._main = self.context.run(loop.create_task, self._body(self))
        return self._main

    def add(self, memos: Iterable[tuple[str, Memo]]) -> None:
        """Add the memos that follow those already applied, in the order in which they were recorded."""
        for key, memo in memos:
            self.offer(self.applied + 1, key, memo)

    def offer(self, position: int, key: str, memo: Memo) -> None:
        """Add the memo at a position (from 1). One that comes early is kept until those before it have come.

        One that the code waits for, at the position of another, says that the server has lost memos which this pass
        was given (a fail-over, a loss of power): the pass is closed.
        """
        if position <= self.applied:
            call = self._pending.get(key)
            if call is not None and not call.future.done() and key not in self._memos:
                self.close()
            return
        self._early[position] = (key, memo)
        while (following := self._early.pop(self.applied + 1, None)) is not None:
            self.applied += 1
            self._apply(*following)

    def _apply(self, key: str, memo: Memo) -> None:
        self._memos[key] = (self.applied, memo)
        if key in self._pending:
            heapq.heappush(self._deliverable, (self.applied, key))
            self.activity.call()

    @property
    def replaying(self) -> bool:
        """Whether the code still has memos before it: what it does now, it did before."""
        return bool(self._memos) and not self._past_memos

    @property
    def has_gap(self) -> bool:
        """Whether a memo has come whose predecessors have not."""
        return bool(self._early)

    async def advance(self) -> Outcome:
        """Let the code run until it has ended, asks for steps, or waits for steps and nothing else."""
        if self._end is not None:
            return self._end
        main = self._main or self.start()
        while True:
            if self.activity.touched or not self._rests:
                await self.activity.settled()
            self._rests = False
            if main.done():
                return self._ended(main)
            if self._deliver_next():
                continue
            fresh = [call for call in self._fresh if not call.future.done()]
            self._fresh = []
            blocked = bool(self._pending) and self._is_blocked()
            if fresh or blocked:
                self._rests = True
                return Waiting(fresh, blocked, alone=blocked and len(fresh) == len(self._pending) == 1)
            await self.activity.changed()

    def ask_again(self) -> None:
        """Count every step that the code waits for as fresh: for a new holder, who knows of none."""
        self._fresh = [call for call in self._pending.values() if call.key not in self._memos]

    def pending(self, key: str) -> StepCall | None:
        """The step with this key, if the code waits for it."""
        return self._pending.get(key)

    def was_asked(self, key: str) -> bool:
        """Whether the code has asked for the step with this key."""
        return key in self._asked

    async def asked(self, key: str) -> None:
        """Wait until the code asks for the step with this key."""
        if key not in self._asked:
            awaited = self._awaited.setdefault(key, asyncio.get_running_loop().create_future())
            await asyncio.shield(awaited)

    def pending_ids(self) -> list[str]:
        """The ids of the steps that the code waits for."""
        return [call.id for call in self._pending.values()]

    def close(self) -> None:
        """Give the pass up; what it has done is in the memos. Its tasks are cancelled."""
        self.closed = True
        if self._main is not None:
            self._main.add_done_callback(self._forget)
        for task in list(self.activity.tasks):
            task.cancel()

    def _forget(self, main: asyncio.Task[Any]) -> None:
        """Keep the end of a closed pass without its task, whose frames have this execution: no cycle is left."""
        self._end, self._main = self._ended(main), None

    def _deliver_next(self) -> bool:
        while self._deliverable:
            _, key = heapq.heappop(self._deliverable)
            _, memo = self._memos.pop(key)
            call = self._pending.get(key)
            if call is not None and not call.future.done():
                call.future.set_result(memo)
                return True
        return False

    def _is_blocked(self) -> bool:
        activity = self.activity
        if activity.threads or activity.has_timer():
            return False
        return all(is_blocked_on_run(task, activity.tasks) for task in activity.tasks - self._asking)

    @staticmethod
    def _ended(main: asyncio.Task[Any]) -> Returned | Raised:
        if main.cancelled():
            return Raised(asyncio.CancelledError("the function's own code was cancelled"))
        error = main.exception()
        return Returned(main.result()) if error is None else Raised(error)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise StepUsageError("a step must be awaited in a task")
    return task
