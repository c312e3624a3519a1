"""What starts runs: events, starts and invokes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

from typing_extensions import TypeVar

from stepflow.client.commands import (
    as_events,
    event_commands,
    later_time,
    start_command,
    start_many_commands,
)
from stepflow.client.connected_app import ConnectedApp
from stepflow.client.run import Run
from stepflow.event import Event
from stepflow.functions.function import Function
from stepflow.later import When
from stepflow_engine.durations import Duration

__all__ = ["RunStarter"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output


class RunStarter(ConnectedApp):
    """Sends events, starts runs, and waits for results."""

    # -- events ------------------------------------------------------------------

    @overload
    def send(
        self,
        event: str,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> str: ...
    @overload
    def send(self, event: Event[Any], /) -> str: ...
    @overload
    def send(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    def send(
        self,
        event: str | Event[Any] | Sequence[Event[Any]],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Any:
        """Send an event, or several in one round trip. Each function with a matching trigger gets a run.

        When the call returns, Redis has the event. A worker routes it later, even if this process crashes.

        Args:
            event: the name of the event, an `Event`, or a list of at most 5,000 events.
            data: the data of the event; JSON.
            id: identifies the event. A second event with the same id within 24 hours starts nothing. ``None``: stepflow
                generates an id. An empty id is refused, because it usually comes from a missing header or field.
            delay: how long after the call the event is sent, by the clock of the server: a duration or seconds, at most
                366 days. Until then it starts and ends nothing, and `cancel_event` withdraws it.
            at: instead of ``delay``, the time at which it is sent, as in `Event`.

        Returns:
            The id of the event, or the list of ids.

        Raises:
            EventError: an event is not JSON or over a limit, or an id or a time is invalid; no event is sent.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.
            ReplicationError: with ``durability="replicated"``, no replica has confirmed the event in time. With an
                ``id``, it is safe to repeat the call.

        Example::

            app.send("shop/order.placed", {"order": 17}, id="order-17")
            app.send("shop/trial.ended", {"user": 4}, id="trial-4", delay="14d")
        """
        events, single = as_events(event, data, id, limits=self.limits, delay=delay, at=at)
        ids, commands = event_commands(self.backend, events, limits=self.limits, delay=delay)
        self.backend.deliver(commands)
        return ids[0] if single else ids

    @overload
    async def asend(
        self,
        event: str,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> str: ...
    @overload
    async def asend(self, event: Event[Any], /) -> str: ...
    @overload
    async def asend(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    async def asend(
        self,
        event: str | Event[Any] | Sequence[Event[Any]],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Any:
        """The asyncio twin of `send`."""
        events, single = as_events(event, data, id, limits=self.limits, delay=delay, at=at)
        ids, commands = event_commands(self.backend, events, limits=self.limits, delay=delay)
        await self.backend.adeliver(commands)
        return ids[0] if single else ids

    # -- runs --------------------------------------------------------------------

    @overload
    def start(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Run[O]: ...
    @overload
    def start(
        self,
        function: str,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Run[Any]: ...
    def start(
        self,
        function: Any,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Run[Any]:
        """Start a run of a function and return its handle without waiting.

        When the call returns, Redis has the run. A worker executes it, even if this process crashes.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            data: the input; JSON.
            id: makes the call repeatable. Within 24 hours, the same id returns the same run and starts no other.
                ``None``: each call starts a run. An empty id is refused, as in `send`.
            delay: how long after the call the run starts, by the clock of the server: a duration or seconds, at most
                366 days. Until then the run is ``waiting``, is found like any run, and can be cancelled. It passes the
                flow control of its function when it is due, and ``timeouts.start`` counts from then.
            at: instead of ``delay``, the time at which the run starts: a datetime with a time zone, ISO 8601 text with
                an offset, or seconds since 1970. If that time is over, the run starts now.

        Raises:
            FunctionNotFoundError: neither this app nor any worker has registered the id.
            EventError: the data is not JSON or over the limit, or the id, the delay or the time is invalid.
            ConfigurationError: ``function`` is neither a function nor text.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.
            ReplicationError: with ``durability="replicated"``, no replica has confirmed the run in time. With an
                ``id``, it is safe to repeat the call.

        Example::

            run = app.start(main, {"urls": []}, id="import-17")
            print(run.result(timeout="30s"))
            app.start(remind, {"order": 17}, delay="3d")
        """
        config, declared = self._config(function), getattr(function, "input", None)
        run_id, command = start_command(
            self.backend,
            config,
            data,
            id,
            limits=self.limits,
            declared=declared,
            later=later_time("start", delay, at),
        )
        self.backend.deliver([command])
        return Run(self.backend, run_id, getattr(function, "output", None))

    @overload
    async def astart(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Run[O]: ...
    @overload
    async def astart(
        self,
        function: str,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Run[Any]: ...
    async def astart(
        self,
        function: Any,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
    ) -> Run[Any]:
        """The asyncio twin of `start`."""
        config, declared = await self._aconfig(function), getattr(function, "input", None)
        run_id, command = start_command(
            self.backend,
            config,
            data,
            id,
            limits=self.limits,
            declared=declared,
            later=later_time("start", delay, at),
        )
        await self.backend.adeliver([command])
        return Run(self.backend, run_id, getattr(function, "output", None))

    @overload
    def start_many(
        self, function: Function[I, O], data: Iterable[Any], *, delay: Duration | None = None, at: When | None = None
    ) -> list[Run[O]]: ...
    @overload
    def start_many(
        self, function: str, data: Iterable[Any], *, delay: Duration | None = None, at: When | None = None
    ) -> list[Run[Any]]: ...
    def start_many(
        self, function: Any, data: Iterable[Any], *, delay: Duration | None = None, at: When | None = None
    ) -> list[Run[Any]]:
        """Start a run for each item of ``data``, all in one round trip. See `start`.

        If the call raises `BackendUnavailableError`, some of the runs may have started.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            data: the inputs, at most 5,000; JSON.
            delay, at: the time at which they start, as in `start`.

        Returns:
            The handles, in the order of ``data``.

        Raises:
            EventError: an item is not JSON or over the limit, or there are too many; no run is started.

        Example::

            runs = app.start_many("resize", [{"image": n} for n in range(100)])
            sizes = [run.result(timeout="1m") for run in runs]
        """
        config, declared = self._config(function), getattr(function, "input", None)
        run_ids, commands = start_many_commands(
            self.backend,
            config,
            data,
            limits=self.limits,
            declared=declared,
            later=later_time("start_many", delay, at),
        )
        self.backend.deliver(commands)
        return [Run(self.backend, run_id, getattr(function, "output", None)) for run_id in run_ids]

    @overload
    async def astart_many(
        self, function: Function[I, O], data: Iterable[Any], *, delay: Duration | None = None, at: When | None = None
    ) -> list[Run[O]]: ...
    @overload
    async def astart_many(
        self, function: str, data: Iterable[Any], *, delay: Duration | None = None, at: When | None = None
    ) -> list[Run[Any]]: ...
    async def astart_many(
        self, function: Any, data: Iterable[Any], *, delay: Duration | None = None, at: When | None = None
    ) -> list[Run[Any]]:
        """The asyncio twin of `start_many`."""
        config, declared = await self._aconfig(function), getattr(function, "input", None)
        run_ids, commands = start_many_commands(
            self.backend,
            config,
            data,
            limits=self.limits,
            declared=declared,
            later=later_time("start_many", delay, at),
        )
        await self.backend.adeliver(commands)
        return [Run(self.backend, run_id, getattr(function, "output", None)) for run_id in run_ids]

    @overload
    def invoke(self, function: Function[I, O], data: Any = None, *, timeout: Duration | None = None) -> O: ...
    @overload
    def invoke(self, function: str, data: Any = None, *, timeout: Duration | None = None) -> Any: ...
    def invoke(self, function: Any, data: Any = None, *, timeout: Duration | None = None) -> Any:
        """Start a run and wait for its result. See `start` and `Run.result` for arguments and errors.

        Example::

            total = app.invoke("import-images", {"urls": []}, timeout="30s")
        """
        self.backend.refuse_to_block("app.invoke", "await ctx.step.invoke(…) or await app.ainvoke(…)")
        return self.start(function, data).result(timeout)

    @overload
    async def ainvoke(self, function: Function[I, O], data: Any = None, *, timeout: Duration | None = None) -> O: ...
    @overload
    async def ainvoke(self, function: str, data: Any = None, *, timeout: Duration | None = None) -> Any: ...
    async def ainvoke(self, function: Any, data: Any = None, *, timeout: Duration | None = None) -> Any:
        """The asyncio twin of `invoke`."""
        return await (await self.astart(function, data)).aresult(timeout)
