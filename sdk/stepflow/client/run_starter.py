"""What starts runs by name: starts and invokes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, overload

from typing_extensions import TypeVar

from stepflow.client.commands import (
    later_time,
    start_command,
    start_many_commands,
)
from stepflow.client.event_sender import EventSender
from stepflow.client.run import Run
from stepflow.functions.function import Function
from stepflow.later import When
from stepflow.options.cancellation import Timeouts
from stepflow.options.start import start_options
from stepflow_engine.durations import Duration

__all__ = ["RunStarter"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output


class RunStarter(EventSender):
    """Starts runs, and waits for their results."""

    @overload
    def start(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
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
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> Run[Any]: ...
    def start(
        self,
        function: Any,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> Run[Any]:
        """Start a run of a function and return its handle without waiting.

        When the call returns, Redis has the run. A worker executes it, even if this process crashes. If the function
        has ``Singleton(mode="attach")`` and a run is live, the handle is of that run, and its ``attached`` is true.

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
            priority: seconds from -600 to 600, in place of the priority of the function: the run is queued as if it
                had been created that much earlier.
            queue: the queue of its jobs, in place of that of the function. Workers that serve the queue and have the
                function execute the run.
            retention: how long the ended run is kept, in place of the retention of the app; a duration, or seconds.
            timeout: the longest time from the start to the end of the run, in place of ``timeouts`` of the function; a
                duration or seconds, or `Timeouts`. A run that misses it is cancelled.

        Raises:
            FunctionNotFoundError: neither this app nor any worker has registered the id.
            EventError: the data is not JSON or over the limit, or the id, the delay or the time is invalid. An
                option is out of range, or the function executes batches, whose runs cannot have options.
            ConfigurationError: ``function`` is neither a function nor text.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.
            ReplicationError: with ``durability="replicated"``, no replica has confirmed the run in time. With an
                ``id``, it is safe to repeat the call.

        Example::

            run = app.start(main, {"urls": []}, id="import-17")
            print(run.result(timeout="30s"))
            app.start(remind, {"order": 17}, delay="3d")
            app.start(main, {"urls": []}, priority=300, queue="bulk", retention="90d", timeout="2h")
        """
        options = start_options("start", priority=priority, queue=queue, retention=retention, timeout=timeout)
        config, declared = self._config(function).with_options(options), getattr(function, "input", None)
        run_id, command = start_command(
            self.backend,
            config,
            data,
            id,
            limits=self.limits,
            declared=declared,
            later=later_time("start", delay, at, clock=self.backend.partition.clock),
        )
        [[started]] = self.backend.deliver([command])
        return self._handle(function, run_id, started)

    @overload
    async def astart(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
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
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> Run[Any]: ...
    async def astart(
        self,
        function: Any,
        data: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> Run[Any]:
        """The asyncio twin of `start`."""
        options = start_options("start", priority=priority, queue=queue, retention=retention, timeout=timeout)
        config, declared = (await self._aconfig(function)).with_options(options), getattr(function, "input", None)
        run_id, command = start_command(
            self.backend,
            config,
            data,
            id,
            limits=self.limits,
            declared=declared,
            later=later_time("start", delay, at, clock=self.backend.partition.clock),
        )
        [[started]] = await self.backend.adeliver([command])
        return self._handle(function, run_id, started)

    @overload
    def start_many(
        self,
        function: Function[I, O],
        data: Iterable[Any],
        *,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> list[Run[O]]: ...
    @overload
    def start_many(
        self,
        function: str,
        data: Iterable[Any],
        *,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> list[Run[Any]]: ...
    def start_many(
        self,
        function: Any,
        data: Iterable[Any],
        *,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> list[Run[Any]]:
        """Start a run for each item of ``data``, all in one round trip. See `start`.

        If the call raises `BackendUnavailableError`, some of the runs may have started.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            data: the inputs, at most 5,000; JSON.
            delay, at: the time at which they start, as in `start`.
            priority, queue, retention, timeout: the options of each run, as in `start`.

        Returns:
            The handles, in the order of ``data``.

        Raises:
            EventError: an item is not JSON or over the limit, or there are too many; no run is started.

        Example::

            runs = app.start_many("resize", [{"image": n} for n in range(100)])
            sizes = [run.result(timeout="1m") for run in runs]
        """
        options = start_options("start_many", priority=priority, queue=queue, retention=retention, timeout=timeout)
        config, declared = self._config(function).with_options(options), getattr(function, "input", None)
        run_ids, commands = start_many_commands(
            self.backend,
            config,
            data,
            limits=self.limits,
            declared=declared,
            later=later_time("start_many", delay, at, clock=self.backend.partition.clock),
        )
        started = [run for runs in self.backend.deliver(commands) for run in runs]
        return [self._handle(function, *ids) for ids in zip(run_ids, started, strict=True)]

    @overload
    async def astart_many(
        self,
        function: Function[I, O],
        data: Iterable[Any],
        *,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> list[Run[O]]: ...
    @overload
    async def astart_many(
        self,
        function: str,
        data: Iterable[Any],
        *,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> list[Run[Any]]: ...
    async def astart_many(
        self,
        function: Any,
        data: Iterable[Any],
        *,
        delay: Duration | None = None,
        at: When | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
        timeout: Duration | Timeouts | None = None,
    ) -> list[Run[Any]]:
        """The asyncio twin of `start_many`."""
        options = start_options("start_many", priority=priority, queue=queue, retention=retention, timeout=timeout)
        config, declared = (await self._aconfig(function)).with_options(options), getattr(function, "input", None)
        run_ids, commands = start_many_commands(
            self.backend,
            config,
            data,
            limits=self.limits,
            declared=declared,
            later=later_time("start_many", delay, at, clock=self.backend.partition.clock),
        )
        started = [run for runs in await self.backend.adeliver(commands) for run in runs]
        return [self._handle(function, *ids) for ids in zip(run_ids, started, strict=True)]

    @overload
    def invoke(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> O: ...
    @overload
    def invoke(
        self,
        function: str,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> Any: ...
    def invoke(
        self,
        function: Any,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> Any:
        """Start a run and wait for its result. See `start` and `Run.result` for arguments and errors.

        ``timeout`` limits the wait, and the run continues after it. To limit the run, use `start` with its ``timeout``.

        Example::

            total = app.invoke("import-images", {"urls": []}, timeout="30s")
        """
        self.backend.refuse_to_block("app.invoke", "await ctx.step.invoke(…) or await app.ainvoke(…)")
        run = self.start(function, data, priority=priority, queue=queue, retention=retention)
        return run.result(timeout)

    @overload
    async def ainvoke(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> O: ...
    @overload
    async def ainvoke(
        self,
        function: str,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> Any: ...
    async def ainvoke(
        self,
        function: Any,
        data: Any = None,
        *,
        timeout: Duration | None = None,
        priority: float | None = None,
        queue: str | None = None,
        retention: Duration | None = None,
    ) -> Any:
        """The asyncio twin of `invoke`."""
        run = await self.astart(function, data, priority=priority, queue=queue, retention=retention)
        return await run.aresult(timeout)

    def _handle(self, function: Any, run_id: str, started: str) -> Run[Any]:
        """The handle of a run. ``started`` is another id if a singleton has attached the caller to a live run."""
        return Run(self.backend, started, getattr(function, "output", None), attached=started != run_id)
