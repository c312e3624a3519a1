"""Replay: one pass of a function over its memos, suspended where it waits for steps.

Theory of operation. The code of the function runs as an asyncio task. When it requests a step that has a memo, it
receives the memo. When the step has no memo, the code waits. `Execution.advance` lets the code run until it is quiet
and returns one of these outcomes:

============  ==========================================================================
`Returned`    the code has returned
`Raised`      the code has raised
`Waiting`     the code waits for steps that have no memo; the worker executes or starts them
============  ==========================================================================

Memos have a position: the order in which they were stored. When the code waits for several steps at once, their memos
are delivered one at a time, in that order, and the code becomes quiet between two of them. So on every replay a race
has the same winner, and the nth repeat of an id is the same repeat. While the code has a single task and requests a
step that has a memo, nothing can race with it, and the memo is returned at once: a replay of n sequential steps takes
no turn of the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from stepflow_engine.call_site import site_of_running_call
from stepflow_engine.errors import LimitError, StepflowError, StepKindError, StepUsageError
from stepflow_engine.ids import StepKeys
from stepflow_engine.limits import check_id
from stepflow_engine.memo import Memo, unread_events
from stepflow_engine.patches import Patches
from stepflow_engine.run_loop import ACTIVITY, RunActivity
from stepflow_engine.steps import ParentClose, StepCall, StepKind, StepRequest, stored_kind
from stepflow_engine.suspension import is_blocked_on_run
from stepflow_engine.user_code import original, shielded
from stepflow_engine.value_class import value_class

__all__ = ["HANDLER_ATTEMPT", "Execution", "KeySource", "Outcome", "Raised", "Returned", "Waiting"]

HANDLER_ATTEMPT: contextvars.ContextVar[int | None] = contextvars.ContextVar("handler_attempt", default=None)
"""The attempt number of the step whose handler runs in this context; ``None``: no handler runs."""

_MAX_REFUSAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Returned:
    """The code returned a value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """The code raised an error outside of its steps, or did not catch the error of a step."""

    error: BaseException


@value_class
class Waiting:
    """The code waits for steps.

    Attributes:
        fresh: the steps that it has requested since the last outcome, in the order of the requests.
        blocked: it waits for steps, and for nothing outside that the run has opened. So the run can be parked.
        alone: it waits for the one fresh step only, so nothing else can happen before that step ends.
    """

    fresh: list[StepCall]
    blocked: bool
    alone: bool


Outcome = Returned | Raised | Waiting


class KeySource(Protocol):
    """Gives the keys of the steps of a pass."""

    def next(self, step_id: str, /) -> str:
        """The key of the next step with this id."""
        ...


def _is_failed_job(memo: Memo, request: StepRequest) -> bool:
    """Whether a memo is of the job that collects the results of a map, which no worker could execute."""
    return request.kind == StepKind.MAP and memo.failure is not None and "kind" not in memo.detail


