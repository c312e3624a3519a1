"""Handles of the children that a run has started with ``ctx.step.start_child``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Generic

from typing_extensions import TypeVar

from stepflow.functions.invocable import invoke_error, invoke_timeout_ms
from stepflow.functions.requests import sleep_request
from stepflow_engine.codec import Restore, restore
from stepflow_engine.durations import Duration, show_duration
from stepflow_engine.errors import InvokeCancelledError, InvokeTimeoutError
from stepflow_engine.execution import Execution
from stepflow_engine.failure import Failure
from stepflow_engine.limits import MAX_ID_BYTES
from stepflow_engine.memo import Memo
from stepflow_engine.steps import InvokeRequest, ParentClose
from stepflow_engine.threads import ThreadBridge

__all__ = ["ChildHandle", "SyncChildHandle"]

O = TypeVar("O", default=Any)  # noqa: E741  output


class ChildHandle(Generic[O]):
    """A child that this run has started; made by `StepTools.start_child`.

    Its end is stored in this run, also while the code does not wait for it. So `result` has it after any crash, and
    after the retention of the child.

    Attributes:
        id: the run id of the child.

    Example::

        child = await ctx.step.start_child("report", make_report, data={"month": 7})
        report = await child.result(timeout="1h")
    """

    def __init__(self, execution: Execution, step_id: str, started: Mapping[str, Any], output: Restore | None) -> None:
        self.id = str(started["run_id"])
        self._execution = execution
        self._step_id = step_id
        self._function = str(started["function"])
        self._key = str(started["end_key"])
        self._output = output
        self._end: asyncio.Task[Memo] | None = None
        self._is_cancelled = False
        execution.children[self._key] = ParentClose(started["parent_close"])

    async def result(self, *, timeout: Duration | None = None) -> O:
        """Wait for the result of the child without holding a worker. It can be called again, and at the same time.

        To cancel the task that waits does not cancel the child.

        Args:
            timeout: the longest wait, a duration or seconds, from the first time the code reaches the call. The child
                continues after it, and `result` can be called again. ``None``: as long as the child may take.

        Raises:
            InvokeError: the child failed; with name, message, traceback, cause and run id.
            InvokeTimeoutError: the child has not ended in time.
            InvokeSkippedError: flow control or a pause has skipped the child; ``reason`` names it.
            InvokeCancelledError: the child was cancelled.
            StepUsageError: the timeout is invalid.

        Example::

            first, second = await asyncio.gather(one.result(), other.result())
        """
        timeout_ms = invoke_timeout_ms(timeout, "result: timeout")
        if self._is_cancelled:
            raise self._error(InvokeCancelledError, "RunCancelledError", "this run has cancelled it")
        if self._end is None:
            request = InvokeRequest("", self._function, b"", timeout_ms, child=self.id)
            self._end = asyncio.create_task(self._received(request))
        if timeout is not None and not self._end.done():
            await self._wait(self._end, timeout, timeout_ms)
        memo = await asyncio.shield(self._end)
        if memo.failure is not None:
            raise invoke_error(self._step_id, memo)
        result: O = restore(self._output, memo.data, what=f"function {self._function}")
        return result

    async def _received(self, request: InvokeRequest) -> Memo:
        memo = await self._execution.request(self._step_id, request, self._key)
        self._execution.children.pop(self._key, None)
        return memo

    async def _wait(self, end: asyncio.Task[Memo], timeout: Duration, timeout_ms: int) -> None:
        """Wait for the end of the child, or for a sleep, which is a step of its own: whose memo is stored first."""
        sleep_id = f"timeout of {self._step_id}".encode()[:MAX_ID_BYTES].decode(errors="ignore")
        over = asyncio.create_task(self._execution.request(sleep_id, sleep_request(timeout)))
        try:
            await asyncio.wait({end, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        if not end.done():
            await over
            raise self._error(
                InvokeTimeoutError, "InvokeTimeoutError", f"has not ended within {show_duration(timeout_ms)}"
            )

    def _error(self, kind: type[InvokeCancelledError | InvokeTimeoutError], name: str, what: str) -> Exception:
        failure = Failure(name, f"child {self.id} of function {self._function}: {what}")
        return kind(self._step_id, failure, function_id=self._function, run_id=self.id)

    def cancel(self) -> None:
        """Cancel the child, and the children that it waits for. Not awaited.

        It happens when the code next waits for a step, or the run ends. From the call on, `result` raises
        `InvokeCancelledError`, unless it has returned or raised before. A child that has ended stays as it is.

        Example::

            child.cancel()
        """
        if not (self._is_cancelled or (self._end is not None and self._end.done())):
            self._is_cancelled = True
            self._execution.cancel_child(self._key)


class SyncChildHandle(Generic[O]):
    """The blocking twin of `ChildHandle`, of a plain ``def`` function.

    Attributes:
        id: the run id of the child.

    Example::

        child = ctx.step.start_child("report", make_report, data={"month": 7})
        report = child.result(timeout="1h")
    """

    def __init__(self, child: ChildHandle[O], bridge: ThreadBridge) -> None:
        self.id = child.id
        self._child = child
        self._bridge = bridge

    def result(self, *, timeout: Duration | None = None) -> O:
        """Wait for the result of the child; see `ChildHandle.result`."""
        return self._bridge.call(lambda: self._child.result(timeout=timeout))

    def cancel(self) -> None:
        """Cancel the child; see `ChildHandle.cancel`."""

        async def cancel() -> None:
            self._child.cancel()

        self._bridge.call(cancel)
