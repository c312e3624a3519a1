"""What runs many runs again, as a job of the workers, and finds such jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from stepflow.client.bulk import Bulk
from stepflow.client.connected_app import ConnectedApp
from stepflow.client.fork_many import acreate_bulk, bulk_request, create_bulk
from stepflow.client.fork_request import Children, Keys
from stepflow.functions.function import Function
from stepflow_broker.redis_client.operation import arun_operation, run_operation
from stepflow_broker.views.bulk_view import BulkInfo, read_bulk_info, read_bulk_infos
from stepflow_engine.state_machine import RunStatus

__all__ = ["BulkController"]


class BulkController(ConnectedApp):
    """Runs many runs again."""

    def fork_many(
        self,
        function: Function[Any, Any] | str,
        *,
        status: RunStatus | str | Iterable[RunStatus | str] = "failed",
        error: str | None = None,
        if_: str | None = None,
        since: datetime | str | timedelta | None = None,
        until: datetime | str | timedelta | None = None,
        tags: Mapping[str, str | int | bool] | None = None,
        before: str | None = None,
        failed: bool | None = None,
        keys: Keys = "auto",
        children: Children = "adopt",
        per_second: float = 50,
        dry_run: bool = False,
        limit: int | None = None,
        reason: str = "",
    ) -> Bulk:
        """Run the runs of a function that match all filters again, each as a new run. By default: retry the failed.

        This call selects the runs and starts a bulk, which the workers execute: it goes on when this process ends, and
        when a worker dies. Each run is forked once. A run that has a fork already is skipped, so a second bulk with
        the same filters does nothing. The runs that ended first are forked first. The forks pass the flow control of
        the function, and wait in its queue like all new runs. None is made while the queue is long, so other new runs
        keep their latency.

        Selecting reads 1,000 runs in a round trip, and at most 1,000,000. With ``if_``, or the text of an error, it
        reads 50 in a round trip, with their events.

        Args:
            function: a function, an id of this app, or ``"app/function"`` for another app.
            status: ``failed``, ``cancelled``, ``skipped``, and, with ``before`` or ``failed=False``, ``completed``.
            error, if_, since, until, tags: filters, as in `runs`.
            before: run each run again from this step on; see `fork`.
            failed: keep the results of all steps that succeeded, and execute the failed ones again. ``None``: unless
                ``before`` is given. False without ``before``: run them again from the start.
            keys, children: as in `fork`.
            per_second: how many runs are forked in a second on average, from 0.01 to 1,000. A bulk that has fallen
                behind makes up for at most 5 seconds, at 1.5 times the rate.
            dry_run: count the runs and start nothing.
            limit: the largest number of runs, those that ended last.
            reason: is stored with the new runs, and in the audit log.

        Returns:
            The handle of the bulk.

        Raises:
            ForkError: an argument is invalid, or over 1,000,000 runs match.
            FilterError: a filter is invalid, or there is no such tag or group of errors.
            FunctionNotFoundError: neither this app nor any worker has registered the function.
            ConfigurationError: the reason is invalid.
            PermissionDeniedError: the user is a producer: a bulk needs an operator or a worker.
            BackendUnavailableError: the server does not answer. If it was the last call that failed, the bulk may have
                started: `bulks` shows it.

        Example::

            print(app.fork_many("order", error="TimeoutError", since="2d", dry_run=True).matched)
            bulk = app.fork_many("order", error="TimeoutError", since="2d", per_second=20, reason="the bank is open")
            print(bulk.wait().done)
        """
        request = bulk_request(
            self._config(function).name,
            status=status,
            error=error,
            if_=if_,
            since=since,
            until=until,
            tags=tags,
            before=before,
            failed=failed,
            keys=keys,
            children=children,
            per_second=per_second,
            limit=limit,
            reason=reason,
            clock=self.backend.partition.clock,
        )
        return create_bulk(self.backend, request, dry_run=dry_run)

    async def afork_many(
        self,
        function: Function[Any, Any] | str,
        *,
        status: RunStatus | str | Iterable[RunStatus | str] = "failed",
        error: str | None = None,
        if_: str | None = None,
        since: datetime | str | timedelta | None = None,
        until: datetime | str | timedelta | None = None,
        tags: Mapping[str, str | int | bool] | None = None,
        before: str | None = None,
        failed: bool | None = None,
        keys: Keys = "auto",
        children: Children = "adopt",
        per_second: float = 50,
        dry_run: bool = False,
        limit: int | None = None,
        reason: str = "",
    ) -> Bulk:
        """The asyncio twin of `fork_many`."""
        request = bulk_request(
            (await self._aconfig(function)).name,
            status=status,
            error=error,
            if_=if_,
            since=since,
            until=until,
            tags=tags,
            before=before,
            failed=failed,
            keys=keys,
            children=children,
            per_second=per_second,
            limit=limit,
            reason=reason,
            clock=self.backend.partition.clock,
        )
        return await acreate_bulk(self.backend, request, dry_run=dry_run)

    def bulk(self, bulk_id: str) -> Bulk:
        """The handle of a bulk that was started before, by any process.

        Raises:
            BulkNotFoundError: no bulk has this id, or it ended over 7 days ago.
            BackendUnavailableError: the server does not answer.

        Example::

            print(app.bulk(bulk_id).info().state)
        """
        info = run_operation(self.backend.broker, read_bulk_info(self.backend.partition, bulk_id))
        return Bulk(self.backend, info.id, matched=info.matched)

    async def abulk(self, bulk_id: str) -> Bulk:
        """The asyncio twin of `bulk`."""
        info = await arun_operation(self.backend.abroker, read_bulk_info(self.backend.partition, bulk_id))
        return Bulk(self.backend, info.id, matched=info.matched)

    def bulks(self) -> list[BulkInfo]:
        """All bulks on the server, of all apps, the newest first: those that go on, and those of the last 7 days.

        Raises:
            BackendUnavailableError: the server does not answer.

        Example::

            for info in app.bulks():
                print(info.id, info.function, info.state, info.done, "of", info.matched)
        """
        return run_operation(self.backend.broker, read_bulk_infos(self.backend.partition))

    async def abulks(self) -> list[BulkInfo]:
        """The asyncio twin of `bulks`."""
        return await arun_operation(self.backend.abroker, read_bulk_infos(self.backend.partition))
