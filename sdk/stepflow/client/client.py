"""The client: sends events, starts runs, and cancels, pauses and resumes them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, overload

from typing_extensions import TypeVar

from stepflow.client.backend import Backend
from stepflow.client.bulk_cancel import cancel_operation
from stepflow.client.commands import (
    as_events,
    check_run_names,
    event_commands,
    start_command,
    start_id,
    start_many_commands,
)
from stepflow.client.find import AsyncRunIterator, RunIterator, groups_operation
from stepflow.client.forks import SAME_DATA, Children, ForkRequest, Keys, acreate_fork, create_fork
from stepflow.client.function_names import DeclaredFunctions, local_config, require_config, split_name
from stepflow.client.pauses import check_one_subject, check_reason, pause_target
from stepflow.client.run import Run
from stepflow.event import Event
from stepflow.functions.function import Function
from stepflow_broker.protocol.command import Command
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_broker.registry.functions import FunctionConfig, read_function
from stepflow_broker.transitions.pauses import Pause, PauseKind, pause_everywhere, read_all_pauses, resume_everywhere
from stepflow_broker.views.error_groups import ErrorGroup
from stepflow_engine.cipher import Cipher
from stepflow_engine.durations import Duration
from stepflow_engine.ids import run_id_by_event
from stepflow_engine.limits import Limits
from stepflow_engine.state_machine import RunStatus

__all__ = ["Client"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output


class Client:
    """What a program does with an app that it does not execute. `Stepflow` is a client that also declares functions.

    Each method has an asyncio twin with an ``a`` before its name. The blocking methods may be called from several
    threads.

    Attributes:
        id: the app's id.
        functions: the functions that this process has declared, by id.
        limits: the limits of the app's runs.
        backend: the connections to the server.
    """

    def __init__(
        self,
        app_id: str,
        redis_url: str | None,
        *,
        retention_ms: int,
        limits: Limits,
        cipher: Cipher,
        replica_timeout_ms: int = 0,
    ) -> None:
        self.id = app_id
        self.functions: dict[str, Function[Any, Any]] = {}
        self.limits = limits
        self.backend = Backend(
            redis_url,
            retention_ms=retention_ms,
            cipher=cipher,
            declared=DeclaredFunctions(app_id, self.functions, limits),
            replica_timeout_ms=replica_timeout_ms,
        )

    # -- events ------------------------------------------------------------------

    @overload
    def send(self, event: str, data: Any = None, *, id: str | None = None) -> str: ...
    @overload
    def send(self, event: Event[Any], /) -> str: ...
    @overload
    def send(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    def send(self, event: str | Event[Any] | Sequence[Event[Any]], data: Any = None, *, id: str | None = None) -> Any:
        """Send an event, or several in one round trip. Each function with a matching trigger gets a run.

        When the call returns, Redis has the event. A worker routes it later, even if this process crashes.

        Args:
            event: the name of the event, an `Event`, or a list of at most 5,000 events.
            data: the data of the event; JSON.
            id: identifies the event. A second event with the same id within 24 hours starts nothing. ``None``: stepflow
                generates an id. An empty id is refused, because it usually comes from a missing header or field.

        Returns:
            The id of the event, or the list of ids.

        Raises:
            EventError: an event is not JSON or over a limit, or an id is invalid; no event of the list is sent.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.
            ReplicationError: with ``durability="replicated"``, no replica has confirmed the event in time. With an
                ``id``, it is safe to repeat the call.

        Example::

            app.send("shop/order.placed", {"order": 17}, id="order-17")
        """
        events, single = as_events(event, data, id, limits=self.limits)
        ids, commands = event_commands(self.backend, events, limits=self.limits)
        self.backend.deliver(commands)
        return ids[0] if single else ids

    @overload
    async def asend(self, event: str, data: Any = None, *, id: str | None = None) -> str: ...
    @overload
    async def asend(self, event: Event[Any], /) -> str: ...
    @overload
    async def asend(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    async def asend(
        self, event: str | Event[Any] | Sequence[Event[Any]], data: Any = None, *, id: str | None = None
    ) -> Any:
        """The asyncio twin of `send`."""
        events, single = as_events(event, data, id, limits=self.limits)
        ids, commands = event_commands(self.backend, events, limits=self.limits)
        await self.backend.adeliver(commands)
        return ids[0] if single else ids

    # -- runs --------------------------------------------------------------------

    @overload
    def start(self, function: Function[I, O], data: Any = None, *, id: str | None = None) -> Run[O]: ...
    @overload
    def start(self, function: str, data: Any = None, *, id: str | None = None) -> Run[Any]: ...
    def start(self, function: Any, data: Any = None, *, id: str | None = None) -> Run[Any]:
        """Start a run of a function and return its handle without waiting.

        When the call returns, Redis has the run. A worker executes it, even if this process crashes.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            data: the input; JSON.
            id: makes the call repeatable. Within 24 hours, the same id returns the same run and starts no other.
                ``None``: each call starts a run. An empty id is refused, as in `send`.

        Raises:
            FunctionNotFoundError: neither this app nor any worker has registered the id.
            EventError: the data is not JSON or over the limit, or the id is invalid.
            ConfigurationError: ``function`` is neither a function nor text.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.
            ReplicationError: with ``durability="replicated"``, no replica has confirmed the run in time. With an
                ``id``, it is safe to repeat the call.

        Example::

            run = app.start(main, {"urls": []}, id="import-17")
            print(run.result(timeout="30s"))
        """
        config, declared = self._config(function), getattr(function, "input", None)
        run_id, command = start_command(self.backend, config, data, id, limits=self.limits, declared=declared)
        self.backend.deliver([command])
        return Run(self.backend, run_id, getattr(function, "output", None))

    @overload
    async def astart(self, function: Function[I, O], data: Any = None, *, id: str | None = None) -> Run[O]: ...
    @overload
    async def astart(self, function: str, data: Any = None, *, id: str | None = None) -> Run[Any]: ...
    async def astart(self, function: Any, data: Any = None, *, id: str | None = None) -> Run[Any]:
        """The asyncio twin of `start`."""
        config, declared = await self._aconfig(function), getattr(function, "input", None)
        run_id, command = start_command(self.backend, config, data, id, limits=self.limits, declared=declared)
        await self.backend.adeliver([command])
        return Run(self.backend, run_id, getattr(function, "output", None))

    @overload
    def start_many(self, function: Function[I, O], data: Iterable[Any]) -> list[Run[O]]: ...
    @overload
    def start_many(self, function: str, data: Iterable[Any]) -> list[Run[Any]]: ...
    def start_many(self, function: Any, data: Iterable[Any]) -> list[Run[Any]]:
        """Start a run for each item of ``data``, all in one round trip. See `start`.

        If the call raises `BackendUnavailableError`, some of the runs may have started.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            data: the inputs, at most 5,000; JSON.

        Returns:
            The handles, in the order of ``data``.

        Raises:
            EventError: an item is not JSON or over the limit, or there are too many; no run is started.

        Example::

            runs = app.start_many("resize", [{"image": n} for n in range(100)])
            sizes = [run.result(timeout="1m") for run in runs]
        """
        config, declared = self._config(function), getattr(function, "input", None)
        run_ids, commands = start_many_commands(self.backend, config, data, limits=self.limits, declared=declared)
        self.backend.deliver(commands)
        return [Run(self.backend, run_id, getattr(function, "output", None)) for run_id in run_ids]

    @overload
    async def astart_many(self, function: Function[I, O], data: Iterable[Any]) -> list[Run[O]]: ...
    @overload
    async def astart_many(self, function: str, data: Iterable[Any]) -> list[Run[Any]]: ...
    async def astart_many(self, function: Any, data: Iterable[Any]) -> list[Run[Any]]:
        """The asyncio twin of `start_many`."""
        config, declared = await self._aconfig(function), getattr(function, "input", None)
        run_ids, commands = start_many_commands(self.backend, config, data, limits=self.limits, declared=declared)
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

    def run(
        self,
        run_id: str | None = None,
        *,
        function: Function[Any, Any] | str | None = None,
        id: str | None = None,
        event: str | None = None,
    ) -> Run[Any]:
        """A handle of an existing run. Whether the run exists is not checked until the handle is used.

        Args:
            run_id: the id of the run; or, instead of it, a function, and one of the next two.
            function: a function, an id of this app, or ``"app/function"`` for another app.
            id: the ``id`` with which `start` has started the run.
            event: the id of the event that has started the run.

        Raises:
            ConfigurationError: it takes either ``run_id``, or ``function`` with ``id`` or ``event``.
            FunctionNotFoundError: neither this app nor any worker has registered the function.
            BackendUnavailableError: the server does not answer; it is asked only for a function of which this process
                does not have the code.

        Example::

            print(app.run(run_id).status())
            print(app.run(function="import-images", id="import-17").status())
            print(app.run(function="ship", event="order-17").status())
        """
        check_run_names(run_id, function, id, event)
        if run_id is not None:
            return Run(self.backend, run_id)
        return self._run_of(function, self._config(function), id, event)

    async def arun(
        self,
        run_id: str | None = None,
        *,
        function: Function[Any, Any] | str | None = None,
        id: str | None = None,
        event: str | None = None,
    ) -> Run[Any]:
        """The asyncio twin of `run`, for a function of which this process does not have the code."""
        check_run_names(run_id, function, id, event)
        if run_id is not None:
            return Run(self.backend, run_id)
        return self._run_of(function, await self._aconfig(function), id, event)

    def _run_of(self, function: Any, config: FunctionConfig, id: str | None, event: str | None) -> Run[Any]:
        run_id = (
            start_id(config, id)
            if id is not None
            else run_id_by_event(event or "", config.name, config.pinned_partition)
        )
        return Run(self.backend, run_id, getattr(function, "output", None))

    def runs(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        tags: Mapping[str, str | int | bool] | None = None,
        since: datetime | str | timedelta | None = None,
        until: datetime | str | timedelta | None = None,
        parent: Run[Any] | str | None = None,
        error: str | None = None,
        if_: str | None = None,
        event: str | None = None,
        id: str | None = None,
        limit: int | None = 50,
        cursor: str | None = None,
    ) -> RunIterator:
        """Find runs that match all filters, the newest first.

        The order is that of their creation. If only runs that have ended are wanted (``status``, ``error``) and no
        tags, it is that of their end. ``since`` and ``until`` refer to the same time as the order. A page of 50 takes
        two round trips. ``if_`` and the text of an error are compared with at most 20,000 runs for a page; then the
        iteration ends early, and `RunIterator.next_cursor` continues it.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app. ``None``: any function of
                this app.
            status: one or several of ``queued``, ``running``, ``waiting``, ``completed``, ``failed``, ``cancelled``,
                ``skipped``; ``None``: any.
            tags: names and values of tags that the runs must have.
            since: from this time on: a datetime with a time zone, or how long ago, such as ``"2h"`` or a timedelta.
            until: before this time.
            parent: only runs that this run has invoked.
            error: only runs that have failed with an error of this name (``"TimeoutError"``), with this text in its
                message, or of this group (`RunInfo.error_group`).
            if_: a CEL expression on the run's ``event``, such as ``"event.data.total > 100"``.
            event: only runs that the event with this id has started.
            id: only runs whose id begins with this, at least 4 hex digits; at most 1,000 are compared.
            limit: the largest number of runs; ``None``: all.
            cursor: `RunIterator.next_cursor` of an earlier call with the same filters.

        Raises:
            FilterError: an argument is invalid. While it is iterated: there is no such tag or group of errors.
            FunctionNotFoundError: while it is iterated: there is no such function.
            RunNotFoundError: while it is iterated: the parent does not exist.
            BackendUnavailableError: while it is iterated: the server does not answer.

        Example::

            for run in app.runs("order", status="failed", tags={"tenant": 17}, since="2d"):
                print(run.id, run.listed.error)
        """
        return RunIterator.of(
            self.backend,
            self.id,
            self.functions,
            function,
            status=status,
            tags=tags,
            since=since,
            until=until,
            parent=parent,
            error=error,
            if_=if_,
            event=event,
            id=id,
            limit=limit,
            cursor=cursor,
        )

    def aruns(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        tags: Mapping[str, str | int | bool] | None = None,
        since: datetime | str | timedelta | None = None,
        until: datetime | str | timedelta | None = None,
        parent: Run[Any] | str | None = None,
        error: str | None = None,
        if_: str | None = None,
        event: str | None = None,
        id: str | None = None,
        limit: int | None = 50,
        cursor: str | None = None,
    ) -> AsyncRunIterator:
        """The asyncio twin of `runs`: ``async for run in app.aruns(…)``."""
        return AsyncRunIterator.of(
            self.backend,
            self.id,
            self.functions,
            function,
            status=status,
            tags=tags,
            since=since,
            until=until,
            parent=parent,
            error=error,
            if_=if_,
            event=event,
            id=id,
            limit=limit,
            cursor=cursor,
        )

    def error_groups(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        since: datetime | str | timedelta | None = None,
        limit: int = 50,
    ) -> list[ErrorGroup]:
        """The errors with which runs of the app have failed, those that are alike as one group, the latest first.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app. ``None``: any function of
                this app.
            since: only groups with a failure from this time on: a datetime with a time zone, or how long ago.
            limit: the largest number of groups. At most 1,000 are kept, each for 30 days after its last failure.

        Raises:
            FilterError: an argument is invalid.
            BackendUnavailableError: the server does not answer.

        Example::

            for group in app.error_groups(since="1d"):
                print(group.count, group.function, group.step, group.name, group.message)
        """
        return run_operation(self.backend.broker, groups_operation(self.backend, self.id, function, since, limit))

    async def aerror_groups(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        since: datetime | str | timedelta | None = None,
        limit: int = 50,
    ) -> list[ErrorGroup]:
        """The asyncio twin of `error_groups`."""
        operation = groups_operation(self.backend, self.id, function, since, limit)
        return await arun_operation(self.backend.abroker, operation)

    # -- cancelling --------------------------------------------------------------

    def fork(
        self,
        run: Run[O] | str,
        *,
        before: str | None = None,
        failed: bool = False,
        data: Any = SAME_DATA,
        results: Mapping[str, Any] | None = None,
        keys: Keys = "auto",
        children: Children = "adopt",
        id: str | None = None,
        reason: str = "",
    ) -> Run[O]:
        """Run again, from a step on, as a new run. The earlier run is not changed.

        The new run has the stored results of the earlier run up to a point, so these steps are not executed again. It
        passes the flow control of its function as any new run does, with the settings that the function has now; only
        its ``idempotency`` does not count. `Run.retry` and `Run.rerun` are the two most common forks.

        Args:
            run: the run, or its id. It must have ended, unless ``before`` is given.
            before: the id of a step. The fork has the results that were stored before that of the step, and executes
                the step and what follows. ``"charge#2"`` is the second step with the id ``charge``.
            failed: keep the results of all steps that succeeded, and execute the failed ones again.
            data: other input data; by default the event of the run as it is.
            results: results by step id, in place of stored ones, or of steps that are not to be executed.
            keys: the idempotency keys of the steps. ``"keep"``: those of the earlier run, so another system sees a step
                that is executed again as the same request. ``"new"``: others. ``"auto"``: keep with ``failed``, new
                otherwise.
            children: ``"adopt"``: an ``invoke`` whose result is kept is not invoked again. ``"again"``: it is.
            id: makes the call repeatable, as in `start`.
            reason: is stored with the new run.

        Returns:
            The handle of the new run.

        Raises:
            ForkError: the run has no such step, has not ended, or an argument is invalid.
            RunNotFoundError: no run has this id, or its retention is over.
            EventError: the data is not JSON, over the limit, or not what the function takes; or the id is invalid.
            StepOutputError: a result is not JSON, or is over the limit.
            DecryptionError: a stored result is encrypted, and this process does not have the key.
            BackendUnavailableError: the server does not answer. With an ``id``, it is safe to repeat the call.

        Example::

            app.fork(run, before="charge", results={"price": 12}, reason="the price was wrong")
        """
        request = ForkRequest(before, failed, data, results or {}, keys, children, id, reason)
        fork = create_fork(self.backend, run if isinstance(run, str) else run.id, request)
        return Run(self.backend, fork.run_id, fork.output)

    async def afork(
        self,
        run: Run[O] | str,
        *,
        before: str | None = None,
        failed: bool = False,
        data: Any = SAME_DATA,
        results: Mapping[str, Any] | None = None,
        keys: Keys = "auto",
        children: Children = "adopt",
        id: str | None = None,
        reason: str = "",
    ) -> Run[O]:
        """The asyncio twin of `fork`."""
        request = ForkRequest(before, failed, data, results or {}, keys, children, id, reason)
        fork = await acreate_fork(self.backend, run if isinstance(run, str) else run.id, request)
        return Run(self.backend, fork.run_id, fork.output)

    def cancel_many(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        statuses: Iterable[str] = (),
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        if_: str | None = None,
        all: bool = False,
        reason: str = "",
        children: bool = True,
        dry_run: bool = False,
        limit: int | None = None,
    ) -> list[str]:
        """Cancel the live runs that match all filters, oldest first. At least one filter or ``all=True`` is required.

        The call first finds all matching runs, then cancels them, many in a round trip. A run that changes its status
        in between is still cancelled. Runs that start during the call may be missed. A step handler that is executing
        is not interrupted; its result is discarded. If the server becomes unavailable half-way, the runs cancelled
        so far stay cancelled, and the same call cancels the rest.

        Args:
            function: filter: a function, an id of this app, or ``"app/function"`` for another app. ``None``: any
                function of this app.
            statuses: filter: ``queued``, ``running``, ``waiting``; empty: any.
            created_before: filter: only runs created before this time; with a time zone.
            created_after: filter: only runs created at this time or later; with a time zone.
            if_: filter: a CEL expression on the run's ``event``, such as ``"event.data.tenant == 17"``.
            all: cancel every live run of the app; cannot be combined with a filter.
            reason: becomes the message of the runs' failure.
            children: also cancel the children that the runs wait for, whether they match or not.
            dry_run: return the matching runs and cancel nothing.
            limit: the largest number of runs, the oldest first; not a filter.

        Returns:
            The ids of the runs that were cancelled, or would be. Runs that ended during the call, and children that
            do not match themselves, are not included.

        Raises:
            ConfigurationError: an argument is invalid, or no filter is given; nothing is cancelled.
            BackendUnavailableError: the server does not answer.

        Example::

            app.cancel_many("order", if_="event.data.tenant == 17", dry_run=True)
            app.cancel_many(all=True, reason="the shop is closed")
        """
        operation = cancel_operation(
            self.backend,
            self.id,
            function,
            statuses=statuses,
            created_before=created_before,
            created_after=created_after,
            if_=if_,
            all=all,
            reason=reason,
            children=children,
            dry_run=dry_run,
            limit=limit,
        )
        return run_operation(self.backend.broker, operation)

    async def acancel_many(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        statuses: Iterable[str] = (),
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        if_: str | None = None,
        all: bool = False,
        reason: str = "",
        children: bool = True,
        dry_run: bool = False,
        limit: int | None = None,
    ) -> list[str]:
        """The asyncio twin of `cancel_many`."""
        operation = cancel_operation(
            self.backend,
            self.id,
            function,
            statuses=statuses,
            created_before=created_before,
            created_after=created_after,
            if_=if_,
            all=all,
            reason=reason,
            children=children,
            dry_run=dry_run,
            limit=limit,
        )
        return await arun_operation(self.backend.abroker, operation)

    # -- pausing -----------------------------------------------------------------

    def pause(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        queue: str | None = None,
        key: str | None = None,
        reason: str = "",
    ) -> bool:
        """Stop executing a function, a queue or a concurrency key until `resume`. Takes exactly one of the three.

        Queued work is kept: events still start runs of a paused function, and these runs wait. A step that is
        executing finishes, and its result is stored. An invoke of a paused function raises `InvokeSkippedError`. A
        paused function's schedule starts no runs. The pause is stored in Redis and survives restarts.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            queue: the name of a queue.
            key: a value of a `Concurrency` key as `Run.explain` shows it: ``"shop/sync:event.data.shop=17"``.
            reason: shown by `pauses` and `Run.explain`.

        Returns:
            False if it was already paused; the reason is updated.

        Raises:
            ConfigurationError: none or several of function, queue and key are given, or one of them is invalid.
            FunctionNotFoundError: no worker has registered the function.
            BackendUnavailableError: the server or a cluster node does not answer. Partitions on that node are not
                paused; repeat the call to complete the pause.

        Example::

            app.pause("sync", reason="the API is down")
            app.pause(key="shop/sync:event.data.shop=17")
        """
        check_one_subject("pause", function, queue, key)
        kind, name = self._pause_target(function, queue, key)
        reason = check_reason(reason)
        return run_operation(self.backend.broker, self._pause(kind, name, reason))

    async def apause(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        queue: str | None = None,
        key: str | None = None,
        reason: str = "",
    ) -> bool:
        """The asyncio twin of `pause`."""
        check_one_subject("apause", function, queue, key)
        kind, name = await self._apause_target(function, queue, key)
        operation = self._pause(kind, name, check_reason(reason))
        return await arun_operation(self.backend.abroker, operation)

    def resume(
        self, function: Function[Any, Any] | str | None = None, *, queue: str | None = None, key: str | None = None
    ) -> bool:
        """Resume what `pause` has paused; waiting runs continue in their order. False if it was not paused.

        See `pause` for arguments and errors.

        Example::

            app.resume("sync")
        """
        check_one_subject("resume", function, queue, key)
        kind, name = self._pause_target(function, queue, key)
        return run_operation(self.backend.broker, self._resume(kind, name))

    async def aresume(
        self, function: Function[Any, Any] | str | None = None, *, queue: str | None = None, key: str | None = None
    ) -> bool:
        """The asyncio twin of `resume`."""
        check_one_subject("aresume", function, queue, key)
        kind, name = await self._apause_target(function, queue, key)
        return await arun_operation(self.backend.abroker, self._resume(kind, name))

    def pauses(self) -> list[Pause]:
        """All pauses on the server, of all apps, oldest first.

        Raises:
            BackendUnavailableError: the server or a cluster node does not answer.

        Example::

            for pause in app.pauses():
                print(pause.kind, pause.name, pause.reason)
        """
        return run_operation(self.backend.broker, read_all_pauses(self.backend.partition))

    async def apauses(self) -> list[Pause]:
        """The asyncio twin of `pauses`."""
        return await arun_operation(self.backend.abroker, read_all_pauses(self.backend.partition))

    def _pause(self, kind: PauseKind, name: str, reason: str) -> Operation[bool]:
        return pause_everywhere(self.backend.partition, kind, name, reason=reason, who=self.backend.actor)

    def _resume(self, kind: PauseKind, name: str) -> Operation[bool]:
        return resume_everywhere(self.backend.partition, kind, name, who=self.backend.actor)

    def _pause_target(
        self, function: Function[Any, Any] | str | None, queue: str | None, key: str | None
    ) -> tuple[PauseKind, str]:
        return pause_target(self._config(function) if function is not None else None, queue, key)

    async def _apause_target(
        self, function: Function[Any, Any] | str | None, queue: str | None, key: str | None
    ) -> tuple[PauseKind, str]:
        return pause_target(await self._aconfig(function) if function is not None else None, queue, key)

    # -- closing -----------------------------------------------------------------

    def close(self) -> None:
        """Close the connections of this process, and those of event loops that have ended.

        An app needs no closing at the end of a program. A later call opens new connections, so a call of another thread
        is not disturbed.

        Example::

            app.send("shop/order.placed", {"order": 17})
            app.close()
        """
        self.backend.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and those that `close` closes.

        The end of `asyncio.run` closes those of its event loop by itself.

        Example::

            await app.asend("shop/order.placed", {"order": 17})
            await app.aclose()
        """
        await self.backend.aclose()

    @contextlib.asynccontextmanager
    async def lifespan(self, server: object = None) -> AsyncIterator[None]:
        """Close the connections at the end of a block, or of an ASGI application.

        Args:
            server: the application that an ASGI framework passes; not used.

        Example::

            api = FastAPI(lifespan=app.lifespan)
        """
        del server
        try:
            yield
        finally:
            await self.aclose()

    # -- the registry ------------------------------------------------------------

    def _config(self, function: Any) -> FunctionConfig:
        """The settings of a function: declared in this process, else read from the registry."""
        known = local_config(function, self.id, self.functions)
        return known or require_config(function, self.backend.broker.execute_any(self._read_config(function)))

    async def _aconfig(self, function: Any) -> FunctionConfig:
        known = local_config(function, self.id, self.functions)
        return known or require_config(function, await self.backend.abroker.execute_any(self._read_config(function)))

    def _read_config(self, function: str) -> list[Command[FunctionConfig | None]]:
        """Read a function in any partition: each has all functions."""
        names = split_name(function, self.id)
        return [read_function(one.keys, *names) for one in self.backend.partition.all]
