"""CancelRequest many runs at once, by function, status, time and event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from stepflow.client.backend import Backend
from stepflow.functions.function import Function
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_broker.transitions.bulk_cancel import CancelRequest, RunFilter, cancel_runs, find_live
from stepflow_engine.codec import dumps
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.expression import expression
from stepflow_engine.failure import Failure
from stepflow_engine.limits import check_id
from stepflow_engine.states import RunStatus

__all__ = ["CancelsRuns", "cancelling", "select_runs"]

_LIVE = [status.value for status in RunStatus if not status.ended]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CancelsRuns:
    """The part of an app that ends many runs at once.

    Attributes:
        id: the app's.
        producer: its way to the server.
    """

    id: str
    backend: Backend

    def cancel_many(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        statuses: Iterable[str] = (),
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        if_: str | None = None,
        reason: str = "",
        children: bool = True,
        dry_run: bool = False,
        limit: int | None = None,
    ) -> list[str]:
        """Cancel the live runs that fit, oldest first.

        First all are found, then they are cancelled, many in a round trip: a run that changes its status in between
        is cancelled all the same. Runs that start while this works may be missed. A handler that is executing is not
        interrupted: it runs to its end, and its result is dropped. If the server goes away half-way, what was
        cancelled stays so, and the same call cancels the rest.

        Args:
            function: only runs of it: a function, or the id of one: of this app, or ``"app/function"`` of another;
                ``None``: of any function of this app.
            statuses: only runs that are one of these: ``queued``, ``running``, ``waiting``; empty: any.
            created_before: only runs made before this time, which has a time zone.
            created_after: only runs made at this time or later.
            if_: a CEL expression on ``event``, the run's, that must hold, such as ``"event.data.tenant == 17"``.
            reason: why, for those who wait for the runs; it is the message of their failure.
            children: cancel the children that the runs wait for, and theirs, too, whether they fit or not.
            dry_run: only look: nothing is cancelled.
            limit: at most so many, the oldest.

        Returns:
            The ids of the runs that were cancelled, or would be. A run that ends meanwhile is not among them, and of
            the children only those that fit themselves are.

        Raises:
            ConfigurationError: a status, time, expression, reason, limit or id is wrong; nothing was cancelled.
            BackendUnavailableError: the server does not answer.
        """
        how = None if dry_run else self._cancelling(reason, children)
        selection = select_runs(
            *self._whose(function),
            statuses=statuses,
            created_before=created_before,
            created_after=created_after,
            if_=if_,
            limit=limit,
        )
        return run_operation(self.backend.broker, self._cancel_selected(selection, how))

    async def acancel_many(
        self,
        function: Function[Any, Any] | str | None = None,
        *,
        statuses: Iterable[str] = (),
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        if_: str | None = None,
        reason: str = "",
        children: bool = True,
        dry_run: bool = False,
        limit: int | None = None,
    ) -> list[str]:
        """As `cancel_many`, without blocking the event loop."""
        how = None if dry_run else self._cancelling(reason, children)
        selection = select_runs(
            *self._whose(function),
            statuses=statuses,
            created_before=created_before,
            created_after=created_after,
            if_=if_,
            limit=limit,
        )
        return await arun_operation(self.backend.abroker, self._cancel_selected(selection, how))

    # -- how ---------------------------------------------------------------------

    def _cancelling(self, reason: str, children: bool) -> CancelRequest:
        return cancelling(reason, retention_ms=self.backend.retention_ms, children=children)

    def _whose(self, function: Function[Any, Any] | str | None) -> tuple[str, str | None]:
        match function:
            case None:
                return self.id, None
            case Function():
                return function.app_id, function.id
            case str():
                app, slash, name = function.partition("/")
                return (app, name) if slash else (self.id, function)
            case _:
                raise TypeError(f"a function or its id is needed, not {type(function).__name__}")

    def _cancel_selected(self, selection: RunFilter, how: CancelRequest | None) -> Operation[list[str]]:
        selection = replace(selection, cipher=self.backend.cipher)
        found = yield from find_live(self.backend.keys, selection)
        return found if how is None else (yield from cancel_runs(self.backend.keys, found, how))


def cancelling(reason: str, *, retention_ms: int, children: bool) -> CancelRequest:
    """How runs are cancelled for a reason; ``""``: for none that is known.

    Raises:
        ConfigurationError: the reason is not valid Unicode, or is longer than 10 kB.
    """
    failure = Failure("RunCancelledError", _text(reason or "the run was cancelled", "a reason"))
    return CancelRequest(dumps(failure.to_json()), retention_ms, children)


def select_runs(
    app: str | None,
    function: str | None,
    *,
    statuses: Iterable[str] = (),
    created_before: datetime | None = None,
    created_after: datetime | None = None,
    if_: str | None = None,
    limit: int | None = None,
) -> RunFilter:
    """A selection of live runs; ``None``: any. See `CancelsRuns.cancel_many`.

    Raises:
        ConfigurationError: an argument is not what it must be.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigurationError(f"limit is a number of runs from 1 on, or None for all, not {limit!r}")
    return RunFilter(
        app=_text(app, "an app's id"),
        function=_text(function, "a function's id"),
        statuses=frozenset(_status(one) for one in ([statuses] if isinstance(statuses, str) else statuses)),
        after_ms=0 if created_after is None else _ms(created_after, "created_after"),
        before_ms=None if created_before is None else _ms(created_before, "created_before"),
        condition="" if if_ is None else expression(if_).text,
        limit=limit,
    )


def _text(value: str | None, what: str) -> str:
    try:
        return "" if value is None else check_id(value, what)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _status(value: str) -> RunStatus:
    if value not in _LIVE:
        raise ConfigurationError(
            f"only live runs can be cancelled: a status is one of {', '.join(_LIVE)}, not {value!r}"
        )
    return RunStatus(value)


def _ms(value: datetime, name: str) -> int:
    """The first millisecond that is not before a time."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigurationError(
            f"{name} is a datetime with a time zone, as datetime.now(UTC) - timedelta(hours=2), not {value!r}"
        )
    return -((_EPOCH - value) // timedelta(milliseconds=1))
