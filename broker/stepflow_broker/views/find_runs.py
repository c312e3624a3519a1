"""Find runs: pages of runs by function, status, tags, time, error, event, parent and id.

A page comes from the smallest index that has all wanted runs. What the index does not decide is read from the runs, at
most `BUDGET` of them for a page. So a page is cheap whatever the number of runs, and may end before it is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command, in_chunks
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.pauses import Pause, read_pauses
from stepflow_broker.transitions.runs.run_index import Place, RunQuery, page_index, parse_cursor
from stepflow_broker.transitions.runs.run_record import parse_run
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_broker.views.filter_names import check_names
from stepflow_broker.views.run_candidates import read_candidates
from stepflow_broker.views.run_comparison import CHUNK, compare_runs
from stepflow_broker.views.run_pauses import limits_of
from stepflow_broker.views.run_view import RunView, view_run
from stepflow_broker.views.wait_view import WaitView, find_waits
from stepflow_engine.cipher import Cipher
from stepflow_engine.encryption_scopes import end_scopes, redacted_failure
from stepflow_engine.state_machine import RunStatus

__all__ = [
    "BUDGET",
    "IdPage",
    "RunPage",
    "cursor_after",
    "find_ids",
    "find_page",
    "read_page",
    "read_views",
]

BUDGET = 20_000
"""How many entries of indexes are read for a page."""
_MOST = 1_000
"""How many entries one script reads."""
_EVENT_BYTES = 64 * 1024 * 1024
"""How many bytes of events are read for a page."""
_ROWS = 500
_RUN_FIELDS = (
    "status",
    "app",
    "function",
    "queue",
    "attempt",
    "created_at",
    "started_at",
    "ended_at",
    "error",
    "last_error",
    "blocked",
    "reason",
    "continuation",
    "delayed_by",
    "due",
    "concurrency",
    "parent",
    "remote_parent",
    "indexed",
    "forked_from",
    "forks",
    "version",
    "undoing",
    "patches",
    "pinned",
    "round",
)


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs.

    Attributes:
        runs: the runs, the newest first.
        next_cursor: where the next page begins; ``""``: there are no more runs.
        compared: how many runs were compared with the filter.
        unreadable: how many of them were left out because this process lacks the key of their event or error.
        is_cut: whether the page ended before it was full, because it would have had to read too many runs.
    """

    runs: list[RunView] = field(default_factory=list)
    next_cursor: str = ""
    compared: int = 0
    is_cut: bool = False
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """The places of the runs of a page; the rest as of `RunPage`."""

    places: list[Place]
    next_place: Place | None
    compared: int
    is_cut: bool = False
    unreadable: int = 0


def read_page(
    partition: Partition, wanted: RunQuery, *, cursor: str = "", limit: int, known: Iterable[str] = ()
) -> Operation[RunPage]:
    """As `find_page`, with what the runs wait for. One more round trip for each 25 runs that wait."""
    page = yield from find_page(partition, wanted, cursor=cursor, limit=limit, known=known)
    waiting = [run.id for run in page.runs if run.status == RunStatus.WAITING]
    waits: dict[str, tuple[WaitView, ...]] = {}
    for part in in_chunks(waiting, 25):
        steps = yield [read_steps(partition, run_id) for run_id in part]
        waits |= {run_id: find_waits(pending) for run_id, pending in zip(part, steps, strict=True)}
    return replace(page, runs=[replace(run, waits=waits.get(run.id, ())) for run in page.runs])


def find_page(
    partition: Partition, wanted: RunQuery, *, cursor: str = "", limit: int, known: Iterable[str] = ()
) -> Operation[RunPage]:
    """A page of runs of all partitions, the newest first. Two round trips if an index decides the filter.

    Args:
        wanted: the filter.
        cursor: the `RunPage.next_cursor` of the page before; ``""``: the first page.
        limit: the largest number of runs.
        known: functions (``app/function``) that exist, though no worker may have registered them.

    Raises:
        FilterError: the cursor is wrong, or a tag or a group of errors does not exist.
        FunctionNotFoundError: a function does not exist.
        RunNotFoundError: the parent or the batch does not exist.
    """
    after = parse_cursor(cursor, wanted.order) if cursor else None
    ids = yield from read_candidates(partition, wanted)
    if ids is not None:
        page = yield from _page_of(partition, wanted, ids, after, limit)
    else:
        found = yield from _walk(partition, wanted, after, limit)
        runs = yield from read_views(partition, [place.run_id for place in found.places])
        runs = [run for run in runs if not wanted.statuses or run.status in wanted.statuses]
        next_cursor = found.next_place.cursor(wanted.order) if found.next_place else ""
        page = RunPage(runs, next_cursor, found.compared, found.is_cut, found.unreadable)
    if not page.runs and not cursor:
        yield from check_names(partition, wanted, known)
    return page


@dataclass(frozen=True, slots=True)
class IdPage:
    """A page of the ids of runs.

    Attributes:
        ids: the ids, those of the newest runs first.
        next_cursor: where the next page begins; ``""``: there are no more runs. A page may be empty before the end.
        unreadable: as `RunPage.unreadable`.
    """

    ids: list[str]
    next_cursor: str
    unreadable: int


def find_ids(
    partition: Partition, wanted: RunQuery, *, cursor: str = "", limit: int, known: Iterable[str] = ()
) -> Operation[IdPage]:
    """As `find_page`, without reading the runs, for filters of indexes: no parent, batch, event id or id prefix."""
    after = parse_cursor(cursor, wanted.order) if cursor else None
    found = yield from _walk(partition, wanted, after, limit)
    if not found.places and not cursor:
        yield from check_names(partition, wanted, known)
    next_cursor = found.next_place.cursor(wanted.order) if found.next_place else ""
    return IdPage([place.run_id for place in found.places], next_cursor, found.unreadable)


