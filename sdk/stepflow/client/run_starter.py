"""What starts runs by name: starts and invokes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack, overload

from typing_extensions import TypeVar

from stepflow.client.commands import later_time, start_command, start_many_commands
from stepflow.client.event_sender import EventSender
from stepflow.client.run import Run
from stepflow.functions.function import Function
from stepflow.later import Later
from stepflow.options.keywords import check_keywords
from stepflow.options.start import RunOptions, StartOptions, run_overrides
from stepflow_broker.protocol.command import Command
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_engine.durations import Duration

__all__ = ["RunStarter"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output
Starts = Command[list[str]]


class RunStarter(EventSender):
    """Starts runs, and waits for their results."""

    @overload
    def start(
        self, function: Function[I, O], data: Any = None, *, id: str | None = None, **options: Unpack[StartOptions]
    ) -> Run[O]: ...
    @overload
    def start(
        self, function: str, data: Any = None, *, id: str | None = None, **options: Unpack[StartOptions]
    ) -> Run[Any]: ...
    def start(
        self, function: Any, data: Any = None, *, id: str | None = None, **options: Unpack[StartOptions]
    ) -> Run[Any]:
        """Start a run of a function and return its handle without waiting.

        When the call returns, Redis has the run. A worker executes it, even if this process crashes. If the function
        has ``Singleton(mode="attach")`` and a run is live, the handle is of that run, and its ``attached`` is true.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            data: the input; JSON.
            id: makes the call repeatable. Within 24 hours, the same id returns the same run and starts no other.
                ``None``: each call starts a run. An empty id is refused, as in `send`.
            options: when the run starts, and what it has in place of the settings of its function: `StartOptions`.

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
        run_id, command = self._one_start(self._config(function), function, data, id, options)
        [[started]] = self.backend.deliver([command])
        return self._handle(function, run_id, started)

    @overload
    async def astart(
        self, function: Function[I, O], data: Any = None, *, id: str | None = None, **options: Unpack[StartOptions]
    ) -> Run[O]: ...
    @overload
    async def astart(
        self, function: str, data: Any = None, *, id: str | None = None, **options: Unpack[StartOptions]
    ) -> Run[Any]: ...
    async def astart(
        self, function: Any, data: Any = None, *, id: str | None = None, **options: Unpack[StartOptions]
    ) -> Run[Any]:
        """The asyncio twin of `start`."""
        run_id, command = self._one_start(await self._aconfig(function), function, data, id, options)
        [[started]] = await self.backend.adeliver([command])
        return self._handle(function, run_id, started)

    @overload
    def start_many(
        self, function: Function[I, O], data: Iterable[Any], **options: Unpack[StartOptions]
    ) -> list[Run[O]]: ...
    @overload
    def start_many(self, function: str, data: Iterable[Any], **options: Unpack[StartOptions]) -> list[Run[Any]]: ...
    def start_many(self, function: Any, data: Iterable[Any], **options: Unpack[StartOptions]) -> list[Run[Any]]:
        """Start a run for each item of ``data``, all in one round trip. See `start`.

        If the call raises `BackendUnavailableError`, some of the runs may have started.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            data: the inputs, at most 5,000; JSON.
            options: those of each run: `StartOptions`.

        Returns:
            The handles, in the order of ``data``.

        Raises:
            EventError: an item is not JSON or over the limit, or there are too many; no run is started.

        Example::

            runs = app.start_many("resize", [{"image": n} for n in range(100)])
            sizes = [run.result(timeout="1m") for run in runs]
        """
        run_ids, commands = self._many_starts(self._config(function), function, data, options)
        started = [run for runs in self.backend.deliver(commands) for run in runs]
        return [self._handle(function, *ids) for ids in zip(run_ids, started, strict=True)]

    @overload
    async def astart_many(
        self, function: Function[I, O], data: Iterable[Any], **options: Unpack[StartOptions]
    ) -> list[Run[O]]: ...
    @overload
    async def astart_many(
        self, function: str, data: Iterable[Any], **options: Unpack[StartOptions]
    ) -> list[Run[Any]]: ...
    async def astart_many(self, function: Any, data: Iterable[Any], **options: Unpack[StartOptions]) -> list[Run[Any]]:
        """The asyncio twin of `start_many`."""
        run_ids, commands = self._many_starts(await self._aconfig(function), function, data, options)
        started = [run for runs in await self.backend.adeliver(commands) for run in runs]
        return [self._handle(function, *ids) for ids in zip(run_ids, started, strict=True)]

    @overload
    def invoke(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> O: ...
    @overload
    def invoke(
        self, function: str, data: Any = None, *, timeout: Duration | None = None, **options: Unpack[RunOptions]
    ) -> Any: ...
    def invoke(
        self, function: Any, data: Any = None, *, timeout: Duration | None = None, **options: Unpack[RunOptions]
    ) -> Any:
        """Start a run and wait for its result. See `start` and `Run.result` for arguments and errors.

        ``timeout`` limits the wait, and the run continues after it. To limit the run, use `start` with its ``timeout``.
        The other options are `RunOptions`.

        Example::

            total = app.invoke("import-images", {"urls": []}, timeout="30s")
        """
        self.backend.refuse_to_block("app.invoke", "await ctx.step.invoke(…) or await app.ainvoke(…)")
        check_keywords("invoke", options, RunOptions)
        return self.start(function, data, **options).result(timeout)

    @overload
    async def ainvoke(
        self,
        function: Function[I, O],
        data: Any = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[RunOptions],
    ) -> O: ...
    @overload
    async def ainvoke(
        self, function: str, data: Any = None, *, timeout: Duration | None = None, **options: Unpack[RunOptions]
    ) -> Any: ...
    async def ainvoke(
        self, function: Any, data: Any = None, *, timeout: Duration | None = None, **options: Unpack[RunOptions]
    ) -> Any:
        """The asyncio twin of `invoke`."""
        check_keywords("ainvoke", options, RunOptions)
        run = await self.astart(function, data, **options)
        return await run.aresult(timeout)

    def _one_start(
        self, config: FunctionConfig, function: Any, data: Any, id: str | None, options: StartOptions
    ) -> tuple[str, Starts]:
        """The id of a run and the command that starts it."""
        config = config.with_options(run_overrides("start", options))
        declared, later = getattr(function, "input", None), self._later("start", options)
        return start_command(self.backend, config, data, id, limits=self.limits, declared=declared, later=later)

    def _many_starts(
        self, config: FunctionConfig, function: Any, data: Iterable[Any], options: StartOptions
    ) -> tuple[list[str], list[Starts]]:
        """The ids of many runs and the commands that start them."""
        config = config.with_options(run_overrides("start_many", options))
        declared, later = getattr(function, "input", None), self._later("start_many", options)
        return start_many_commands(self.backend, config, data, limits=self.limits, declared=declared, later=later)

    def _later(self, call: str, options: StartOptions) -> Later | None:
        return later_time(call, options.get("delay"), options.get("at"), clock=self.backend.partition.clock)

    def _handle(self, function: Any, run_id: str, started: str) -> Run[Any]:
        """The handle of a run. ``started`` is another id if a singleton has attached the caller to a live run."""
        return Run(self.backend, started, getattr(function, "output", None), attached=started != run_id)
