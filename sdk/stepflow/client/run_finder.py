"""What finds runs and asks, and names a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from stepflow.client.asks import Ask, ask_of, asks_operation
from stepflow.client.commands import (
    check_run_names,
    start_id,
)
from stepflow.client.connected_app import ConnectedApp
from stepflow.client.find import AsyncRunIterator, RunIterator, groups_operation
from stepflow.client.run import Run
from stepflow.functions.function import Function
from stepflow_broker.redis_client.operation import arun_operation, run_operation
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.views.error_groups import ErrorGroup
from stepflow_engine.ids import run_id_by_event
from stepflow_engine.state_machine import RunStatus

__all__ = ["RunFinder"]


class RunFinder(ConnectedApp):
    """Finds runs by filters, by their ids, and by their errors, and what waits for answers."""

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
        batch: Run[Any] | str | None = None,
        error: ErrorGroup | str | None = None,
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
            batch: only the runs of a batch: the run that executes or executed it, or one of them. Runs that were
                cancelled before it started are not of the batch any more.
            error: only runs that have failed with an error of this name (``"TimeoutError"``), with this text in its
                message, or of this group: an `ErrorGroup`, or its id (`RunInfo.error_group`).
            if_: a CEL expression on the run's ``event``, such as ``"event.data.total > 100"``.
            event: only runs that the event with this id has started.
            id: only runs whose id begins with this, at least 4 hex digits; at most 1,000 are compared.
            limit: the largest number of runs; ``None``: all.
            cursor: `RunIterator.next_cursor` of an earlier call with the same filters.

        Raises:
            FilterError: an argument is invalid. While it is iterated: there is no such tag or group of errors.
            FunctionNotFoundError: while it is iterated: there is no such function.
            RunNotFoundError: while it is iterated: the parent or the batch does not exist.
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
            batch=batch,
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
        batch: Run[Any] | str | None = None,
        error: ErrorGroup | str | None = None,
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
            batch=batch,
            error=error,
            if_=if_,
            event=event,
            id=id,
            limit=limit,
            cursor=cursor,
        )

    def asks(
        self, function: Function[Any, Any] | str | None = None, *, to: str | None = None, limit: int = 50
    ) -> list[Ask]:
        """The steps that wait for the answer of a person, the oldest first. `answer` answers one.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app. ``None``: any function of
                this app.
            to: only those for this person or group, as the code has named it.
            limit: the largest number. At most 20,000 of a partition are compared with the filters.

        Raises:
            FilterError: an argument is invalid.
            BackendUnavailableError: the server does not answer.

        Example::

            for ask in app.asks(to="ops"):
                print(ask.run_id, ask.step, ask.since, ask.schema)
        """
        views = run_operation(self.backend.broker, asks_operation(self.backend, self.id, function, to, limit))
        return [ask_of(view) for view in views]

    async def aasks(
        self, function: Function[Any, Any] | str | None = None, *, to: str | None = None, limit: int = 50
    ) -> list[Ask]:
        """The asyncio twin of `asks`."""
        views = await arun_operation(self.backend.abroker, asks_operation(self.backend, self.id, function, to, limit))
        return [ask_of(view) for view in views]

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
