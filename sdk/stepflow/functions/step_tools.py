"""The step tools of ``async def`` functions: ``ctx.step``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, ParamSpec, TypeVar, TypeVarTuple, overload

from stepflow.event import Event, read_event
from stepflow.functions.ask_schema import answer_type
from stepflow.functions.child_handle import ChildHandle
from stepflow.functions.invocable import Invocable, invoke_error, invoke_request, invoke_requests, start_request
from stepflow.functions.maps import MapResult, item_requests, map_request, map_result
from stepflow.functions.requests import (
    Close,
    Match,
    Undo,
    When,
    ask_request,
    checked_undo,
    send_request,
    signal_request,
    sleep_request,
    until_request,
    wait_request,
)
from stepflow.options.queue import checked_queue
from stepflow.signals import Signal, read_signal
from stepflow_engine.codec import restore
from stepflow_engine.declared_types import plain_adapter, storable_adapter
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import StepError, StepUsageError
from stepflow_engine.execution import Execution
from stepflow_engine.handler_control import current_handler
from stepflow_engine.isolation import Isolation, check_importable, isolation
from stepflow_engine.limits import Limits
from stepflow_engine.placement import Placement, placement
from stepflow_engine.retry_policy import Retry, combined_retries
from stepflow_engine.step_cache import CacheOptions, cache_options, step_cache
from stepflow_engine.steps import InvokeRequest, RunRequest

__all__ = ["StepTools"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVarTuple("A")
I = TypeVar("I")  # noqa: E741  input
O = TypeVar("O")  # noqa: E741  output


class StepTools:
    """``ctx.step`` of an ``async def`` function. Each call is a step: executed, stored and retried independently.

    The result of a step is stored in Redis as a memo. After a crash, a worker runs the code again from the start, and
    each step that has a memo returns it without being executed.

    Example::

        urls = await ctx.step.run("copy", copy_images, ctx.event.data["urls"])
        await ctx.step.sleep("pause", "1m")
    """

    def __init__(
        self,
        execution: Execution,
        *,
        app_id: str,
        event: Mapping[str, Any],
        limits: Limits,
        retries: int | Retry | None = None,
        timeout_ms: int | None = None,
        heartbeat_timeout_ms: int | None = None,
        undo: Undo | None = None,
        isolation: Isolation | None = None,
        placement: Placement | None = None,
        cache: CacheOptions | None = None,
    ) -> None:
        self._execution = execution
        self._app_id = app_id
        self._event = event
        self._limits = limits
        self._retries = retries
        self._timeout_ms = timeout_ms
        self._heartbeat_timeout_ms = heartbeat_timeout_ms
        self._undo = undo
        self._isolation = isolation
        self._placement = placement
        self._cache = cache

    @overload
    async def run(self, id: str, handler: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, id: str, handler: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(
        self, id: str, handler: Callable[[*A], Awaitable[R]], /, *args: *A, undo: Callable[[R], Any]
    ) -> R: ...
    @overload
    async def run(self, id: str, handler: Callable[[*A], R], /, *args: *A, undo: Callable[[R], Any]) -> R: ...
    async def run(self, id: str, handler: Any, /, *args: object, **kwargs: Any) -> Any:
        """Call ``handler(*args, **kwargs)`` as a step and return its result.

        The result is converted to JSON and back, so the first pass and every replay return the same value. With a
        return annotation (a pydantic model, dataclass, TypedDict, datetime, UUID …) it has that type. A handler that
        is not ``async def`` runs in a thread. If the worker crashes while the handler runs, another worker runs it
        again; once the result is stored, the handler never runs again.

        Args:
            id: identifies the step in the run and finds its memo. Each repeat of an id is a separate step.
            handler: the callable; may be async or not.
            args, kwargs: passed to the handler; they are not stored.
            undo: undoes the step. If the run fails for good or is cancelled after the step has completed, ``undo`` is
                called with the result of the step, as a step of its own with retries. The undo handlers of a run are
                called one after the other, that of the step that completed last first. For type checkers, a call
                with ``undo`` takes positional arguments only; ``with_options(undo=…)`` takes all.

        Raises:
            StepError: the handler failed and no retries are left; with name, message, traceback and cause.
            StepUsageError: the handler is not callable, its return type has a secret, which cannot be stored, or
                values that do not come back, the handler is isolated and another process cannot import it, or the
                call is inside another step's handler.

        Example::

            urls = await ctx.step.run("copy-images", copy_images, ctx.event.data["urls"])
        """
        undo = kwargs.pop("undo", self._undo) if kwargs else self._undo
        request = self._run_request(id, handler, args, kwargs)
        if self._cache is not None:
            if undo is not None:
                raise StepUsageError(
                    f"step {id!r}: a cached step cannot have an undo handler: its result may come from another run"
                )
            request = replace(request, cache=step_cache(id, self._cache, args, kwargs))
        if undo is not None:
            request = replace(request, undo=checked_undo(id, handler, undo))
            self._execution.has_undo = True
        memo = await self._execution.request(id, request)
        if memo.failure is not None:
            raise StepError(id, memo.failure)
        adapter = request.adapter
        if adapter is None and "edited" not in memo.detail:
            return memo.data
        return restore(adapter or plain_adapter(handler), memo.data, what=f"step {id!r}")

    def _run_request(self, id: str, handler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunRequest:
        if not callable(handler):
            raise StepUsageError(
                f"step {id!r}: handler must be callable, got {type(handler).__name__}: "
                "pass the function itself, and its arguments after it"
            )
        try:
            adapter = storable_adapter(handler)
        except ValueError as error:
            raise StepUsageError(f"step {id!r}: {error}") from None
        if self._isolation is not None:
            check_importable(handler, what=f"step {id!r}: an isolated handler")
        return RunRequest(
            handler,
            args,
            kwargs,
            self._retries,
            self._timeout_ms,
            self._heartbeat_timeout_ms,
            adapter,
            isolation=self._isolation,
            placement=self._placement,
        )

    @overload
    async def map(
        self,
        id: str,
        handler: Invocable[I, O],
        items: Iterable[I | Mapping[str, Any]],
        *,
        at_once: int | None = None,
        tolerate: float = 0,
        timeout: Duration | None = None,
    ) -> MapResult[O]: ...
    @overload
    async def map(
        self,
        id: str,
        handler: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        at_once: int | None = None,
        tolerate: float = 0,
    ) -> MapResult[R]: ...
    @overload
    async def map(
        self,
        id: str,
        handler: Callable[[T], R],
        items: Iterable[T],
        *,
        at_once: int | None = None,
        tolerate: float = 0,
    ) -> MapResult[R]: ...
    @overload
    async def map(
        self,
        id: str,
        handler: str,
        items: Iterable[Any],
        *,
        at_once: int | None = None,
        tolerate: float = 0,
        timeout: Duration | None = None,
    ) -> MapResult[Any]: ...
    async def map(
        self,
        id: str,
        handler: Any,
        items: Iterable[Any],
        *,
        at_once: int | None = None,
        tolerate: float = 0,
        timeout: Duration | None = None,
    ) -> MapResult[Any]:
        """Call a handler, or invoke a function, for each item, on all workers, and return the results in order.

        It is one step. Each item is executed, stored and retried on its own, and is never executed again once its
        result is stored. Only as many items have a job as may be open at once, so a map of 100,000 items needs little
        memory. All results together count to the limit of a run's state, 32 MiB.

        Args:
            id: identifies the step in the run.
            handler: called with the item as its one argument, as by ``run``; or a function, a `reference_function` or
                the id of a function, invoked with the item as its data, as by ``invoke``.
            items: at most 1,000,000 items. Each replay must make the same items in the same order.
            at_once: how many items may be open at once: executing, ready, waiting for a child or for a retry. 1 to
                1,000; ``None``: 1,000.
            tolerate: how many items may fail: an integer, or a float from 0.0 to 1.0 as their share. If more fail, no
                further item begins, and the step fails when those that execute have ended. Children continue.
            timeout: of a function: the longest wait for each child, a duration or seconds; by default, and at most,
                366 days. For a handler, use ``with_options(timeout=…)``.

        Returns:
            A list with the result of each item. An item that failed has ``None`` in its place, and is in ``failures``.

        Raises:
            MapFailedError: more items failed than may fail. It has all of their errors, and the runs of functions.
            MapItemsError: the items are not those with which the step began.
            StepUsageError: an argument is invalid.
            LimitError: there are more than 1,000,000 items.

        Example::

            counts = await ctx.step.map("count", count, names, at_once=20, tolerate=0.05)
        """
        self._refuse_undo("map")
        if self._cache is not None:
            raise StepUsageError(f"step {id!r}: the items of a map are not cached: use run for each item")
        make: Callable[[Any], RunRequest | InvokeRequest]
        function = ""
        if isinstance(handler, Invocable | str):
            self._refuse_handler_options("map with a function")
            limit = self._limits.event_bytes
            function, make = invoke_requests(handler, timeout, app_id=self._app_id, event_bytes=limit)
            adapter = getattr(handler, "output", None)
        elif timeout is not None:
            raise StepUsageError(f"step {id!r}: map: timeout is for functions: use with_options(timeout=...)")
        else:
            make, adapter = item_requests(self._run_request(id, handler, (), {}))
        queue = self._placement.queue if self._placement else ""
        request = map_request(id, items, make, function=function, queue=queue, at_once=at_once, tolerate=tolerate)
        memo = await self._execution.request(id, request)
        return map_result(id, memo, adapter)

    @overload
    async def invoke(
        self,
        id: str,
        function: Invocable[I, O],
        data: I | Mapping[str, Any] | None = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> O: ...
    @overload
    async def invoke(
        self,
        id: str,
        function: str,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> Any: ...
    async def invoke(
        self,
        id: str,
        function: Any,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
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
            priority, queue, retention: options of the child, in place of those of its function, as in
                `Stepflow.start`.

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
            priority=priority,
            queue=queue,
            retention=retention,
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
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
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
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> ChildHandle[Any]: ...
    async def start_child(
        self,
        id: str,
        function: Any,
        data: Any = None,
        *,
        parent_close: Close = "cancel",
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
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
            priority, queue, retention: options of the child, in place of those of its function, as in
                `Stepflow.start`.

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
            priority=priority,
            queue=queue,
            retention=retention,
            app_id=self._app_id,
            event_bytes=self._limits.event_bytes,
        )
        memo = await self._execution.request(id, request)
        if memo.failure is not None:
            raise invoke_error(id, memo)
        return ChildHandle(self._execution, id, memo.detail, output)

    async def sleep(self, id: str, duration: Duration) -> None:
        """Wait for a duration without holding a worker. The timer is in Redis and survives crashes and restarts.

        Args:
            id: identifies the step in the run.
            duration: a duration, or seconds, counted from the first time the code reaches the step; at most 366 days.

        Raises:
            StepUsageError: the duration is invalid, negative, or too long.

        Example::

            await ctx.step.sleep("trial", "14d")
        """
        self._refuse_handler_options("sleep")
        await self._execution.request(id, sleep_request(duration))

    async def sleep_until(self, id: str, when: When) -> None:
        """Wait until a time without holding a worker. Return at once if the time is in the past.

        Args:
            id: identifies the step in the run.
            when: a datetime with a time zone, ISO 8601 text with an offset, or seconds since 1970.

        Raises:
            StepUsageError: the time is invalid, has no time zone, or is over 366 days ahead.

        Example::

            await ctx.step.sleep_until("new year", "2030-01-01T00:00:00+01:00")
        """
        self._refuse_handler_options("sleep_until")
        await self._execution.request(id, until_request(when, now_ms=self._execution.now_ms()))

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
        """Wait for a matching event without holding a worker. The wait is in Redis and survives crashes.

        A wait with ``match`` or ``if_`` also ends with an event that came before it, since the run was created: no
        matching event is missed because the run was not there yet. Redis keeps 1,000 to 10,000 events of a name for
        this, until an hour after the last. An event that the run has received before ends no later wait. A wait without
        ``match`` and ``if_`` waits for the next event.

        Args:
            id: identifies the step in the run.
            event: the name of the event.
            timeout: the longest wait, a duration or seconds; at most 366 days.
            match: a path that must have the same value in the event as in the event of this run, such as
                ``"data.order_id"``; or several paths with values: ``{"data.order_id": 17}``. Matches are indexed:
                waits for other values add no cost to an event.
            if_: a CEL expression on ``event``, the received event, and ``run.event``, the event of this run. A worker
                evaluates it for every event of this name and every such wait.
            lookback: accept the oldest matching event of this past duration instead, at most 1 hour; 0: only events
                that come after the wait has begun.

        Returns:
            The event, or ``None`` after the timeout.

        Raises:
            StepUsageError: an argument is invalid.

        Example::

            paid = await ctx.step.wait_for_event("paid", event="shop/order.paid", match="data.order", timeout="3d")
        """
        self._refuse_handler_options("wait_for_event")
        request = wait_request(event, timeout, match=match, if_=if_, lookback=lookback, of=self._event)
        memo = await self._execution.request(id, request)
        return None if memo.data is None else read_event(memo.data)

    async def wait_for_signal(self, id: str, name: str, *, timeout: Duration | None = None) -> Signal | None:
        """Wait for a signal to this run without holding a worker. The wait is in Redis and survives crashes.

        Another program sends it by `Run.signal`. A signal that arrives before the wait is kept, also if the run has not
        started yet. Signals of a name are received in the order of their arrival, each by one wait.

        Args:
            id: identifies the step in the run.
            name: the name of the signal.
            timeout: the longest wait, a duration or seconds; by default, and at most, 366 days. 0: take a signal that
                has arrived, and do not wait.

        Returns:
            The signal, or ``None`` after the timeout.

        Raises:
            StepUsageError: an argument is invalid.

        Example::

            address = await ctx.step.wait_for_signal("new address", "address", timeout="1d")
        """
        self._refuse_handler_options("wait_for_signal")
        memo = await self._execution.request(id, signal_request(name, timeout))
        return None if memo.data is None else read_signal(memo.data)

    @overload
    async def ask(self, id: str, *, schema: type[R], to: str | None = None, timeout: Duration) -> R | None: ...
    @overload
    async def ask(self, id: str, *, schema: Any, to: str | None = None, timeout: Duration) -> Any: ...
    async def ask(self, id: str, *, schema: Any, to: str | None = None, timeout: Duration) -> Any:
        """Ask a person and wait for the answer without holding a worker. The wait is in Redis and survives crashes.

        `Stepflow.asks` and ``stepflow asks`` list it, `Stepflow.answer` and ``stepflow answer`` answer it. An answer
        that does not fit the schema is refused before anything is stored. The first answer counts.

        Args:
            id: identifies the step in the run, and the ask.
            schema: what the answer must be: a type, such as a pydantic model, a dataclass or ``bool``; or a JSON
                schema.
            to: whom the question is for, a name by which asks are listed; at most 128 characters. ``None``: anybody.
            timeout: the longest wait, a duration or seconds; at most 366 days.

        Returns:
            The answer, as the type; plain JSON data for a JSON schema. ``None`` after the timeout.

        Raises:
            StepUsageError: an argument is invalid.
            StepOutputError: the answer fits the JSON schema, but a validator of the type refuses it.

        Example::

            approval = await ctx.step.ask("approve", schema=Approval, to="ops", timeout="3d")
        """
        self._refuse_handler_options("ask")
        answer = answer_type(schema)
        memo = await self._execution.request(id, ask_request(answer.schema, to, timeout))
        if "answered_by" not in memo.detail:
            return None
        return restore(answer.adapter, memo.data, what=f"the answer to step {id!r}")

    async def send_event(self, id: str, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        """Send events exactly once, also after crashes and on replays.

        Args:
            id: identifies the step in the run.
            events: one event, or a list of at most 5,000. An event without an id gets one derived from the step.

        Returns:
            The ids of the events.

        Raises:
            EventError: an event is invalid or over a limit, or there are too many.

        Example::

            await ctx.step.send_event("closed", Event("shop/order.closed", {"order": 17}))
        """
        self._refuse_handler_options("send_event")
        limits = self._limits
        request = send_request(
            events, now_ms=self._execution.now_ms(), most=limits.events_per_send, event_bytes=limits.event_bytes
        )
        memo = await self._execution.request(id, request)
        return list(memo.data)

    @property
    def idempotency_key(self) -> str:
        """In a step's handler: an idempotency key for calls to other systems, ``<run id>:<memo key of the step>``.

        All attempts of the step have the same key, on every worker, and no other step has it. A system that accepts
        idempotency keys therefore executes a request once, also if the handler runs again after a crash.

        Raises:
            StepUsageError: the code is not inside a handler of ``step.run``.

        Example::

            payments.charge(order, idempotency_key=ctx.step.idempotency_key)
        """
        return current_handler("idempotency_key").idempotency_key

    def heartbeat(self, detail: Any = None) -> None:
        """In a step's handler: report that it still works, and how far it is. Not awaited, also in async handlers.

        With ``with_options(heartbeat_timeout=…)`` an attempt that sends no heartbeat for that time fails, and is
        retried. The next attempt can read the last detail as `last_heartbeat` and continue from there. The detail is
        stored at once, then at most once a second; when the attempt fails, the last one is stored.

        Args:
            detail: JSON of at most 16 KiB; ``None``: the last detail stays.

        Raises:
            StepCancelled: nobody needs the result any more: the run has ended, another worker has the step, the
                attempt took too long, or the worker stops. Let it pass.
            StepUsageError: the detail is not JSON, or is too large, or the code is not inside a handler of
                ``step.run``.

        Example::

            for number in range((ctx.step.last_heartbeat or 0) + 1, 1001):
                upload(part=number)
                ctx.step.heartbeat(number)
        """
        current_handler("heartbeat").beat(detail)

    @property
    def last_heartbeat(self) -> Any:
        """In a step's handler: the detail of the last heartbeat of the attempts before; ``None``: there is none.

        Raises:
            StepUsageError: the code is not inside a handler of ``step.run``.

        Example::

            done = ctx.step.last_heartbeat or 0
        """
        return current_handler("last_heartbeat").last_heartbeat

    @property
    def cancelled(self) -> bool:
        """In a step's handler: whether nobody needs its result any more, so that it should end soon.

        The run has ended, another worker has the step, the attempt took too long, or the worker stops. A handler in a
        thread cannot be interrupted: it can look here between two pieces of its work, or call `heartbeat`, which
        raises.

        Raises:
            StepUsageError: the code is not inside a handler of ``step.run``.

        Example::

            while not ctx.step.cancelled and (part := queue.next()):
                handle(part)
        """
        return bool(current_handler("cancelled").cancelled)

    def _refuse_undo(self, call: str) -> None:
        if self._undo is not None:
            raise StepUsageError(f"with_options(undo=...) is for step.run, not for step.{call}: remove undo")

    def _refuse_handler_options(self, call: str) -> None:
        """Refuse options of a handler for a step that has none."""
        self._refuse_undo(call)
        if self._placement is not None:
            child = (
                f", or pass queue= to {call} for the queue of the child" if call in ("invoke", "start_child") else ""
            )
            raise StepUsageError(
                f"with_options(queue=..., slots=...) is for step.run, not for step.{call}: remove them{child}"
            )

    def with_options(
        self,
        *,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        undo: Undo | None = None,
        isolate: Literal["process"] | None = None,
        memory_limit: int | str | None = None,
        queue: str | None = None,
        slots: int | None = None,
        cache: Duration | None = None,
        cache_key: Any = None,
    ) -> StepTools:
        """The same step tools with other options for the calls made with them.

        Args:
            retries: attempts after the first, 0 to 20, with the delays and errors of the function; or a `Retry`.
                ``None``: those of the function.
            timeout: the longest duration of one attempt, at least 1 ms; a longer attempt fails with ``TimeoutError``.
            heartbeat_timeout: the longest time between two calls of `heartbeat`; an attempt without a heartbeat for
                longer fails with ``TimeoutError``.
            undo: the undo handler of ``run``; see there. Other steps have none.
            isolate: ``"process"``: the handler runs in a process of its own, and what it does to that process, it does
                not do to the worker. A timeout then ends a plain ``def`` handler too.
            memory_limit: above how much resident memory the process of an isolated handler is ended; bytes, or a size
                such as ``"2G"``, at least ``"100M"``. The attempt fails with ``MemoryError``.
            queue: the queue of the step, in place of that of the run. Workers that serve the queue and have the
                function execute the step. Other steps have none.
            slots: how many slots of ``stepflow-worker --concurrency`` the handler takes of its worker, 1 or more. It
                waits until so many are free, and the worker takes no other job meanwhile. On a worker with fewer
                slots it takes all of them.
            cache: how long other runs of the function use the result of this ``run`` instead of calling the handler;
                a duration, or seconds. Other steps are not cached.
            cache_key: what the result depends on, JSON data; ``None``: the arguments of the handler. Another function
                and another step id have results of their own.

        Raises:
            ValueError: a value is out of range, a memory limit is set for a handler that is not isolated, or
                ``cache_key`` is set without ``cache``.
            ConfigurationError: a value of the `Retry` is out of range.

        Example::

            await ctx.step.with_options(retries=0, timeout="10s").run("charge", charge, order)
        """
        return StepTools(
            self._execution,
            app_id=self._app_id,
            event=self._event,
            limits=self._limits,
            retries=self._retries if retries is None else combined_retries(self._retries, retries),
            timeout_ms=self._timeout_ms if timeout is None else duration_ms(timeout, name="timeout", least_ms=1),
            heartbeat_timeout_ms=(
                self._heartbeat_timeout_ms
                if heartbeat_timeout is None
                else duration_ms(heartbeat_timeout, name="heartbeat_timeout", least_ms=1)
            ),
            undo=self._undo if undo is None else undo,
            isolation=isolation(self._isolation, isolate, memory_limit),
            placement=placement(self._placement, None if queue is None else checked_queue(queue), slots),
            cache=cache_options(self._cache, cache, cache_key),
        )
