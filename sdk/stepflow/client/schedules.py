"""Schedules: what creates, changes and lists schedules at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepflow.client import schedule_operations as operations
from stepflow.client.backend import Backend
from stepflow.client.function_names import local_config, parse_name, split_name
from stepflow.client.run import Run
from stepflow.client.schedule_info import Schedule, ScheduledRun
from stepflow.client.schedule_request import ScheduleRequest, schedule_name
from stepflow.functions.function import Function
from stepflow.later import When
from stepflow.options.triggers import CatchUp
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_engine.durations import Duration
from stepflow_engine.limits import Limits

__all__ = ["Schedules"]

Listed = list[Schedule]  # within the class, the name `list` is that of its method
Backfilled = list[ScheduledRun]


class Schedules:
    """The schedules that programs create at run time: `Stepflow.schedules`.

    Redis stores them, and workers with the code of their functions start their runs, as for schedules in code: each
    time starts one run. Each method has an asyncio twin with an ``a`` before its name. An id without an app belongs to
    this app; ``"app/id"`` names a schedule of another.

    Example::

        app.schedules.create("report-4", report, cron="0 6 * * *", timezone="Europe/Rome", data={"tenant": 4})
        app.schedules.pause("report-4", reason="the tenant is on holiday")
    """

    def __init__(
        self, app_id: str, functions: Mapping[str, Function[Any, Any]], backend: Backend, limits: Limits
    ) -> None:
        self._app_id = app_id
        self._functions = functions
        self._backend = backend
        self._limits = limits

    def create(
        self,
        id: str,
        function: Function[Any, Any] | str,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        timezone: str | None = None,
        data: Any = None,
        jitter: Duration | None = None,
        window: str | None = None,
        start: When | None = None,
        end: When | None = None,
        catch_up: CatchUp = "latest",
        replace: bool = False,
        reason: str = "",
    ) -> Schedule:
        """Create a schedule. It starts runs for times from now on.

        Args:
            id: the id of the schedule, without ``/``.
            function: a function, an id of this app, or ``"app/function"`` for another app.
            cron: five fields as in `CronTrigger`, perhaps after ``TZ=<zone>``.
            every: instead of ``cron``, the interval between two runs, at least a second. The first run starts at
                ``start``, else one interval from now.
            timezone: the time zone of the fields and of the window; ``None``: UTC.
            data: the data of the runs' events, JSON. It is encrypted if the app encrypts. ``None``: each event has
                ``schedule``, ``zone``, ``time`` and the ``id`` of the schedule.
            jitter, window, catch_up: as in `CronTrigger`.
            start, end: no time is before the first, and none after the second: a datetime with a time zone, ISO 8601
                text with an offset, or seconds since 1970.
            replace: change the schedule if it exists. If it is paused, it stays so.
            reason: is stored with the schedule, and recorded in the audit log.

        Raises:
            ConfigurationError: an argument is invalid, the schedule exists, or no run would ever start.
            FunctionNotFoundError: neither this app nor any worker has registered the function.
            BackendUnavailableError: the server does not answer. With ``replace``, it is safe to repeat the call.

        Example::

            app.schedules.create("sync-4", "sync", every="15m", window="22:00-06:00", jitter="2m", replace=True)
        """
        request = ScheduleRequest(cron, every, timezone, data, jitter, window, start, end, catch_up, reason)
        return run_operation(self._backend.broker, self._create(id, function, request, replaces=replace))

    async def acreate(
        self,
        id: str,
        function: Function[Any, Any] | str,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        timezone: str | None = None,
        data: Any = None,
        jitter: Duration | None = None,
        window: str | None = None,
        start: When | None = None,
        end: When | None = None,
        catch_up: CatchUp = "latest",
        replace: bool = False,
        reason: str = "",
    ) -> Schedule:
        """The asyncio twin of `create`."""
        request = ScheduleRequest(cron, every, timezone, data, jitter, window, start, end, catch_up, reason)
        return await arun_operation(self._backend.abroker, self._create(id, function, request, replaces=replace))

    def list(self, function: Function[Any, Any] | str | None = None) -> Listed:
        """The schedules of this app, by their ids.

        Args:
            function: only those of this function; also those that other apps have created for it.

        Raises:
            BackendUnavailableError: the server does not answer.

        Example::

            print([schedule.id for schedule in app.schedules.list("report")])
        """
        return run_operation(self._backend.broker, self._list(function))

    async def alist(self, function: Function[Any, Any] | str | None = None) -> Listed:
        """The asyncio twin of `list`."""
        return await arun_operation(self._backend.abroker, self._list(function))

    def get(self, id: str) -> Schedule:
        """A schedule as it is now.

        Raises:
            ScheduleNotFoundError: there is none with this id.
            BackendUnavailableError: the server does not answer.

        Example::

            print(app.schedules.get("report-4").next_times)
        """
        return run_operation(self._backend.broker, operations.get(self._backend, self._name(id)))

    async def aget(self, id: str) -> Schedule:
        """The asyncio twin of `get`."""
        return await arun_operation(self._backend.abroker, operations.get(self._backend, self._name(id)))

    def pause(self, id: str, *, reason: str = "") -> bool:
        """Start no more runs of a schedule until it is resumed. Runs that have started go on.

        Times that pass meanwhile start nothing, whatever its ``catch_up``; `backfill` starts them.

        Returns:
            False if it was paused already; the reason is updated.

        Raises:
            ScheduleNotFoundError: there is none with this id.
            BackendUnavailableError: the server does not answer.

        Example::

            app.schedules.pause("report-4", reason="the tenant is on holiday")
        """
        return run_operation(self._backend.broker, operations.pause(self._backend, self._name(id), reason))

    async def apause(self, id: str, *, reason: str = "") -> bool:
        """The asyncio twin of `pause`."""
        return await arun_operation(self._backend.abroker, operations.pause(self._backend, self._name(id), reason))

    def resume(self, id: str) -> bool:
        """Start the runs of a paused schedule again, for times from now on.

        Returns:
            False if it was not paused.

        Raises:
            ScheduleNotFoundError: there is none with this id.
            BackendUnavailableError: the server does not answer.

        Example::

            app.schedules.resume("report-4")
        """
        return run_operation(self._backend.broker, operations.resume(self._backend, self._name(id)))

    async def aresume(self, id: str) -> bool:
        """The asyncio twin of `resume`."""
        return await arun_operation(self._backend.abroker, operations.resume(self._backend, self._name(id)))

    def trigger(self, id: str, *, reason: str = "") -> Run[Any]:
        """Start a run of a schedule now, also if it is paused. Its next times do not change.

        Raises:
            ScheduleNotFoundError: there is none with this id.
            FunctionNotFoundError: no worker has registered its function.
            BackendUnavailableError: the server does not answer.

        Example::

            run = app.schedules.trigger("report-4", reason="the numbers were wrong")
        """
        operation = operations.trigger(self._backend, self._name(id), reason)
        return Run(self._backend, run_operation(self._backend.broker, operation))

    async def atrigger(self, id: str, *, reason: str = "") -> Run[Any]:
        """The asyncio twin of `trigger`."""
        operation = operations.trigger(self._backend, self._name(id), reason)
        return Run(self._backend, await arun_operation(self._backend.abroker, operation))

    def delete(self, id: str, *, reason: str = "") -> bool:
        """Delete a schedule. Runs that it has started go on.

        Returns:
            False if there is none with this id.

        Raises:
            BackendUnavailableError: the server does not answer.

        Example::

            app.schedules.delete("report-4")
        """
        return run_operation(self._backend.broker, operations.delete(self._backend, self._name(id), reason))

    async def adelete(self, id: str, *, reason: str = "") -> bool:
        """The asyncio twin of `delete`."""
        return await arun_operation(self._backend.abroker, operations.delete(self._backend, self._name(id), reason))

    def backfill(
        self, id: str, since: When, until: When | None = None, *, dry_run: bool = False, reason: str = ""
    ) -> Backfilled:
        """Start the runs of past times that have none, each once, at most 1,000. A time whose run is kept starts none.

        Args:
            id: the id of the schedule.
            since: the first time: a datetime with a time zone, ISO 8601 text with an offset, or seconds since 1970.
            until: the last time; ``None``: now.
            dry_run: return what would be started, and start nothing.
            reason: is recorded in the audit log.

        Returns:
            The times without a run, the earliest first, each with its run.

        Raises:
            ScheduleNotFoundError: there is none with this id.
            ConfigurationError: a time is invalid or in the future, or there are more than 1,000 times.
            FunctionNotFoundError: no worker has registered its function.
            BackendUnavailableError: the server does not answer. It is safe to repeat the call.

        Example::

            missed = app.schedules.backfill("report-4", "2026-03-01T00:00:00Z", dry_run=True)
        """
        operation = operations.backfill(self._backend, self._name(id), since, until, dry_run=dry_run, reason=reason)
        return run_operation(self._backend.broker, operation)

    async def abackfill(
        self, id: str, since: When, until: When | None = None, *, dry_run: bool = False, reason: str = ""
    ) -> Backfilled:
        """The asyncio twin of `backfill`."""
        operation = operations.backfill(self._backend, self._name(id), since, until, dry_run=dry_run, reason=reason)
        return await arun_operation(self._backend.abroker, operation)

    # -- arguments ---------------------------------------------------------------

    def _name(self, id: str) -> str:
        return "/".join(schedule_name(id, self._app_id))

    def _create(
        self, id: str, function: Function[Any, Any] | str, request: ScheduleRequest, *, replaces: bool
    ) -> Operation[Schedule]:
        app, own = schedule_name(id, self._app_id)
        request.times()
        config = local_config(function, self._app_id, self._functions)
        if config is None:
            config = yield from operations.read_config(self._backend, "/".join(split_name(function, self._app_id)))
        declared = function if isinstance(function, Function) else self._backend.declared.find(config.app, config.id)
        schedule = request.config(
            app,
            own,
            config,
            declared=getattr(declared, "input", None),
            cipher=self._backend.cipher,
            limits=self._limits,
        )
        return (yield from operations.create(self._backend, schedule, config, replaces=replaces))

    def _list(self, function: Function[Any, Any] | str | None) -> Operation[Listed]:
        if function is None:
            return operations.list_all(self._backend, app=self._app_id)
        return operations.list_all(self._backend, function="/".join(parse_name(function, self._app_id)))
