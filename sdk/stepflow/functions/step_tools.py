"""The step tools of ``async def`` functions: ``ctx.step``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from stepflow.event import Event, read_event
from stepflow.functions.invocable import Invocable, invoke_error, invoke_request
from stepflow.functions.requests import Match, When, send_request, sleep_request, until_request, wait_request
from stepflow_engine.codec import restore, result_adapter
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import StepError, StepUsageError
from stepflow_engine.execution import HANDLER_KEY, Execution
from stepflow_engine.limits import Limits, check_retries
from stepflow_engine.steps import RunRequest

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
        event: Mapping[str, Any],
        limits: Limits,
        retries: int | None = None,
        timeout_ms: int | None = None,
    ) -> None:
        self._execution = execution
        self._app_id = app_id
        self._event = event
        self._limits = limits
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
        function: Invocable[I, O],
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
        event_bytes = self._limits.event_bytes
        request, output = invoke_request(function, data, timeout, app_id=self._app_id, event_bytes=event_bytes)
        memo = await self._execution.ask(id, request)
        if memo.failure is not None:
            raise invoke_error(id, memo)
        return restore(output, memo.data, what=f"function {request.app}/{request.function}")

    async def sleep(self, id: str, duration: Duration) -> None:
        """Go on after a time. Meanwhile the run needs no worker.

        Args:
            id: names the step in the run.
            duration: how long, from when the step is first asked for; at most 366 days.

        Raises:
            StepUsageError: the duration is not one, is negative, or is too long.

        Source: SEMANTICS §5.
        """
        await self._execution.ask(id, sleep_request(duration))

    async def sleep_until(self, id: str, when: When) -> None:
        """Go on at a time; at once when it is past. Meanwhile the run needs no worker.

        Args:
            id: names the step in the run.
            when: a datetime with a time zone, ISO 8601 text with an offset, or seconds since 1970.

        Raises:
            StepUsageError: it is not a time, has no time zone, or is over 366 days ahead.

        Source: SEMANTICS §5.
        """
        await self._execution.ask(id, until_request(when))

    async def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: Match | None = None,
        if_: str | None = None,
        lookback: Duration | None = None,
    ) -> Event[Any] | None:
        """Go on when an event comes. Meanwhile the run needs no worker.

        The wait begins when the step is first asked for, before any step of the same gather sends or does anything: an
        event that such a step causes is not missed.

        Args:
            id: names the step in the run.
            event: the name of the event.
            timeout: the longest wait; at most 366 days.
            match: a path that must have the same value in that event as in the event of this run, such as
                ``"data.order_id"``; or several, with their values: ``{"data.order_id": 17}``. However many runs wait,
                an event costs no more for those whose values it does not have.
            if_: a CEL expression on ``event``, the one that comes, and ``run.event``, that of this run. A worker
                looks at each such wait for every event of the name.
            lookback: also take the oldest matching event of this last time, at most an hour and 1,000 events.

        Returns:
            The event, or ``None`` when the time is over.

        Raises:
            StepUsageError: an argument is not what it must be.

        Source: SEMANTICS §5.
        """
        request = wait_request(event, timeout, match=match, if_=if_, lookback=lookback, of=self._event)
        memo = await self._execution.ask(id, request)
        return None if memo.data is None else read_event(memo.data)

    async def send_event(self, id: str, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        """Send events, once, whatever crashes or is replayed.

        Args:
            id: names the step in the run.
            events: an event or several, at most 5,000. One without an id gets an id that derives from the step.

        Returns:
            The ids of the events.

        Raises:
            EventError: one cannot be sent, or there are too many.

        Source: SEMANTICS §5.
        """
        limits = self._limits
        request = send_request(events, most=limits.events_per_send, event_bytes=limits.event_bytes)
        memo = await self._execution.ask(id, request)
        return list(memo.data)

    @property
    def idempotency_key(self) -> str:
        """In a step's handler: a key for calls to other systems, ``<run id>:<memo key of the step>``.

        It is the same for every attempt at the step, on every worker and replay, and no other step has it. So a system
        that takes such keys does once what a handler asks for that is executed again.

        Raises:
            StepUsageError: no handler of ``step.run`` is running: the code between steps has no key of its own.
        """
        key = HANDLER_KEY.get()
        if not key:
            raise StepUsageError(
                "ctx.step.idempotency_key is read outside of a step's handler, where there is none: "
                "read it in the handler that is given to ctx.step.run"
            )
        return key

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
            event=self._event,
            limits=self._limits,
            retries=self._retries if retries is None else check_retries(retries),
            timeout_ms=self._timeout_ms if timeout is None else duration_ms(timeout, name="timeout"),
        )
