"""``step.invoke`` and ``step.start_child``: run another function as a child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, Unpack, overload

from stepflow.functions.child_handle import ChildHandle
from stepflow.functions.invocable import Invocable, invoke_error, invoke_request, start_request
from stepflow.functions.requests import Close
from stepflow.functions.steps.calls import StepCalls
from stepflow.options.start import RunOptions
from stepflow_engine.codec import restore
from stepflow_engine.durations import Duration

__all__ = ["ChildSteps"]

I = TypeVar("I")  # noqa: E741  input
O = TypeVar("O")  # noqa: E741  output


class ChildSteps(StepCalls):
    """Steps that start a run of another function."""

    @overload
    async def invoke(
        self,
        id: str,
        function: Invocable[I, O],
        data: I | Mapping[str, Any] | None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> O: ...
    @overload
    async def invoke(
        self,
        id: str,
        function: str,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> Any: ...
    async def invoke(
        self,
        id: str,
        function: Any,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> Any:
        """Start a run of another function, a child, and wait for its result without holding a worker.

        The child has its own retries and memos. One invoke step starts at most one child, also after crashes and
        retransmissions. An invoke is never retried: an uncaught error fails this run at once.

        Args:
            id: identifies the step in the run.
            function: a function, a `reference_function`, an id of this app, or ``"app/function"`` for another app.
            data: the data of the child's event; JSON.
            timeout: the longest wait, a duration or seconds; by default, and at most, 366 days. The child keeps
                running after a timeout.
            options: those of the child, in place of those of its function: `RunOptions`.

        Raises:
            InvokeError: the child failed; with name, message, traceback, cause and run id.
            FunctionNotFoundError: no worker has registered the function.
            InvokeTimeoutError: the child has not finished in time.
            InvokeSkippedError: flow control or a pause has skipped the child; ``reason`` names it.
            InvokeCancelledError: the child was cancelled.
            StepUsageError: the function, the timeout or an option is invalid.
            EventError: the data is not JSON, or over the limit.

        Example::

            square = await ctx.step.invoke("square", compute_square, data={"number": 4}, timeout="1h")
        """
        self._refuse_handler_options("invoke")
        request, output = invoke_request(
            function,
            data,
            timeout=timeout,
            options=options,
            app_id=self._app_id,
            event_bytes=self._limits.event_bytes,
        )
        memo = await self._execution.request(id, request)
        if memo.failure is not None:
            raise invoke_error(id, memo)
        return restore(output, memo.data, what=f"function {request.app}/{request.function}")

    @overload
    async def start_child(
        self,
        id: str,
        function: Invocable[I, O],
        data: I | Mapping[str, Any] | None = None,
        *,
        parent_close: Close = "cancel",
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> ChildHandle[O]: ...
    @overload
    async def start_child(
        self,
        id: str,
        function: str,
        data: Any = None,
        *,
        parent_close: Close = "cancel",
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> ChildHandle[Any]: ...
    async def start_child(
        self,
        id: str,
        function: Any,
        data: Any = None,
        *,
        parent_close: Close = "cancel",
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> ChildHandle[Any]:
        """Start a run of another function, a child, and continue. The handle waits for its result later.

        The step starts one child, also after crashes and retransmissions. Its memo, the child and the wait for its end
        are stored together.

        Args:
            id: identifies the step in the run.
            function: see `invoke`.
            data: the data of the child's event; JSON.
            parent_close: what becomes of the child if this run completes, fails for good or is cancelled before it.
                ``"cancel"``: it is cancelled. ``"leave"``: it continues. ``"wait"``: this run ends after it; if this
                run is cancelled, the child is too.
            timeout: the longest time that the child may take, a duration or seconds; by default, and at most, 366 days.
                After it, ``result`` raises `InvokeTimeoutError`, and the child is cancelled, unless ``parent_close`` is
                ``"leave"``.
            options: those of the child, in place of those of its function: `RunOptions`.

        Raises:
            FunctionNotFoundError: no worker has registered the function.
            InvokeError: the runs are nested too deep, or the options are refused.
            StepUsageError: the function, the timeout, ``parent_close`` or an option is invalid.
            EventError: the data is not JSON, or over the limit.

        Example::

            child = await ctx.step.start_child("report", make_report, data={"month": 7}, parent_close="wait")
        """
        self._refuse_handler_options("start_child")
        request, output = start_request(
            function,
            data,
            parent_close=parent_close,
            timeout=timeout,
            options=options,
            app_id=self._app_id,
            event_bytes=self._limits.event_bytes,
        )
        memo = await self._execution.request(id, request)
        if memo.failure is not None:
            raise invoke_error(id, memo)
        return ChildHandle(self._execution, id, memo.detail, output)
