"""The step tools of ``async def`` functions: ``ctx.step``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, overload

from stepflow_engine.codec import restore, result_adapter
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import StepError, StepUsageError
from stepflow_engine.execution import Execution
from stepflow_engine.limits import check_retries
from stepflow_engine.steps import RunRequest

__all__ = ["StepTools"]

P = ParamSpec("P")
R = TypeVar("R")


class StepTools:
    """What a function can have done durably. Each call is a step: executed, memoised and retried alone."""

    def __init__(self, execution: Execution, *, retries: int | None = None, timeout_ms: int | None = None) -> None:
        self._execution = execution
        self._retries = retries
        self._timeout_ms = timeout_ms

    @overload
    async def run(self, id: str, handler: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, id: str, handler: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, id: str, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``handler(*args, **kwargs)`` as a step and return its result.

        The result goes through JSON: what comes back is the same on the first pass and on every replay. With a
        return annotation (a pydantic model, dataclass, TypedDict, datetime, UUID …) it has that type. A handler that
        is not ``async def`` runs in a thread. A step that was executing when its worker died is executed again; one
        whose result was stored never is.

        Args:
            id: names the step in the run; the memo is found by it. The nth repeat of an id is a step of its own.
            handler: what to call.

        Raises:
            StepError: the handler failed for good, with the name, message, traceback and cause of its error.
            StepUsageError: the call cannot work: no callable, or a step inside another step's handler.

        Source: SEMANTICS §2, reference/step-run.
        """
        if not callable(handler):
            raise StepUsageError(
                f"the handler of step {id!r} must be callable, not {type(handler).__name__}: "
                "pass the function itself, and its arguments after it"
            )
        memo = await self._execution.ask(id, RunRequest(handler, args, kwargs, self._retries, self._timeout_ms))
        if memo.failure is not None:
            raise StepError(id, memo.failure)
        return restore(result_adapter(handler), memo.data, what=f"step {id!r}")

    def with_options(self, *, retries: int | None = None, timeout: Duration | None = None) -> StepTools:
        """The same tools with a policy for the next call.

        Args:
            retries: attempts after the first, 0 to 20; ``None`` keeps the function's.
            timeout: the longest that one attempt may take; an attempt that takes longer has failed, with
                ``TimeoutError``.

        Raises:
            ValueError: a value is out of range.
        """
        return StepTools(
            self._execution,
            retries=self._retries if retries is None else check_retries(retries),
            timeout_ms=self._timeout_ms if timeout is None else duration_ms(timeout, name="timeout"),
        )
