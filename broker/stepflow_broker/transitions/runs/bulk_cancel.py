"""Find the live runs that match a filter, oldest first, and cancel them.

Both are operations. Runs are read in pages. Events are read a few at a time, and only those of runs that match the rest
of the filter. So only the list of the found ids grows with the number of runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import Command, command, in_chunks
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation, single
from stepflow_broker.transitions.audit import Action, record_action
from stepflow_broker.transitions.runs.run_control import cancel_run
from stepflow_engine.cipher import Cipher
from stepflow_engine.encryption_scopes import open_event, read_event
from stepflow_engine.expression import ExpressionCostError, expression
from stepflow_engine.state_machine import RunStatus

__all__ = ["CancelRequest", "RunFilter", "cancel_runs", "find_live"]

_Made = tuple[int, str]
"""The creation time of a run in ms, and its id."""

_PAGE = 500
"""How many runs are read in one round trip."""
_CHUNK = 50
"""How many events are in memory at once, and how many runs are cancelled in one round trip."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A filter of live runs.

    Attributes:
        app, function: only runs of these; ``""``: any.
        statuses: only runs with one of these; empty: any.
        after_ms: only runs created at this time or later, in ms since the epoch.
        before_ms: only runs created before this time; ``None``: before now, by the clock of the server.
        condition: a CEL expression on ``event``, the event of the run; ``""``: none.
        limit: the largest number of runs; ``None``: all.
    """

    app: str = ""
    function: str = ""
    statuses: frozenset[RunStatus] = frozenset()
    after_ms: int = 0
    before_ms: int | None = None
    condition: str = ""
    limit: int | None = None

    def names(self, status: RunStatus, app: str, function: str) -> bool:
        """Whether a run with this status and function is live and matches, apart from the condition."""
        if status.ended or (self.statuses and status not in self.statuses):
            return False
        return self.app in ("", app) and self.function in ("", function)

    def holds(self, event: bytes | None, cipher: Cipher) -> bool:
        """Whether the condition holds for the event of a run. ``None``, of a run that was forgotten meanwhile: no.

        A condition that would take too long for the event does not hold.

        Raises:
            DecryptionError: the event cannot be decrypted.
        """
        if event is None:
            return False
        try:
            return expression(self.condition).holds(event=open_event(cipher, read_event(event)))
        except ExpressionCostError:
            return False


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """How to cancel runs; see `cancel_run`."""

    failure: bytes
    retention_ms: int
    children: bool = True


def find_live(partition: Partition, run_filter: RunFilter) -> Operation[list[str]]:
    """Ids of the live runs of all partitions that match, oldest first. Runs created during the search are left out."""
    now_ms = yield from single(server_time_ms(partition.clock))
    last_ms = now_ms if run_filter.before_ms is None else min(now_ms, run_filter.before_ms - 1)
    first, found = dict.fromkeys(partition.all, str(run_filter.after_ms)), list[str]()
    read: dict[Partition, list[_Made]] = {one: [] for one in partition.all}
    while read:
        yield from _read_on(read, first, last_ms)
        for page in in_chunks(_oldest(read), _PAGE):
            for chunk in in_chunks((yield from _named(partition, run_filter, page)), _CHUNK):
                found += (yield from _holding(partition, run_filter, chunk)) if run_filter.condition else chunk
                if run_filter.limit is not None and len(found) >= run_filter.limit:
                    return found[: run_filter.limit]
    return found


def _read_on(read: dict[Partition, list[_Made]], first: dict[Partition, str], last_ms: int) -> Operation[None]:
    """Read the next page of each partition whose runs are used up. Partitions without further runs are removed.

    Args:
        read: the runs of each partition that are read and not used yet, oldest first.
        first: the start of the next page of each partition.
        last_ms: the end of the search.
    """
    empty = [one for one, runs in read.items() if not runs]
    pages = yield from _read_pages({one: first[one] for one in empty}, last_ms)
    for one, page in pages.items():
        if page:
            read[one], first[one] = page, f"({page[-1][0]}"
        else:
            del read[one]


def _read_pages(first: Mapping[Partition, str], last_ms: int) -> Operation[dict[Partition, list[_Made]]]:
    """The next page of live runs of each partition.

    A page contains all runs of its last millisecond. The next page starts after it, whatever has ended meanwhile.
    """
    args = ("WITHSCORES", "LIMIT", 0, _PAGE)
    answers = yield [
        command(_scored, "ZRANGEBYSCORE", one.keys("LIVE"), at, last_ms, *args) for one, at in first.items()
    ]
    pages: dict[Partition, list[_Made]] = dict(zip(first, answers, strict=True))
    cut = {one: page[-1][0] for one, page in pages.items() if len(page) == _PAGE}
    if cut:
        calls = [command(_scored, "ZRANGEBYSCORE", one.keys("LIVE"), ms, ms, "WITHSCORES") for one, ms in cut.items()]
        for (one, ms), together in zip(cut.items(), (yield calls), strict=True):
            pages[one] = [made for made in pages[one] if made[0] < ms] + (together or pages[one][-1:])
    return pages


def _oldest(read: dict[Partition, list[_Made]]) -> list[str]:
    """Remove and return the runs that are older than all runs not read yet, oldest first."""
    until_ms = min((runs[-1][0] for runs in read.values()), default=0)
    taken = sorted(made for runs in read.values() for made in runs if made[0] <= until_ms)
    for one, runs in read.items():
        read[one] = [made for made in runs if made[0] > until_ms]
    return [run_id for _, run_id in taken]


def _named(partition: Partition, run_filter: RunFilter, page: Sequence[str]) -> Operation[list[str]]:
    """The runs of a page whose function and status match."""
    args = ("status", "app", "function")
    names = yield [command(_names, "HMGET", partition.run_key("RUN", run_id), *args) for run_id in page]
    return [run_id for run_id, known in zip(page, names, strict=True) if known and run_filter.names(*known)]


def _holding(partition: Partition, run_filter: RunFilter, run_ids: Sequence[str]) -> Operation[list[str]]:
    """The runs for whose events the condition holds."""
    events = yield [command(replies.raw, "HGET", partition.run_key("RUN", run_id), "event") for run_id in run_ids]
    return [run_id for run_id, event in zip(run_ids, events, strict=True) if run_filter.holds(event, partition.cipher)]


def cancel_runs(
    partition: Partition, run_ids: Sequence[str], request: CancelRequest, *, action: Action | None = None
) -> Operation[list[str]]:
    """Cancel runs in this order. Returns those that this request has ended, also as children of earlier ones.

    Args:
        action: for the audit log, which records it with the first runs.
    """
    cancelled: list[str] = []
    recorded = [] if action is None else [record_action(partition, action)]
    for chunk in in_chunks(run_ids, _CHUNK):
        answers = yield [*recorded, *[_cancel(partition, run_id, request) for run_id in chunk]]
        codes, recorded = answers[len(recorded) :], []
        ended = [run_id for run_id, code in zip(chunk, codes, strict=True) if code is ScriptStatus.ALREADY]
        ours = (yield from _ended_by(partition, ended, request)) if ended else []
        cancelled += [
            run_id for run_id, code in zip(chunk, codes, strict=True) if code is ScriptStatus.DONE or run_id in ours
        ]
    return cancelled


def _cancel(partition: Partition, run_id: str, request: CancelRequest) -> Command[ScriptStatus]:
    return cancel_run(
        partition,
        run_id=run_id,
        failure=request.failure,
        retention_ms=request.retention_ms,
        children=request.children,
    )


def _ended_by(partition: Partition, run_ids: Sequence[str], request: CancelRequest) -> Operation[list[str]]:
    """The runs that this request has ended, or that undo their steps because of it.

    The statuses do not say it: a command that is sent twice finds that its run has ended.
    """
    fields = ("status", "undoing", "error")
    ends = yield [command(tuple, "HMGET", partition.run_key("RUN", run_id), *fields) for run_id in run_ids]
    return [
        run_id
        for run_id, (status, undoing, error) in zip(run_ids, ends, strict=True)
        if RunStatus.CANCELLED.encode() in (status, undoing) and error == request.failure
    ]


def _names(reply: list[bytes | None]) -> tuple[RunStatus, str, str] | None:
    """Status, app and function; ``None`` for a run that was forgotten meanwhile."""
    status, app, function = replies.texts(reply)
    return (RunStatus(status), app, function) if status else None


def _scored(reply: list[bytes]) -> list[_Made]:
    return [(int(score), member) for score, member in replies.scored_members(reply)]
