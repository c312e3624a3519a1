"""Undo: finds the handlers that undo the completed steps of a run, and makes the pass that calls them, latest first.

Theory of operation. Once it is stored that a run is undone, its code decides nothing any more. A `UndoCollector` runs
the code over its memos, and notes the undo handler of each completed step that it requests. It ends when the code waits
for a step without a memo, returns or raises. Then the pass of `undo_pass` requests a step for each of these handlers.
To a worker it is a pass like that of any function: each handler is a step with a memo, so a pass after a crash
continues with the handler that had not ended.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_engine.callables import is_async_callable
from stepflow_engine.codec import restore
from stepflow_engine.execution import Execution, Raised, Returned
from stepflow_engine.failure import Failure
from stepflow_engine.ids import undo_key
from stepflow_engine.limits import MAX_ID_BYTES
from stepflow_engine.memo import Memo
from stepflow_engine.retry_policy import Retry
from stepflow_engine.steps import RunRequest, StepRequest, stored_kind

__all__ = [
    "UNDO",
    "UndoCollector",
    "UndoFailure",
    "UndoStep",
    "collect",
    "has_undo",
    "undo_id",
    "undo_pass",
    "undo_steps",
]

UNDO = "undo"
"""The field of the memo of a step that was requested with an undo handler."""
_LONGEST_S = 60.0
"""How long code that waits for something outside may take to request the steps that must be undone."""


class UndoHandlerNotFoundError(Exception):
    """The code does not request a completed step any more, so its undo handler is unknown."""


@dataclass(frozen=True, slots=True)
class UndoFailure:
    """An undo handler that failed for good. ``step_id`` is the step that is not undone; ``""``: none is."""

    step_id: str
    failure: Failure

    def to_json(self) -> dict[str, Any]:
        """The JSON form, as events have it."""
        return {"id": self.step_id, "error": self.failure.to_json()}


@dataclass(frozen=True, slots=True)
class UndoStep:
    """A completed step to undo.

    Attributes:
        key, id, memo: the step.
        request: its request, which has the undo handler; ``None``: the code does not make it.
        why: why the code does not make it.
    """

    key: str
    id: str
    memo: Memo
    request: RunRequest | None
    why: str = ""

    def undo_request(self, retries: int) -> RunRequest:
        """The request of the step that undoes it.

        It has the timeout, the queue and the slots of the step. It has the retries of the function, or those of the
        step if these are more: a step that must not be repeated may be undone more than once.

        Args:
            retries: the number of retries of the function.
        """
        request = self.request
        if request is None or request.undo is None:
            return RunRequest(self._not_found, (), {})
        own = request.retries
        count = own.retries if isinstance(own, Retry) else own or 0
        handler = self._handler(request, request.undo)
        return RunRequest(
            handler,
            (),
            {},
            own if count > retries else None,
            request.timeout_ms,
            context=request.context,
            placement=request.placement,
        )

    def _not_found(self) -> None:
        raise UndoHandlerNotFoundError(
            f"step {self.id!r} has an undo handler, but the code does not request the step with undo= any more "
            f"({self.why}): bring it back, or undo the step by hand"
        )

    def _handler(self, request: RunRequest, undo: Callable[[Any], Any]) -> Callable[[], Any]:
        """Calls the undo handler with the result of the step. What it returns is not stored."""

        def result() -> Any:
            adapter, data = request.adapter, self.memo.data
            return data if adapter is None else restore(adapter, data, what=f"step {self.id!r}")

        async def wait() -> None:
            await undo(result())

        def call() -> Any:
            made = undo(result())
            return _ended(made) if inspect.isawaitable(made) else None

        return wait if is_async_callable(undo) else call


async def _ended(made: Awaitable[Any]) -> None:
    await made


class UndoCollector(Execution):
    """A pass over the code of a run that notes the requests of steps with an undo handler.

    Attributes:
        requests: these requests, by the keys of the steps.
    """

    requests: dict[str, RunRequest]
    _requested_now: StepRequest | None = None

    async def request(self, step_id: str, request: StepRequest, key: str | None = None) -> Memo:
        """Note the request, and give the memo of the step; see `Execution.request`."""
        self._requested_now = request
        return await super().request(step_id, request, key)

    def _next_key(self, step_id: str, key: str | None) -> str:
        key, request = super()._next_key(step_id, key), self._requested_now
        if isinstance(request, RunRequest) and request.undo is not None:
            self.requests[key] = request
        return key


async def collect(collector: UndoCollector, wanted: frozenset[str]) -> str:
    """Run the code over its memos, and close the pass. Returns what ended it, for an error.

    Args:
        collector: has all memos of the run.
        wanted: the keys of the steps whose memos say that they have an undo handler.
    """
    collector.requests = {}
    collector.is_driven = False  # its log lines are not new
    try:
        async with asyncio.timeout(_LONGEST_S):
            while True:
                outcome = await collector.advance()
                if isinstance(outcome, Returned):
                    return "it returns before"
                if isinstance(outcome, Raised):
                    failure = Failure.of(outcome.error)
                    return f"it raises {failure.name} before: {failure.message[:200]}"
                if outcome.blocked or wanted <= collector.requests.keys():
                    return "it requests other steps"
    except TimeoutError:
        return f"it waits for something else for over {_LONGEST_S:.0f} s"
    finally:
        collector.close()


def undo_steps(memos: Iterable[tuple[str, Memo]], requests: dict[str, RunRequest], why: str) -> list[UndoStep]:
    """The completed steps to undo, in the order in which to undo them: the latest first.

    Args:
        memos: all memos of the run by key, in their order.
        requests: see `UndoCollector.requests`.
        why: see `collect`.
    """
    completed = [
        UndoStep(key, memo.id, memo, requests.get(key), "" if key in requests else why)
        for key, memo in memos
        if has_undo(memo) or (key in requests and memo.failure is None and stored_kind(memo.detail) == RunRequest.kind)
    ]
    return completed[::-1]


def has_undo(memo: Memo) -> bool:
    """Whether the step has completed, and was requested with an undo handler."""
    return memo.failure is None and UNDO in memo.detail


def undo_id(step_id: str) -> str:
    """The id of the step that undoes a step."""
    return f"undo {step_id}".encode()[:MAX_ID_BYTES].decode(errors="ignore")


def undo_pass(steps: Sequence[UndoStep], *, retries: int) -> Execution:
    """A pass that requests the undo handlers one after the other. It returns a list of `UndoFailure`.

    Args:
        steps: what to undo, in order.
        retries: the number of retries of the function.
    """

    async def body(execution: Execution) -> list[UndoFailure]:
        failures = []
        for step in steps:
            memo = await execution.request(undo_id(step.id), step.undo_request(retries))
            if memo.failure is not None:
                failures.append(UndoFailure(step.id, memo.failure))
        return failures

    return Execution(body, max_steps=len(steps), keys=_UndoKeys(undo_key(step.key) for step in steps))


class _UndoKeys:
    """The keys of the undo handlers, in the order in which the pass requests them."""

    def __init__(self, keys: Iterator[str]) -> None:
        self._keys = keys

    def next(self, _step_id: str, /) -> str:
        return next(self._keys)
