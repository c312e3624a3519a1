"""Find runs: the filters of `Stepflow.runs`, and the iterators that it returns."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Self

from stepflow.client.backend import Backend
from stepflow.client.function_names import parse_name
from stepflow.client.run import Run
from stepflow.client.run_info import run_info
from stepflow.functions.function import Function
from stepflow_broker.protocol.clock import REAL_CLOCK, Clock
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation
from stepflow_broker.registry.tags import check_tag_name, tag_value
from stepflow_broker.transitions.runs.run_index import RunQuery, parse_cursor
from stepflow_broker.views.error_groups import ErrorGroup, read_error_groups
from stepflow_broker.views.find_runs import RunPage, find_page
from stepflow_engine.counts import check_count
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.error_group import GROUP_LENGTH
from stepflow_engine.errors import ConfigurationError, FilterError
from stepflow_engine.expression import condition
from stepflow_engine.limits import check_id
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.times import epoch_ms

__all__ = ["AsyncRunIterator", "RunIterator", "checked_limit", "groups_operation", "run_query", "time_ms"]

_PAGE = 100
_GROUP = re.compile(rf"[0-9a-f]{{{GROUP_LENGTH}}}")
_PREFIX = re.compile(r"[0-9a-f]{4,40}")


def run_query(
    app: str,
    functions: tuple[str, ...] = (),
    *,
    status: RunStatus | str | Iterable[RunStatus | str] | None = None,
    tags: Mapping[str, str | int | bool] | None = None,
    since: datetime | Duration | None = None,
    until: datetime | Duration | None = None,
    parent: Run[Any] | str | None = None,
    batch: Run[Any] | str | None = None,
    error: ErrorGroup | str | None = None,
    if_: str | None = None,
    event: str | None = None,
    id: str | None = None,
    clock: Clock = REAL_CLOCK,
) -> RunQuery:
    """A filter of runs; see `Stepflow.runs`.

    Args:
        clock: the clock by which ages are resolved.
        app: only runs of this app; ``""``: of any.
        functions: only runs of these functions, as ``app/function``; empty: of any.

    Raises:
        FilterError: an argument is invalid.
    """
    named = {"parent": parent, "batch": batch, "event": event, "id": id}
    passed = [name for name, value in named.items() if value is not None]
    if len(passed) > 1:
        raise FilterError(passed[0], "parent, batch, event and id cannot be combined: pass one of them")
    statuses = _statuses(status)
    error = error.id if isinstance(error, ErrorGroup) else error
    if error is not None:
        if statuses and RunStatus.FAILED not in statuses:
            raise FilterError(
                "error",
                f"error is a filter of failed runs, so status must be failed or left out, got {_names(statuses)}",
            )
        statuses = frozenset({RunStatus.FAILED})
        error = _text(error, "error")
    is_group = error is not None and _GROUP.fullmatch(error) is not None
    since_ms, until_ms = time_ms(since, "since", clock), time_ms(until, "until", clock)
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise FilterError("since", "since must be earlier than until: of two ages, since is the longer one")
    return RunQuery(
        app=app,
        functions=functions,
        statuses=statuses,
        tags=_tags(tags),
        since_ms=since_ms,
        until_ms=until_ms,
        error_group=(error or "") if is_group else "",
        error="" if is_group else error or "",
        condition="" if if_ is None else _condition(if_),
        parent=_run_id(parent, "parent"),
        batch=_run_id(batch, "batch"),
        event_id="" if event is None else _text(event, "event"),
        id_prefix="" if id is None else _prefix(id),
    )


def _text(value: object, parameter: str) -> str:
    try:
        return check_id(value, parameter)
    except ValueError as error:
        raise FilterError(parameter, str(error)) from None


def _run_id(run: Run[Any] | str | None, parameter: str) -> str:
    return "" if run is None else _text(run.id if isinstance(run, Run) else run, parameter)


def _prefix(value: object) -> str:
    prefix = value.lower() if isinstance(value, str) else ""
    if not _PREFIX.fullmatch(prefix):
        raise FilterError("id", f"id must be the beginning of a run id, at least 4 of its hex digits, got {value!r}")
    return prefix


def _statuses(status: RunStatus | str | Iterable[RunStatus | str] | None) -> frozenset[RunStatus]:
    wanted = [] if status is None else [status] if isinstance(status, str) else list(status)
    known = [one.value for one in RunStatus]
    for one in wanted:
        if one not in known:
            raise FilterError("status", f"status must be one or several of {', '.join(known)}, got {one!r}")
    return frozenset(RunStatus(one) for one in wanted)


def _names(statuses: Iterable[RunStatus]) -> str:
    return ", ".join(sorted(statuses))


def _tags(tags: Mapping[str, str | int | bool] | None) -> tuple[tuple[str, str], ...]:
    if tags is None:
        return ()
    if not isinstance(tags, Mapping):
        raise FilterError("tags", f'tags must be a mapping, as in {{"tenant": 17}}, got {type(tags).__name__}')
    try:
        return tuple((check_tag_name(name), tag_value(name, value)) for name, value in tags.items())
    except ValueError as error:
        raise FilterError("tags", str(error)) from None


def _condition(text: str) -> str:
    try:
        return condition(text).text
    except ConfigurationError as error:
        raise FilterError("if_", str(error)) from None


def time_ms(value: datetime | Duration | None, parameter: str, clock: Clock) -> int | None:
    """A time in ms since the epoch, rounded up: a datetime with a zone, or how long ago it is.

    Raises:
        FilterError: it is neither.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise FilterError(parameter, f"{parameter} must have a time zone, got {value!r}: write datetime.now(UTC)")
        return max(0, epoch_ms(value))
    try:
        if not isinstance(value, str | timedelta):
            raise ValueError
        return max(0, clock.now_ms() - duration_ms(value, name=parameter))
    except ValueError:
        text = "a datetime with a time zone, or how long ago it is: '2h', '1d12h' or a timedelta of at most 366 days"
        raise FilterError(parameter, f"{parameter} must be {text}, got {value!r}") from None


