"""Cancel many runs at once, selected by function, status, time and event."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from stepflow.client.backend import Backend
from stepflow.client.function_names import parse_name
from stepflow.functions.function import Function
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.audit import Action
from stepflow_broker.transitions.runs.bulk_cancel import CancelRequest, RunFilter, cancel_runs, find_live
from stepflow_engine.codec import dumps
from stepflow_engine.counts import check_count
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.expression import condition
from stepflow_engine.failure import Failure
from stepflow_engine.limits import check_id
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.times import epoch_ms

__all__ = ["cancel_action", "cancel_operation", "cancelling", "select_runs"]

_LIVE = [status.value for status in RunStatus if not status.ended]


def cancel_operation(
    backend: Backend,
    app_id: str,
    function: Function[Any, Any] | str | None,
    *,
    statuses: Iterable[str],
    created_before: datetime | None,
    created_after: datetime | None,
    if_: str | None,
    all: bool,
    reason: str,
    children: bool,
    dry_run: bool,
    limit: int | None,
) -> Operation[list[str]]:
    """The operation of `Client.cancel_many`: find the runs, then cancel them.

    Raises:
        ConfigurationError: an argument is wrong, or neither a filter nor ``all=True`` is given.
    """
    request = None if dry_run else cancelling(reason, retention_ms=backend.retention_ms, children=children)
    statuses = [statuses] if isinstance(statuses, str) else list(statuses)
    app, name = (app_id, None) if function is None else parse_name(function, app_id)
    selection = select_runs(
        app,
        name,
        statuses=statuses,
        created_before=created_before,
        created_after=created_after,
        if_=if_,
        limit=limit,
    )
    filters = (function, statuses or None, created_before, created_after, if_)
    _check_filtered(any(value is not None for value in filters), all)
    return _find_and_cancel(backend, selection, request, reason)


def _check_filtered(filtered: bool, all: bool) -> None:
    """Refuse to cancel every run of an app because a filter was forgotten; ``limit`` alone is not a filter."""
    if filtered and all:
        raise ConfigurationError("cancel_many: all=True cannot be combined with a filter: remove one of them")
    if not filtered and not all:
        raise ConfigurationError(
            "cancel_many: a filter is missing: pass a function, statuses=, created_before=, created_after= or if_=, "
            "or all=True to cancel every live run of the app"
        )


def _find_and_cancel(
    backend: Backend, selection: RunFilter, request: CancelRequest | None, reason: str
) -> Operation[list[str]]:
    run_ids = yield from find_live(backend.partition, selection)
    if request is None:
        return run_ids
    action = cancel_action(backend.actor, selection, len(run_ids), reason)
    return (yield from cancel_runs(backend.partition, run_ids, request, action=action))


def cancel_action(who: str, selection: RunFilter, count: int, reason: str) -> Action:
    """What the audit log has of a cancellation of many runs."""
    subject = f"function {selection.app or '*'}/{selection.function}" if selection.function else "runs"
    details = {
        "runs": count,
        "app": selection.app,
        "statuses": sorted(selection.statuses),
        "after_ms": selection.after_ms,
        "before_ms": selection.before_ms,
        "if": selection.condition,
        "limit": selection.limit,
    }
    return Action(who, "cancel_many", subject, reason, {name: value for name, value in details.items() if value})


def cancelling(reason: str, *, retention_ms: int, children: bool) -> CancelRequest:
    """How to cancel runs.

    Args:
        reason: becomes the message of their failure; ``""``: a standard message.
        retention_ms: how long the cancelled runs are kept, in milliseconds.
        children: whether to cancel the children that they wait for too.

    Raises:
        ConfigurationError: the reason is not valid Unicode, or is longer than 10 kB.
    """
    failure = Failure("RunCancelledError", _text("the run was cancelled" if reason == "" else reason, "reason"))
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
    """A filter of live runs; ``None`` as an app or a function selects any. See `Client.cancel_many`.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    try:
        if limit is not None:
            check_count(limit, "limit", instead=", or None for all runs")
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return RunFilter(
        app=_text(app, "app id"),
        function=_text(function, "function id"),
        statuses=frozenset(_status(one) for one in ([statuses] if isinstance(statuses, str) else statuses)),
        after_ms=0 if created_after is None else _ms(created_after, "created_after"),
        before_ms=None if created_before is None else _ms(created_before, "created_before"),
        condition="" if if_ is None else condition(if_).text,
        limit=limit,
    )


def _text(value: str | None, what: str) -> str:
    try:
        return "" if value is None else check_id(value, what)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _status(value: str) -> RunStatus:
    if value not in _LIVE:
        raise ConfigurationError(f"statuses must be of live runs: {', '.join(_LIVE)}, got {value!r}")
    return RunStatus(value)


def _ms(value: datetime, name: str) -> int:
    """A time in milliseconds since the epoch, rounded up."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigurationError(
            f"{name} must be a datetime with a time zone, got {value!r}: write datetime.now(UTC) - timedelta(hours=2)"
        )
    return epoch_ms(value)
