"""The step tools of ``async def`` functions: ``ctx.step``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from stepflow.invoking import invoke_error, invoke_request
from stepflow.reference import FunctionReference
from stepflow_engine.codec import restore, result_adapter
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import StepError, StepUsageError
from stepflow_engine.execution import Execution
from stepflow_engine.limits import check_retries
from stepflow_engine.steps import RunRequest

if TYPE_CHECKING:
    from stepflow.function import Function

__all__ = ["StepTools"]

P = ParamSpec("P")
R = TypeVar("R")
I = TypeVar("I")  # noqa: E741  input
O = TypeVar("O")  # noqa: E741  output


class StepTools:
    """What a function can have done durably. Each call is a step: executed, memoised and retried alone."""

    def __init__(
        self,
        execution: Execution,
        *,
        app_id: str,
        event_bytes: int,
        retries: int | None = None,
        timeout_ms: int | None = None,
    ) -> None:
        self._execution = execution
        self._app_id = app_id
        self._event_bytes = event_bytes
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

    @overload
    async def invoke(
        self,
        id: str,
        function: Function[I, O] | FunctionReference[I, O],
        data: I | Mapping[str, Any] | None = None,
        *,
        timeout: Duration | None = None,
    ) -> O: ...
    @overload
    async def invoke(self, id: str, function: str, data: Any = None, *, timeout: Duration | None = None) -> Any: ...
    async def invoke(self, id: str, function: Any, data: Any = None, *, timeout: Duration | None = None) -> Any:
        """Run another function as a run of its own and wait for its result, without holding a worker.

        The child has its own retries and memos. This step never starts two children, whatever crashes or is resent.
        An invoke is never retried: uncaught, its error fails this run at once.

        Args:
            id: names the step in the run.
            function: a function, a `reference_function`, or the id of one: of this app, or ``"app/function"``.
            data: the child's event data; JSON.
            timeout: the longest wait, at most and by default 366 days; the child keeps running after it.

        Raises:
            InvokeError: the child failed; with its name, message, traceback, cause and run id.
            FunctionNotFoundError: no worker has registered the function.
            InvokeTimeoutError: the child has not finished in time.
            InvokeSkippedError: the child was not let start; ``reason`` says why.
            InvokeCancelledError: the child was cancelled.
            StepUsageError: the function or the time-out is not one.
            EventError: the data is not JSON, or over the limit.

        Source: SEMANTICS §3, reference/step-invoke.
        """
        request, output = invoke_request(function, data, timeout, app_id=self._app_id, event_bytes=self._event_bytes)
        memo = await self._execution.ask(id, request)
        if memo.failure is not None:
            raise invoke_error(id, memo)
        return restore(output, memo.data, what=f"function {request.app}/{request.function}")

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
            app_id=self._app_id,
            event_bytes=self._event_bytes,
            retries=self._retries if retries is None else check_retries(retries),
            timeout_ms=self._timeout_ms if timeout is None else duration_ms(timeout, name="timeout"),
        )