def groups_operation(
    backend: Backend,
    app_id: str,
    function: Function[Any, Any] | str | None,
    since: datetime | Duration | None,
    limit: int,
) -> Operation[list[ErrorGroup]]:
    """The read of `Client.error_groups`.

    Raises:
        FilterError: an argument is invalid.
        ConfigurationError: ``function`` is neither a function nor text.
    """
    since_ms = time_ms(since, "since", backend.partition.clock) or 0
    app, name = (app_id, "") if function is None else parse_name(function, app_id)
    names = () if function is None else (f"{_text(app, 'function')}/{_text(name, 'function')}",)
    return read_error_groups(backend.partition, app=app, functions=names, since_ms=since_ms, limit=checked_limit(limit))


def checked_limit(limit: int, *, or_none: str = "") -> int:
    """The limit of a list.

    Args:
        or_none: what ``None`` means, where it is allowed, for the error.

    Raises:
        FilterError: it is out of range.
    """
    try:
        return check_count(limit, "limit", instead=or_none)
    except ValueError as error:
        raise FilterError("limit", str(error)) from None


class _Pages:
    """The state of an iteration over pages of runs.

    Args:
        function: the function to which the runs belong, if there is only one: it says the type of their outputs.
    """

    def __init__(
        self,
        backend: Backend,
        wanted: RunQuery,
        *,
        limit: int | None,
        cursor: str | None,
        known: Iterable[str],
        function: Function[Any, Any] | None,
    ) -> None:
        self._left = None if limit is None else checked_limit(limit, or_none=", or None for all runs")
        if cursor:
            parse_cursor(cursor, wanted.order)
        self._backend = backend
        self._wanted = wanted
        self._cursor = cursor or ""
        self._known = tuple(known)
        self._output = function.output if function is not None else None
        self._runs: deque[Run[Any]] = deque()
        self._has_read = self._is_done = False
        self._is_cut = False
        self._unreadable = 0

    @classmethod
    def of(
        cls,
        backend: Backend,
        app_id: str,
        functions: Mapping[str, Function[Any, Any]],
        function: Function[Any, Any] | str | None,
        *,
        limit: int | None,
        cursor: str | None,
        **filters: Any,
    ) -> Self:
        """The iteration of `Stepflow.runs`.

        Args:
            functions: the functions that this process has declared, by id.

        Raises:
            FilterError: an argument is invalid.
            ConfigurationError: ``function`` is neither a function nor text.
        """
        app, names = app_id, tuple[str, ...]()
        if function is not None:
            app, name = parse_name(function, app_id)
            names = (f"{_text(app, 'function')}/{_text(name, 'function')}",)
            local = functions.get(name) if app == app_id else None
            function = local if isinstance(function, str) else function
        known = {one.name for one in functions.values()} | ({function.name} if function else set())
        query = run_query(app, names, clock=backend.partition.clock, **filters)
        return cls(backend, query, limit=limit, cursor=cursor, known=known, function=function)

    @property
    def next_cursor(self) -> str | None:
        """Where to continue after the runs of this iteration: the ``cursor`` of another call; ``None``: at the end.

        It is known when the iteration has ended.
        """
        return (self._cursor or None) if self._is_done else None

    @property
    def is_cut(self) -> bool:
        """Whether the iteration ended before its limit, because it would have compared too many runs with the filter.

        `next_cursor` continues it.
        """
        return self._is_cut

    @property
    def unreadable(self) -> int:
        """How many runs were left out so far because this process lacks the key of their event or error.

        ``if_`` and the text of an error cannot be compared with them.
        """
        return self._unreadable

    def _next_page(self) -> Operation[RunPage] | None:
        """The read of the next page; ``None``: there is none."""
        if self._is_done or self._left == 0 or (self._has_read and (not self._cursor or self._is_cut)):
            self._is_done = True
            return None
        limit = _PAGE if self._left is None else min(_PAGE, self._left)
        return find_page(self._backend.partition, self._wanted, cursor=self._cursor, limit=limit, known=self._known)

    def _accept(self, page: RunPage) -> None:
        self._has_read, self._cursor = True, page.next_cursor
        self._is_cut = page.is_cut and self._left is not None
        self._unreadable += page.unreadable
        if self._left is not None:
            self._left -= len(page.runs)
        self._runs += [Run(self._backend, view.id, self._output, listed=run_info(view)) for view in page.runs]


class RunIterator(_Pages, Iterator[Run[Any]]):
    """The runs that `Stepflow.runs` has found, the newest first. They are read in pages while it is iterated.

    Example::

        found = app.runs("order", status="failed", limit=50)
        for run in found:
            print(run.id, run.listed.error)
        print(found.next_cursor)
    """

    def __next__(self) -> Run[Any]:
        """The next run."""
        while not self._runs:
            operation = self._next_page()
            if operation is None:
                raise StopIteration
            self._accept(run_operation(self._backend.broker, operation))
        return self._runs.popleft()


class AsyncRunIterator(_Pages, AsyncIterator[Run[Any]]):
    """The asyncio twin of `RunIterator`.

    Example::

        async for run in app.aruns("order", status="failed"):
            print(run.id)
    """

    async def __anext__(self) -> Run[Any]:
        """The next run."""
        while not self._runs:
            operation = self._next_page()
            if operation is None:
                raise StopAsyncIteration
            self._accept(await arun_operation(self._backend.abroker, operation))
        return self._runs.popleft()
