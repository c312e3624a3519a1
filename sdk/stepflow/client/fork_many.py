"""Fork many runs: what `Stepflow.fork_many` checks, selects and starts. The workers do the rest.

The caller selects the runs: it reads the indexes in pages and stores the ids of each page on the server, so its memory
does not grow with their number. Nothing happens to a run before the last call, which starts the bulk. A caller that
dies before that has started nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from stepflow.client.backend import Backend
from stepflow.client.bulk import Bulk
from stepflow.client.find import run_query
from stepflow.client.fork_request import Children, ForkRequest, Keys
from stepflow_broker.protocol.clock import Clock
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation, single
from stepflow_broker.transitions.runs.bulks import BulkStart, add_bulk_runs, start_bulk
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.views.find_runs import find_ids
from stepflow_engine.codec import dumps, loads
from stepflow_engine.counts import check_count
from stepflow_engine.durations import Duration
from stepflow_engine.errors import CorruptDataError, FilterError, ForkError
from stepflow_engine.state_machine import RunStatus

__all__ = ["BulkRequest", "acreate_bulk", "bulk_request", "create_bulk", "read_request"]

ACTION = "fork_many"
_PAGE = 1_000
_SAMPLE = 10
_MOST = 1_000_000
_SLOWEST, _FASTEST = 0.01, 1_000


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """Many runs to fork; see `Stepflow.fork_many`.

    Attributes:
        function: the function of the runs, as ``app/function``.
        query: which runs.
        fork: how each is forked.
        per_second: how many in a second.
        limit: the largest number of runs.
        id: the id of the bulk.
    """

    function: str
    query: RunQuery
    fork: ForkRequest
    per_second: float
    limit: int | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def start(self, who: str, matched: int) -> BulkStart:
        """The bulk to start.

        Args:
            who: starts it.
            matched: how many runs were selected.
        """
        fork, query = self.fork, self.query
        stored = {"before": fork.before, "failed": fork.failed, "keys": fork.keys, "children": fork.children}
        details = {
            "bulk": self.id,
            "runs": matched,
            "statuses": sorted(query.statuses),
            "tags": dict(query.tags),
            "error": query.error or query.error_group,
            "if": query.condition,
            "since_ms": query.since_ms,
            "until_ms": query.until_ms,
            "before": fork.before,
            "per_second": self.per_second,
            "limit": self.limit,
        }
        return BulkStart(
            id=self.id,
            matched=matched,
            function=self.function,
            request=dumps(stored),
            per_second=self.per_second,
            who=who,
            reason=fork.reason,
            details=dumps({name: value for name, value in details.items() if value}),
        )


def read_request(text: bytes, *, bulk_id: str, reason: str) -> ForkRequest:
    """How each run of a stored bulk is forked.

    Raises:
        CorruptDataError: the text is not that of a request.
    """
    try:
        stored = loads(text)
        before, failed, keys, children = (stored[name] for name in ("before", "failed", "keys", "children"))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"bulk {bulk_id}", error) from None
    return ForkRequest(
        before=before,
        failed=failed,
        keys=keys,
        children=children,
        id=f"bulk-{bulk_id}",
        reason=reason,
        action=ACTION,
        bulk=bulk_id,
    )


def bulk_request(
    function: str,
    *,
    status: RunStatus | str | Iterable[RunStatus | str],
    error: str | None,
    if_: str | None,
    since: datetime | Duration | None,
    until: datetime | Duration | None,
    tags: Mapping[str, str | int | bool] | None,
    before: str | None,
    failed: bool | None,
    keys: Keys,
    children: Children,
    per_second: float,
    limit: int | None,
    reason: str,
    clock: Clock,
) -> BulkRequest:
    """Check the arguments of `Stepflow.fork_many`.

    Args:
        clock: the clock by which ages are resolved.
        function: as ``app/function``.

    Raises:
        ForkError: an argument is invalid, or two contradict each other.
        FilterError: a filter is invalid.
        ConfigurationError: the reason is invalid.
    """
    fork = ForkRequest(
        before=before,
        failed=before is None if failed is None else failed,
        keys=keys,
        children=children,
        reason=reason,
        action=ACTION,
    )
    fork.check()
    app = function.partition("/")[0]
    query = run_query(
        app, (function,), status=status, error=error, if_=if_, since=since, until=until, tags=tags, clock=clock
    )
    allowed = [one for one in RunStatus if one.ended and not (fork.failed and one is RunStatus.COMPLETED)]
    if not query.statuses or not query.statuses <= set(allowed):
        names = ", ".join(allowed)
        rerun = "; pass before=, or failed=False, to run completed runs again" if fork.failed else ""
        raise FilterError("status", f"status must be one or several of {names}, got {status!r}{rerun}")
    is_number = isinstance(per_second, int | float) and not isinstance(per_second, bool)
    if not is_number or not _SLOWEST <= per_second <= _FASTEST:
        raise ForkError(f"{ACTION}: per_second must be a number from {_SLOWEST} to {_FASTEST:,}, got {per_second!r}")
    try:
        if limit is not None:
            check_count(limit, f"{ACTION}: limit", instead=", or None for all runs")
    except ValueError as wrong:
        raise ForkError(str(wrong)) from None
    return BulkRequest(function, query, fork, per_second, limit)


def _check_dry_run(dry_run: object) -> None:
    if not isinstance(dry_run, bool):
        raise ForkError(f"{ACTION}: dry_run must be True or False, got {dry_run!r:.100}")


def create_bulk(backend: Backend, request: BulkRequest, *, dry_run: bool) -> Bulk:
    """Select the runs, and start the bulk unless this is a dry run. See `Stepflow.fork_many`."""
    _check_dry_run(dry_run)
    selection = run_operation(backend.broker, _select(backend, request, dry_run=dry_run))
    if not dry_run:
        _check(backend.deliver([_start(backend, request, selection)])[0])
    return _handle(backend, request, selection, dry_run=dry_run)


async def acreate_bulk(backend: Backend, request: BulkRequest, *, dry_run: bool) -> Bulk:
    """The asyncio twin of `create_bulk`."""
    _check_dry_run(dry_run)
    selection = await arun_operation(backend.abroker, _select(backend, request, dry_run=dry_run))
    if not dry_run:
        _check((await backend.adeliver([_start(backend, request, selection)]))[0])
    return _handle(backend, request, selection, dry_run=dry_run)


@dataclass(slots=True)
class _Selection:
    """The runs of a bulk; see `Bulk` for the attributes."""

    matched: int = 0
    sample: list[str] = field(default_factory=list)
    unreadable: int = 0


def _start(backend: Backend, request: BulkRequest, selection: _Selection) -> Command[ScriptStatus]:
    return start_bulk(backend.partition, request.start(backend.actor, selection.matched))


def _handle(backend: Backend, request: BulkRequest, selection: _Selection, *, dry_run: bool) -> Bulk:
    return Bulk(
        backend,
        "" if dry_run else request.id,
        matched=selection.matched,
        sample=selection.sample,
        dry_run=dry_run,
        unreadable=selection.unreadable,
    )


def _check(status: ScriptStatus) -> None:
    if status is ScriptStatus.NO_RUN:
        raise ForkError(
            f"{ACTION}: the selected runs were lost before the bulk started, so nothing was started: call it again"
        )


def _select(backend: Backend, request: BulkRequest, *, dry_run: bool) -> Operation[_Selection]:
    """Find the runs that match. Unless it is a dry run, their ids are stored for the bulk.

    Raises:
        ForkError: too many runs match.
    """
    selection, cursor, is_first = _Selection(), "", True
    while is_first or (cursor and selection.matched != request.limit):
        size = _PAGE if request.limit is None else min(_PAGE, request.limit - selection.matched)
        page = yield from find_ids(
            backend.partition, request.query, cursor=cursor, limit=size, known=(request.function,)
        )
        if selection.matched + len(page.ids) > _MOST:
            raise ForkError(f"{ACTION}: over {_MOST:,} runs match: pass limit=, or a narrower filter")
        if page.ids and not dry_run:
            yield from single(add_bulk_runs(backend.partition, request.id, selection.matched, page.ids))
        selection.matched += len(page.ids)
        selection.unreadable += page.unreadable
        selection.sample += page.ids[: _SAMPLE - len(selection.sample)]
        cursor, is_first = page.next_cursor, False
    return selection