def _opened(run: RunView, cipher: Cipher) -> RunView:
    return replace(run, failure=redacted_failure(cipher, run.failure, *end_scopes(run.id, run.name, failed=True)))


def cursor_after(run: RunView, wanted: RunQuery) -> str:
    """The cursor of the page that begins after a run of a list."""
    at_ms = run.ended_at if wanted.order == "ended" else run.created_at
    return Place(at_ms or 0, run.id).cursor(wanted.order)


# -- from the indexes ----------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Source:
    """The index of one partition, while it is read.

    Attributes:
        after: the last entry that was read.
        found: the wanted runs that were read and are not in the page yet, the newest last.
        is_done: whether there are no more entries.
    """

    partition: Partition
    after: Place | None
    found: list[Place] = field(default_factory=list)
    is_done: bool = False

    def may_have_newer(self, place: Place | None) -> bool:
        """Whether a run that was not read yet may be newer than this one."""
        return not self.is_done and not self.found and (place is None or self.after is None or self.after > place)


def _walk(partition: Partition, wanted: RunQuery, after: Place | None, limit: int) -> Operation[_Found]:
    """The next runs of all partitions, merged."""
    sources = [_Source(one, after) for one in partition.all]
    places, read, event_bytes, unreadable = list[Place](), 0, 0, 0
    while len(places) < limit:
        best = max((source for source in sources if source.found), key=lambda one: one.found[-1], default=None)
        behind = [source for source in sources if source.may_have_newer(best.found[-1] if best else None)]
        if behind and (read >= BUDGET or event_bytes > _EVENT_BYTES):
            last = max((one.after for one in behind if one.after), default=None)
            return _Found(places, last, read, is_cut=True, unreadable=unreadable)
        if behind:
            size = min(limit - len(places), CHUNK) if wanted.condition or wanted.error else limit - len(places)
            pages = yield [
                page_index(one.partition, wanted, one.after, limit=size, most=min(_MOST, max(1, BUDGET - read)))
                for one in behind
            ]
            for source, page in zip(behind, pages, strict=True):
                compared = yield from compare_runs(source.partition, wanted, page.found)
                source.found, source.after, source.is_done = compared.matching[::-1], page.last, page.last is None
                read, event_bytes = read + page.read, event_bytes + compared.size_bytes
                unreadable += compared.unreadable
        elif best is None:
            return _Found(places, None, read, unreadable=unreadable)
        else:
            places.append(best.found.pop())
    has_more = any(source.found or not source.is_done for source in sources)
    return _Found(places, places[-1] if has_more else None, read, unreadable=unreadable)


# -- from ids ------------------------------------------------------------------


def _page_of(
    partition: Partition, wanted: RunQuery, ids: Sequence[str], after: Place | None, limit: int
) -> Operation[RunPage]:
    """The page of some runs that were found by their ids."""
    places: dict[Place, RunView] = {}
    for run in (yield from read_views(partition, list(dict.fromkeys(ids)))):
        if _is_wanted(run, wanted):
            at_ms = run.ended_at if wanted.order == "ended" else run.created_at
            places[Place(at_ms or 0, run.id)] = run
    left = [place for place in places if after is None or place < after]
    compared = yield from compare_runs(partition, wanted, left)
    first = sorted(compared.matching, reverse=True)[: limit + 1]
    next_place = first[limit - 1] if len(first) > limit else None
    cursor = next_place.cursor(wanted.order) if next_place else ""
    return RunPage([places[place] for place in first[:limit]], cursor, len(ids), unreadable=compared.unreadable)


def _is_wanted(run: RunView, wanted: RunQuery) -> bool:
    at_ms = (run.ended_at if wanted.order == "ended" else run.created_at) or 0
    return (
        wanted.app in ("", run.app)
        and (not wanted.functions or run.name in wanted.functions)
        and (not wanted.statuses or run.status in wanted.statuses)
        and all(run.tags.get(name) == value for name, value in wanted.tags)
        and wanted.error_group in ("", run.error_group)
        and (wanted.since_ms is None or at_ms >= wanted.since_ms)
        and (wanted.until_ms is None or at_ms < wanted.until_ms)
        and run.id.startswith(wanted.id_prefix)
    )


# -- the runs ------------------------------------------------------------------


def read_views(partition: Partition, ids: Sequence[str]) -> Operation[list[RunView]]:
    """The views of runs, without those that were forgotten meanwhile. One round trip for each 500 runs."""
    found: list[RunView] = []
    for part in in_chunks(ids, _ROWS):
        partitions = list(dict.fromkeys(partition.of(run_id) for run_id in part))
        answers = yield [
            *[read_pauses(one) for one in partitions],
            *[command(replies.raw, "HMGET", partition.run_key("RUN", run_id), *_RUN_FIELDS) for run_id in part],
        ]
        pauses = dict(zip(partitions, answers, strict=False))
        rows = zip(part, answers[len(partitions) :], strict=True)
        views = [_view(run_id, row, pauses[partition.of(run_id)]) for run_id, row in rows]
        found += [_opened(view, partition.cipher) for view in views if view is not None]
    return found


def _view(run_id: str, row: Sequence[bytes | None], pauses: Mapping[str, Pause]) -> RunView | None:
    fields = {name: value for name, value in zip(_RUN_FIELDS, row, strict=True) if value is not None}
    run = parse_run(run_id, {"event": b"null", **fields})
    if run is None:
        return None
    limits = limits_of(fields.get("concurrency", b""))
    return view_run(run, delayed_by=fields.get("delayed_by", b"").decode(), limits=limits, pauses=pauses)