class Execution:
    """One pass over the code of a function. Use it in one event loop, which has the `RunTrackingMixin`.

    Args:
        body: makes the coroutine of the code; its argument is this execution.
        max_steps: the largest number of steps of a run.
        own_tasks: the number of tasks of the engine itself; code in a thread needs one more.
        started_ms: the start of the run, in milliseconds since the epoch.
        keys: gives the keys of the steps; ``None``: they follow from the ids.

    Attributes:
        activity: the tasks, timers and threads of the code.
        applied: the number of memos that the pass has received in order.
        closed: whether the pass was closed; see `close`.
        has_other_kind: whether the code has requested a step whose memo is that of a step of another kind, or lacks the
            old way of a patch: it is of another version than the code that stored the memos.
        other_kind: of the last such step: its id, the stored kind, the requested one, and where the code requests it.
        depends_on_attempt: whether a retry of the code has read which attempt it is, so it may request other steps.
        threads: the threads in which plain ``def`` code runs, by their identifiers.
        tags: the tags that the code has given to the run, by name.
        values: what the code has set with ``ctx.set``: JSON text by key.
        has_undo: whether the code has requested a step with an undo handler.
        patches: what the run has decided at the patches of its code.
        has_continued: whether the code has called for the next round of the run.
        children: of the children of which the code has a handle, and whose end it has not received: the key of the end
            → what becomes of the child when the run ends.
        is_driven: whether this pass decides how the run continues. A worker that replays the code only to find a
            planned step sets it to false.
        cancelled: the keys of steps that the code has requested and cancelled. The worker removes those that it has
            handled. Steps that end with the pass are not among them: the next pass requests them again.
    """

    def __init__(
        self,
        body: Callable[[Execution], Coroutine[Any, Any, Any]],
        *,
        max_steps: int = 10_000,
        own_tasks: int = 1,
        started_ms: int = 0,
        keys: KeySource | None = None,
    ) -> None:
        self.activity = RunActivity()
        self.context = contextvars.copy_context()
        self.context.run(ACTIVITY.set, self.activity)
        self.applied = 0
        self.closed = False
        self.is_driven = True
        self.has_other_kind = False
        self.other_kind: tuple[str, str, str, str] | None = None
        self.depends_on_attempt = False
        self.threads: Collection[int] = ()
        self.cancelled: list[str] = []
        self._cancelled: dict[str, tuple[int, Memo] | None] = {}
        self._waits: list[Memo] = []
        self.tags: dict[str, str] = {}
        self.values: dict[str, bytes] = {}
        self.has_undo = False
        self.patches = Patches()
        self.has_continued = False
        self.children: dict[str, ParentClose] = {}
        self._body = body
        self._max_steps = max_steps
        self._own_tasks = own_tasks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._main: asyncio.Task[Any] | None = None
        self._end: Returned | Raised | None = None
        self._keys = StepKeys() if keys is None else keys
        self._received = 0
        self._compared = 0
        self._newest: Memo | None = None
        self._now_ms = started_ms
        self._requested: set[str] = set()
        self._request_waiters: dict[str, asyncio.Future[None]] = {}
        self._past_memos = False
        self._memos: dict[str, tuple[int, Memo]] = {}
        self._early: dict[int, tuple[str, Memo]] = {}
        self._pending: dict[str, StepCall] = {}
        self._fresh: list[StepCall] = []
        self._deliverable: list[tuple[int, str]] = []
        self._requesters: set[asyncio.Task[Any]] = set()
        self._is_quiet = False
        self._late_requests = 0

    # -- called by the code ------------------------------------------------------

    async def request(self, step_id: str, request: StepRequest, key: str | None = None) -> Memo:
        """Request a step and wait for its end. The step tools call it, inside the context of the run.

        Args:
            key: the key of the step; ``None``: it follows from the id.

        Raises:
            StepUsageError: the call is inside the handler of a step, in another thread, or outside of the context of
                the run, or the id is invalid.
            StepKindError: the run has a step of another kind with this id.
            LimitError: the run would have more than ``max_steps`` steps.
        """
        if self.closed:
            await self._refuse_late()
        key = self._next_key(step_id, key)
        task = asyncio.current_task(self._loop)  # to ask for the running loop is a system call before Python 3.12
        if task is None:
            raise StepUsageError("a step must be awaited in an asyncio task")
        self.activity.track(task)  # an eager task is not recorded before
        known = self._memos.get(key)
        if known is not None and not self._pending and len(self.activity.tasks) <= self._own_tasks:
            del self._memos[key]
            self._received, self._newest = max(self._received, known[0]), known[1]
            return self._of_kind(step_id, request, known[1])
        call = StepCall(key, step_id, request, task.get_loop().create_future(), self._received)
        self._pending[key] = call
        if known is None:
            self._past_memos = True
            self._fresh.append(call)
        else:
            heapq.heappush(self._deliverable, (known[0], key))
        self._requesters.add(task)
        try:
            return self._of_kind(step_id, request, await call.future)
        finally:
            self._requesters.discard(task)
            self._pending.pop(key, None)
            if not self.closed and (call.future.cancelled() or not call.future.done()):
                self.cancelled.append(key)
                self._cancelled.setdefault(key)

    def now_ms(self) -> int:
        """The time at which the last step ended whose memo the code has received, in milliseconds since the epoch.

        Before the first step it is the start of the run. It is the same on every replay, and never goes back.
        """
        ended_at = None if self._newest is None else self._newest.detail.get("ended_at")
        if isinstance(ended_at, int):
            self._now_ms = max(self._now_ms, ended_at)
        return self._now_ms

    def patched(self, patch_id: str) -> bool:
        """Whether the run takes the new way at a patch; see `stepflow_engine.patches`.

        Raises:
            StepUsageError: the call is in another thread.
            LimitError: the run has too many patches.
            asyncio.CancelledError: the pass does not know it, and is closed.
        """
        if threading.get_ident() != self._thread:
            raise StepUsageError(f"patch {patch_id!r} was asked for in another thread: ask in the function itself")
        patches = self.patches
        if (known := patches.decisions.get(patch_id)) is not None:
            return known.patched
        if not self.closed and patches.is_current and not self.is_driven:
            patches.is_provisional = True
            return False
        if not self.closed and patches.planned is not None and self.is_driven:
            return patches.decide(patch_id, patched=not self._was_passed(patches.planned), after=self._received)
        if not self.closed:
            patches.was_refused = True
            self.close()
        raise asyncio.CancelledError

    def _was_passed(self, planned: frozenset[str]) -> bool:
        """Whether an earlier pass has gone on beyond the point where the code is now."""
        later = (key for key, (position, _) in self._memos.items() if position > self._received)
        early = (key for key, _ in self._early.values())
        return any(key not in self._requested for key in itertools.chain(later, early, planned))

    def refusal_delay_s(self) -> float:
        """How long a request of a closed pass waits before it is cancelled, in seconds.

        The first is cancelled at once. Code that catches this and requests again must not keep the loop or a thread
        busy, so each further request waits longer.
        """
        self._late_requests += 1
        return 0.0 if self._late_requests == 1 else min(0.01 * 2.0 ** min(self._late_requests, 20), _MAX_REFUSAL_S)

    async def _refuse_late(self) -> None:
        if HANDLER_ATTEMPT.get() is not None:  # an undo handler, which runs after the pass that has requested it
            raise StepUsageError("a step must not be inside the handler of another step")
        delay_s = self.refusal_delay_s()
        if delay_s:
            loop = asyncio.get_running_loop()
            over = loop.create_future()
            contextvars.Context().run(lambda: loop.call_later(delay_s, over.cancel))  # not a timer of the run
            await over
        raise asyncio.CancelledError

    def _of_kind(self, step_id: str, request: StepRequest, memo: Memo) -> Memo:
        """The memo, if it is that of a step of the requested kind."""
        stored = stored_kind(memo.detail)
        if stored != request.kind and not _is_failed_job(memo, request):
            self.has_other_kind = True
            self.other_kind = (step_id, stored, request.kind, site_of_running_call(step_id, self.threads))
            raise StepKindError(step_id, stored=stored, requested=request.kind)
        if stored == StepKind.WAIT:
            self._waits.append(memo)
        return memo

    def _next_key(self, step_id: str, key: str | None) -> str:
        if HANDLER_ATTEMPT.get() is not None:
            raise StepUsageError(
                f"step {step_id!r} must not be inside the handler of another step: "
                "call it in the function itself, before or after that step"
            )
        if threading.get_ident() != self._thread:
            raise StepUsageError(
                f"step {step_id!r} was awaited in the event loop of another thread: "
                "await it in the function itself, and use other loops in the handlers of steps"
            )
        if ACTIVITY.get() is not self.activity:
            raise StepUsageError(
                f"step {step_id!r} was called outside of the context of its run: "
                "pass context=contextvars.copy_context() to create_task, and use asyncio.to_thread, which keeps the "
                "context, instead of run_in_executor"
            )
        try:
            check_id(step_id, "step id")
        except ValueError as error:
            raise StepUsageError(str(error)) from None
        if len(self._requested) >= self._max_steps:
            raise LimitError(
                f"a run must have at most {self._max_steps:,} steps: split the work over several runs with "
                "step.invoke, or do more in one step"
            )
        if key is None:
            key = self._keys.next(step_id)
        self._requested.add(key)
        if (waiter := self._request_waiters.pop(key, None)) is not None and not waiter.done():
            waiter.set_result(None)
        return key

    # -- called by the worker ----------------------------------------------------

    def start(self) -> asyncio.Task[Any]:
        """Start the code. Add the known memos before."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._main = self.context.run(self._loop.create_task, shielded(lambda: self._body(self)))
        return self._main

    def add(self, memos: Iterable[tuple[str, Memo]]) -> None:
        """Add the memos that follow those already applied, in the order in which they were stored."""
        for key, memo in memos:
            self.offer(self.applied + 1, key, memo)

    def offer(self, position: int, key: str, memo: Memo) -> bool:
        """Add the memo at a position (from 1); false if the position has one already.

        An early memo is retained until the memos before it are added.

        If the code waits for the memo but its position is already taken, the server has lost memos that this pass has
        received (a failover, a loss of power). The pass is closed then.
        """
        if position <= self.applied:
            if self.lacks(key):
                self.close()
            return False
        if position == self.applied + 1 and not self._early:
            self.applied = position
            self._apply(key, memo)
            return True
        is_new = position not in self._early
        self._early[position] = (key, memo)
        while (following := self._early.pop(self.applied + 1, None)) is not None:
            self.applied += 1
            self._apply(*following)
        return is_new

    def _apply(self, key: str, memo: Memo) -> None:
        self._memos[key] = (self.applied, memo)
        if key in self._pending:
            heapq.heappush(self._deliverable, (self.applied, key))
            self.activity.notify()

    @property
    def replaying(self) -> bool:
        """Whether the code has memos left to read: it repeats what an earlier pass has done."""
        return bool(self._memos) and not self._past_memos

    @property
    def may_log(self) -> bool:
        """Whether the code does something for the first time, so that its log lines are new.

        Not during a replay, not in a pass that only looks for a planned step, and not while a closed pass is unwound.
        """
        return self.is_driven and not self.closed and not self.replaying

    @property
    def has_gap(self) -> bool:
        """Whether a memo was added before the memos that precede it."""
        return bool(self._early)

    async def advance(self) -> Outcome:
        """Let the code run until it ends, requests steps, or waits for steps and for nothing else."""
        if self._end is not None:
            return self._end
        main = self._main or self.start()
        while True:
            if self.activity.touched or not self._is_quiet:
                await self.activity.settled()
            self._is_quiet = False
            if main.done():
                return self._ended(main)
            if self._deliver_next():
                continue
            fresh = [call for call in self._fresh if not call.future.done()]
            self._fresh = []
            for_steps_only = bool(self._pending) and self._waits_for_steps_only()
            blocked = for_steps_only or (bool(self._pending) and self._has_nothing_outside())
            if fresh or blocked:
                self._is_quiet = True
                return Waiting(fresh, blocked, alone=for_steps_only and len(fresh) == len(self._pending) == 1)
            await self.activity.changed()

    def request_again(self) -> None:
        """Report every step that the code waits for as fresh again, for a new holder of the run, which knows none."""
        self._fresh = [call for call in self._pending.values() if call.key not in self._memos]

    def pending(self, key: str) -> StepCall | None:
        """The step with this key, if the code waits for it."""
        return self._pending.get(key)

    def lacks(self, key: str) -> bool:
        """Whether the code waits for the step with this key, and no memo of the step was added."""
        call = self._pending.get(key)
        return call is not None and not call.future.done() and key not in self._memos

    def refuse(self, key: str, error: StepflowError) -> None:
        """Raise an error at the call of a step, if the code waits for it."""
        call = self._pending.get(key)
        if call is not None and not call.future.done():
            call.future.set_exception(error)

    def was_requested(self, key: str) -> bool:
        """Whether the code has requested the step with this key."""
        return key in self._requested

    def has_cancelled(self, key: str) -> bool:
        """Whether the code has requested the step with this key, and no longer waits for it, without its memo."""
        return not self.closed and key in self._requested and key not in self._pending and key not in self._memos

    def unread_events(self) -> list[tuple[str, int]]:
        """The ids of events that have ended waits which the code had cancelled, and the positions of these memos.

        Without those that the code has received by other waits.
        """
        ended = [stored or self._memos.get(key) for key, stored in self._cancelled.items()]
        return unread_events([one for one in ended if one is not None], self._waits)

    # -- compared with the history: see `stepflow_engine.mismatch`

    @property
    def may_differ(self) -> bool:
        """Whether there are memos that the code has not received, and that were not compared with it yet."""
        return self.has_other_kind or (bool(self._memos) and self.applied > self._compared)

    @property
    def has_left_steps(self) -> bool:
        """Whether the code waits for steps or children that it has requested, or has given them up."""
        return bool(self._pending or self._cancelled or self.children)

    def trust(self, applied: int) -> None:
        """Do not compare the first memos of the run with the code."""
        self._compared = applied

    def expects(self, key: str) -> bool:
        """Whether the code has requested the step with this key, or it is the end of a child that it has started."""
        return key in self._requested or key in self.children or key in self._cancelled

    def unrequested_memos(self) -> list[tuple[str, Memo]]:
        """Key and memo of the steps that the code has not requested, among the memos that were not compared before."""
        unrequested = []
        for key, (position, memo) in reversed(self._memos.items()):  # in the order of their positions
            if position <= self._compared:
                break
            if not self.expects(key):
                unrequested.append((key, memo))
        self._compared = self.applied
        return unrequested[::-1]

    def open_calls(self) -> list[StepCall]:
        """The steps that the code waits for."""
        return list(self._pending.values())

    def end_with(self, error: StepflowError) -> Raised:
        """Let the pass end with an error, whatever its code does."""
        self._end = Raised(error)
        return self._end

    async def requested(self, key: str) -> None:
        """Wait until the code requests the step with this key."""
        if key not in self._requested:
            waiter = self._request_waiters.setdefault(key, asyncio.get_running_loop().create_future())
            await asyncio.shield(waiter)

    def open_children(self, parent_close: ParentClose) -> list[str]:
        """The keys of the ends of children that have not ended, and that the run treats so when it ends."""
        return [key for key, one in self.children.items() if one is parent_close and key not in self._memos]

    def cancel_child(self, key: str) -> None:
        """Cancel a child, by the key of its end, when the code next waits for a step or the run ends."""
        self.children.pop(key, None)
        self._cancelled.setdefault(key)
        self.cancelled.append(key)

    def pending_ids(self) -> list[str]:
        """The ids of the steps that the code waits for."""
        return [call.id for call in self._pending.values()]

    def close(self) -> None:
        """Close the pass and cancel its tasks. The memos have what it has done."""
        self.closed = True
        if self._main is not None:
            self._main.add_done_callback(self._forget)
        for task in list(self.activity.tasks):
            task.cancel()

    def _forget(self, main: asyncio.Task[Any]) -> None:
        """Keep the end of a closed pass without its task: the frames of the task refer to this execution, a cycle."""
        self._end, self._main = self._ended(main), None

    def _deliver_next(self) -> bool:
        while self._deliverable:
            _, key = heapq.heappop(self._deliverable)
            position, memo = self._memos.pop(key)
            call = self._pending.get(key)
            if call is not None and not call.future.done():
                self._received, self._newest = max(self._received, position), memo
                call.future.set_result(memo)
                return True
            self._cancelled[key] = (position, memo)
        return False

    def _waits_for_steps_only(self) -> bool:
        """Whether each task waits for a step, or in asyncio itself for another task of the run."""
        activity = self.activity
        if activity.threads or activity.operations or activity.has_timer():
            return False
        if self._requesters.issuperset(activity.tasks):
            return True
        return all(is_blocked_on_run(task, activity.tasks) for task in activity.tasks - self._requesters)

    def _has_nothing_outside(self) -> bool:
        """Whether the run has opened nothing outside that could continue its code."""
        activity = self.activity
        return not (activity.threads or activity.is_open() or activity.has_timer())

    @staticmethod
    def _ended(main: asyncio.Task[Any]) -> Returned | Raised:
        if main.cancelled():
            return Raised(asyncio.CancelledError("the function was cancelled by its own code"))
        error = main.exception()
        return Returned(main.result()) if error is None else Raised(original(error))
