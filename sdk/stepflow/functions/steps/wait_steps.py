"""Steps that wait, without holding a worker: for a time, an event, a signal, or the answer of a person."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from stepflow.event import Event, read_event
from stepflow.functions.ask_schema import answer_type
from stepflow.functions.requests import (
    Match,
    When,
    ask_request,
    signal_request,
    sleep_request,
    until_request,
    wait_request,
)
from stepflow.functions.steps.calls import StepCalls
from stepflow.signals import Signal, read_signal
from stepflow_engine.codec import restore
from stepflow_engine.durations import Duration

__all__ = ["WaitSteps"]

R = TypeVar("R")


class WaitSteps(StepCalls):
    """Steps that wait."""

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
