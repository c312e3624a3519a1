"""Replayer: runs the code of a function over the history of a run, up to where it needs something new.

It executes no handler, stores nothing and reaches nothing outside; see `stepflow.replay.guard`. The code runs in an
event loop like that of a worker, in a thread of its own. Code that does not come back keeps its thread, which is a
daemon, and the next replay gets another one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from stepflow.functions.function import Function, check_input
from stepflow.replay.call_site import ORIGIN_DEPTH, CallSite, raise_site, stack_site
from stepflow.replay.guard import OutsideCall, guarded
from stepflow.replay.history import PlannedStep, RunHistory
from stepflow.replay.recording import Recorded, RecordingExecution
from stepflow.replay.replayed import Replayed, ReplayOutcome, RequestedStep
from stepflow_engine.codec import dumps_output, round_trip
from stepflow_engine.declared_types import check_value
from stepflow_engine.encryption_scopes import read_event
from stepflow_engine.error_group import failed_step
from stepflow_engine.execution import Raised, Returned, Waiting
from stepflow_engine.failure import Failure
from stepflow_engine.ids import child_key, is_item_key, split_item_key, undo_key
from stepflow_engine.memo import Memo
from stepflow_engine.rounds import ContinueAsNew
from stepflow_engine.run_loop import RunLoop
from stepflow_engine.steps import MapRequest, stored_kind
from stepflow_engine.thread_pool import ThreadPool
from stepflow_engine.undo import has_undo

__all__ = ["Replayer", "replay"]

_UNWIND_S = 0.2
_MAX_ERROR = 500


class Replayer:
    """Replays runs one after the other. Use it as a context manager.

    Args:
        timeout_s: the longest time of a replay, in seconds.

    Example::

        with Replayer() as replayer:
            replayed = replayer.replay(function, history)
    """

    def __init__(self, *, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._loop: _LoopThread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._loop is not None:
            self._loop.stop()
            self._loop = None

    def replay(self, function: Function[Any, Any], history: RunHistory) -> Replayed:
        """Replay a run with the code of a function. It raises nothing that the code does."""
        if self._loop is None:
            self._loop = _LoopThread()
        try:
            return self._loop.run(replay(function, history, timeout_s=self._timeout_s), self._timeout_s + _UNWIND_S)
        except TimeoutError:  # the code keeps the loop busy
            site, self._loop = self._loop.site(), None
            return Replayed(ReplayOutcome.STUCK, error_site=site)


async def replay(
    function: Function[Any, Any],
    history: RunHistory,
    *,
    timeout_s: float | None = 5.0,
    kind: type[RecordingExecution] = RecordingExecution,
) -> Replayed:
    """Replay a run in the running event loop, which is a `RunLoop`; see `Replayer`.

    Args:
        timeout_s: the longest time, in seconds; ``None``: any.
        kind: the class of the pass.
    """
    context = contextvars.copy_context()
    calls = context.run(guarded)
    if (refused := context.run(_refusal, function, history)) is not None:
        return refused
    execution = context.run(
        function.execution,
        history.events,
        run_id=history.run_id,
        attempt=history.attempt,
        threads=ThreadPool(),
        started_ms=history.started_ms,
        round=history.round,
        kind=kind,
    )
    execution.patches.load(history.patches, frozenset(step.key for step in history.planned))
    execution.add(history.memos)
    try:
        return await _replayed(function, history, execution, calls, timeout_s)
    finally:
        execution.close()
        if tasks := list(execution.activity.tasks):
            await asyncio.wait(tasks, timeout=_UNWIND_S)


def _refusal(function: Function[Any, Any], history: RunHistory) -> Replayed | None:
    """The end of a replay whose event the function does not accept; ``None``: it accepts it."""
    try:
        for text in history.events:
            check_input(function, read_event(text)["data"])
    except BaseException as error:  # noqa: BLE001  user code: a validator
        return Replayed(ReplayOutcome.REFUSED, error=_text(error), error_site=raise_site(error))
    return None


async def _replayed(
    function: Function[Any, Any],
    history: RunHistory,
    execution: RecordingExecution,
    calls: Sequence[OutsideCall],
    timeout_s: float | None,
) -> Replayed:
    outcome, waits_outside = ReplayOutcome.STUCK, False
    error: BaseException | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while True:
                match await execution.advance():
                    case Waiting(blocked=blocked):
                        outcome, waits_outside = ReplayOutcome.WAITING, not blocked
                        if blocked or not (_left(history, execution) or _dropped(history, execution)):
                            waits_outside = False
                            break
                    case Raised(raised):
                        outcome, waits_outside, error = ReplayOutcome.RAISED, False, raised
                        break
                    case Returned(ContinueAsNew()):
                        outcome, waits_outside = ReplayOutcome.CONTINUED, False
                        break
                    case Returned(value):
                        error = _output_error(function, value)
                        outcome = ReplayOutcome.RAISED if error is not None else ReplayOutcome.RETURNED
                        waits_outside = False
                        break
    return Replayed(
        outcome,
        tuple(_requested(history, execution)),
        tuple(_left(history, execution)),
        tuple(step.id for step in _dropped(history, execution)),
        _text(error) if error is not None else "",
        raise_site(error) if error is not None else None,
        failed_step(error) if error is not None else "",
        tuple(calls),
        waits_outside,
    )


def _output_error(function: Function[Any, Any], value: Any) -> BaseException | None:
    """Why a run cannot end with this value."""
    what = f"function {function.name!r}"
    try:
        text = dumps_output(value, what=what, limit_bytes=function.limits.step_output_bytes)
        if function.output is not None:
            check_value(function.output, value, round_trip(value, text), what=what)
    except BaseException as error:  # noqa: BLE001  user code: a validator
        return error
    return None


def _text(error: BaseException) -> str:
    failure = Failure.of(error)
    return f"{failure.name}: {failure.message[:_MAX_ERROR]}"


def _requested(history: RunHistory, execution: RecordingExecution) -> list[RequestedStep]:
    memos = dict(history.memos)
    planned = {step.key: step for step in history.planned}
    return [_step(key, one, memos, planned) for key, one in execution.recorded.items()]


def _step(key: str, one: Recorded, memos: Mapping[str, Memo], planned: Mapping[str, PlannedStep]) -> RequestedStep:
    memo, plan = memos.get(key), planned.get(key)
    kind, recorded = str(one.request.kind), ""
    if memo is not None:
        is_failed_job = one.memo is not None  # that of a map, which the execution accepts
        recorded = kind if is_failed_job else stored_kind(memo.detail)
    elif plan is not None:
        recorded = plan.kind
    digest = plan.digest if plan is not None and isinstance(one.request, MapRequest) else ""
    return RequestedStep(
        key,
        one.id,
        kind,
        one.site,
        is_new=memo is None and plan is None,
        received=memo is not None,
        recorded=recorded,
        other_items=bool(digest) and isinstance(one.request, MapRequest) and one.request.items.digest != digest,
        misfit=one.misfit,
        lacks_undo=one.memo is not None and has_undo(one.memo) and getattr(one.request, "undo", None) is None,
    )


def _started_ends(execution: RecordingExecution) -> set[str]:
    """The keys of the ends of children of which the code has a handle. It may ask for them later."""
    return {child_key(key) for key, one in execution.recorded.items() if one.memo is not None}


def _left(history: RunHistory, execution: RecordingExecution) -> list[str]:
    """The ids of steps that have a result for which the code has not asked."""
    aside = _started_ends(execution) | {undo_key(key) for key, _ in history.memos}
    return [
        memo.id
        for key, memo in history.memos
        if not (execution.was_requested(key) or key in aside or _is_item(key, execution))
    ]


def _dropped(history: RunHistory, execution: RecordingExecution) -> list[PlannedStep]:
    """The planned steps for which the code has not asked."""
    ends = _started_ends(execution)
    return [
        step
        for step in history.planned
        if not (execution.was_requested(step.key) or step.key in ends or is_item_key(step.key))
    ]


def _is_item(key: str, execution: RecordingExecution) -> bool:
    return is_item_key(key) and execution.was_requested(split_item_key(key)[0])


class _ReplayLoop(RunLoop):
    """A loop whose executors are guarded too."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run a function in an executor, in the context of the caller."""
        return super().run_in_executor(executor, contextvars.copy_context().run, func, *args)


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = _ReplayLoop()
        self._loop.set_exception_handler(lambda *_: None)  # errors of tasks that the code has not awaited
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sys.set_coroutine_origin_tracking_depth(ORIGIN_DEPTH)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def run(self, code: Coroutine[Any, Any, Replayed], timeout_s: float) -> Replayed:
        """Run a replay.

        Raises:
            TimeoutError: the loop has not answered in time.
        """
        future: concurrent.futures.Future[Replayed] = asyncio.run_coroutine_threadsafe(code, self._loop)
        return future.result(timeout_s)

    def site(self) -> CallSite | None:
        """Where the thread is in the code of a user."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return stack_site(frame) if frame is not None else None

    def stop(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_UNWIND_S)
