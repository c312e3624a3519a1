"""The findings of the doctor: the table of all codes, and one finding.

Docs and tests follow from `CHECKS`, `RULES` and `PLACES`: they generate the tables of the reference, and a test plants a
defect for each code and place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_engine.product import NAME

__all__ = ["CHECKS", "PLACES", "RULES", "Check", "Finding", "Findings", "Place", "Rule", "Severity"]

_MAX_OF_A_KIND = 100


class Severity(StrEnum):
    """How bad a finding is. ``OK``: the check passed."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check of the server, or one problem of the data.

    Attributes:
        code: what kind of finding it is: of `CHECKS` or `RULES`.
        severity: how bad it is.
        subject: what it is about: a run, a job, a key, a server.
        text: a sentence without its full stop.
        where: the kind of key that is wrong, of `PLACES`; ``""``: the code says it.
        repair: what ``--repair`` does; ``""``: nothing.
        repaired: whether it was repaired.
        count: how many problems it stands for.
    """

    code: str
    severity: Severity
    subject: str
    text: str
    where: str = ""
    repair: str = ""
    repaired: bool = False
    count: int = 1

    @property
    def is_open(self) -> bool:
        """Whether it is an error that was not repaired."""
        return self.severity is Severity.ERROR and not self.repaired

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the server.

    Attributes:
        error, warning: when it is one.
        in_cluster: whether it is made on a cluster only.
    """

    error: str = ""
    warning: str = ""
    in_cluster: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A problem of the data.

    Attributes:
        severity: an error means that a run may not continue, or that data stays forever. A warning means neither.
        text: the sentence, with ``{subject}`` and ``{detail}``; ``{entry}`` and ``{loss}`` come from the place.
        repair: what ``--repair`` does; ``""``: nothing.
        where: the places at which it occurs; empty: it has none.
        warnings: the places at which it is a warning.
    """

    severity: Severity
    text: str
    repair: str = ""
    where: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """All places at which it occurs; ``""`` if it has none."""
        return self.where + self.warnings or ("",)

    def severity_at(self, where: str) -> Severity:
        """How bad it is at a place."""
        return Severity.WARNING if where in self.warnings else self.severity


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of entry that the doctor compares: a member of an index, or a key.

    Attributes:
        entry: the entry, with ``{subject}`` and ``{detail}``.
        loss: what happens while it is missing.
        left: what of it is not repaired.
    """

    entry: str
    loss: str = ""
    left: str = ""


def _error(text: str, repair: str = "", *, where: str = "", warnings: str = "") -> Rule:
    return Rule(Severity.ERROR, text, repair, tuple(where.split()), tuple(warnings.split()))


def _warning(text: str, repair: str = "") -> Rule:
    return Rule(Severity.WARNING, text, repair)


# ruff: noqa: E501
# fmt: off
CHECKS: dict[str, Check] = {
    "cluster": Check("slots belong to no primary, or to a lost one; a primary does not answer", in_cluster=True),
    "partitions": Check(warning="the partitions are spread unevenly over the primaries", in_cluster=True),
    "version": Check("the server is older than Redis 6.2, or is a node of a cluster while the URL does not start with `redis+cluster://`"),
    "eviction": Check("the server evicts keys when its memory is full"),
    "persistence": Check("the last write to disk failed, or the server is still loading", "the append-only file is off, or `appendfsync` is `no`"),
    "replicas": Check("the URL names a replica", "writes continue without replicas (`min-replicas-to-write 0`), a replica is offline or over 30 s behind, or a primary of a cluster has none"),
    "coverage": Check(warning="all primaries stop when one is lost (`cluster-require-full-coverage yes`)", in_cluster=True),
    "memory": Check("95 % of `maxmemory` is used, or of the memory of the machine if `maxmemory` is not set", "80 % is used"),
    "clock": Check("the clock of the server is behind times that it has stored", "it differs by over 5 s from the clock of this machine"),
    "scripts": Check("the server refuses a script"),
    "rights": Check("the user may not use a command, a kind of key or a channel that workers use. Each is tried on keys that the same script deletes again"),
}
"""The checks of the server, by code."""

PLACES: dict[str, Place] = {
    # jobs
    "rq_queue": Place("the entry of job {subject} in queue {detail}", "no worker can claim it"),
    "leases": Place("the lease of job {subject}", "no worker would reclaim the job"),
    "timeouts": Place("the timer {subject}", "it is not set, or to another time than the run says", "a start deadline"),
    "wait_list": Place("the entry of job {subject} in wait list {detail}", "it would never get a concurrency slot"),
    "concurrency_slots": Place("the concurrency slot of job {subject} of {detail}"),
    # waits
    "timeout": Place("the timeout key of wait {subject}", "the wait could not end by its time"),
    "waits": Place("the entry of {subject} in the index of waits", "the event would not reach it"),
    "items": Place("the results of the items of map {subject}"),
    "asks": Place("the entry of {subject} in the index of asks", "nobody would see that it waits for an answer"),
    "finished": Place("the finished event {subject}"),
    # runs
    "live": Place("the entry of run {subject} in the index of live runs", "lists and bulk commands would leave it out"),
    "index": Place("the entry of run {subject} in index {detail}", "lists would leave it out"),
    "run_functions": Place("the entry of function {subject} in the list of functions that have runs", "lists of all functions would leave its runs out"),
    "expiry": Place("the entry of run {subject} in the index of ended runs by the end of their retention", "it would never leave the other indexes"),
    "singleton": Place("the entry of singleton {subject}", "a second run could start beside the live one"),
    "continuation": Place("the continuation of run {subject}"),
    "run": Place("run {subject}"),
    "steps": Place("the steps of run {subject}"),
    "memos": Place("the memos of run {subject}"),
    "memo_order": Place("the order of the memos of run {subject}"),
    "attempts": Place("the kept attempts of run {subject}"),
    "signals": Place("the signals of run {subject}"),
    "signal_ids": Place("the ids of the signals of run {subject}"),
    "batched": Place("the list of batch {subject}"),
    # flow control and events
    "idempotency": Place("the idempotency key {subject}"),
    "throttle": Place("the throttle {subject}"),
    "debounce": Place("the debounce {subject}"),
    "batch": Place("the open batch of {subject}"),
    "error_group": Place("the group {subject} of errors"),
    "rate": Place("the rate limit {subject}"),
    "event_history": Place("the history of event {subject}"),
    "event_index": Place("the index of events {subject}"),
    "compared_paths": Place("the compared paths of event {subject}"),
    # what RQ's tools show
    "rq_job": Place("RQ's record of job {subject}", "it is not there, or has another status than the job"),
    "rq_wip": Place("the entry of {subject} in RQ's executing jobs of {detail}", "RQ's tools do not show it"),
    "rq_scheduled": Place("the entry of job {subject} in RQ's scheduled jobs of {detail}", "RQ's tools do not show it"),
    "rq_failed": Place("the entry of run {subject} in RQ's failed jobs of {detail}"),
}
"""The places, by the names of the kinds of keys (`stepflow_broker.protocol.keys.KEYS`) in lower case."""

_INDEXES = "rq_queue leases timeouts wait_list"
_FLOW = "idempotency throttle debounce batch rate event_history event_index compared_paths error_group"

RULES: dict[str, Rule] = {
    # an entry against what its run demands
    "missing": _error("{entry} is missing: {loss}", "adds it", where=f"{_INDEXES} timeout waits asks live index run_functions expiry singleton", warnings="rq_job rq_wip rq_scheduled"),
    "duplicated": _error("{entry} is there more than once", "keeps one", where="rq_queue wait_list"),
    "orphaned": _error("{entry} is left over: no run needs it", "removes it", where=f"{_INDEXES} concurrency_slots timeout items waits asks finished live index run_functions expiry continuation steps memos memo_order attempts signals signal_ids batched rq_job", warnings="singleton rq_wip rq_scheduled rq_failed"),
    "expires_early": _error("{entry} expires, but the run is live or its parent does not know its end yet", "removes the expiry", where="run memos memo_order attempts steps signals signal_ids"),
    "never_expires": _error("{entry} never expires", "sets the expiry: the retention, or a day", where="run memos memo_order attempts signals signal_ids rq_job", warnings=_FLOW),
    # runs
    "run_stuck": _error("run {subject} has no job and waits for no step: it would never continue", "queues it"),
    "run_status_wrong": _error("run {subject} has status {detail}, which its continuation contradicts", "sets the status that follows from the continuation"),
    "run_incomplete": _error("run {subject} is live but has lost its app, function, queue or creation time: cancel it"),
    "run_status_missing": _error("run {subject} has lost its status, and the rest of it never expires", "lets it expire in a day"),
    "lease_invalid": _error("job {subject} is leased without a worker or a fence", "queues it again"),
    "memo_order_wrong": _error("the order of the memos of run {subject} does not list each memo once", "lists each once, those without a place last; not while a worker holds the run"),
    "wait_list_stalled": _error("jobs wait in wait list {subject}, but no job holds a slot whose end would promote them", "promotes the first of them"),
    "batch_lost": _error("run {subject} waits for batch {detail}, which does not list it, or has ended without an event", "adds it to the list, or ends it as the batch ended; cancel the run if the batch does not exist"),
    # steps
    "step_incomplete": _error("step {subject} has lost its id, its state or the detail of its wait: it would never end", "drops it; the run plans it again"),
    "step_has_memo": _error("step {subject} has a memo but is still {detail}", "drops its job or its wait; the memo counts"),
    "map_stuck": _error("map {subject} has {detail}: it would not end", "hands out again what has no job and has not ended"),
    "child_missing": _error("step {subject} waits for run {detail}, which does not exist", "ends the wait as timed out"),
    "child_result_lost": _error("step {subject} waits for run {detail}, which has ended without an event", "gives the step the result of the run"),
    "child_outcome_differs": _error("run {subject} ended otherwise than the memo of step {detail} of its parent says"),
    "wait_count_low": _error("the number of waits for event {subject} at {detail} is too low: events would not reach them", "counts them again"),
    "wait_count_high": _warning("the number of waits for event {subject} at {detail} is too high: its events cost more than they must"),
    "time_in_future": _error("the time noted for {subject} is in the future ({detail}): the clock of the server was ahead", "treats it as noted now, with all that counts from it"),
    "ended_in_future": _warning("run {subject} ended at a time in the future ({detail}), so it is kept for too long: the clock of the server was ahead", "keeps it as if it had ended now"),
    # work that is late, and who should do it
    "job_deferred": _error(f"job {{subject}} was deferred {{detail}} times: no worker that took it can read its run or has its code, and it is tried once an hour in the end; `{NAME} explain` names what is missing", "queues it again now"),
    "lease_overdue": _error("{detail} leases expired over a minute ago and are not reclaimed, first that of job {subject}", "reclaims them"),
    "timer_overdue": _error("{detail} timers were due over a minute ago and have not fired, first {subject}", "fires them"),
    "pending_overdue": _error("{detail} entries of {subject} were read over a minute ago and are not handled", "handles finished events; events need a worker"),
    "stream_behind": _error("entries of {subject} are unread, the first for {detail} s", "handles finished events; events need a worker"),
    "group_missing": _error("{subject} has entries and no consumer group", "creates the group"),
    "no_consumers": _warning("{subject} has entries and no consumers: start a worker"),
    "queue_unserved": _warning("no live worker serves queue {subject} of {detail}: start one"),
    "foreign_job": _warning("job {subject} in queue {detail} belongs to another program that uses RQ: workers leave it there; start an `rq worker` for it, or give that program another queue"),
    "events_aside": _warning(f"events are set aside ({{detail}}), as `{NAME} events aside` shows with the reason of each"),
    "undo_failed": _warning(f"undo handlers of run {{subject}} have failed, so what its steps did is not undone: `{NAME} runs show` has the errors; undo it by hand"),
    "function_unserved": _warning(f"no live worker has the code of function {{subject}}, which events still start: start a worker that has it, or run `{NAME} functions forget`"),
    "bulk_unserved": _warning("no worker executes bulk {subject}, of which {detail}: start one that has the function"),
    "schedule_without_function": _warning(f"schedule {{subject}} starts nothing: its function {{detail}} is not registered; start a worker that has it, or run `{NAME} schedules delete`"),
    "suspended": _warning("RQ is suspended{detail}: no worker claims a job until `rq resume`"),
}
# fmt: on
"""The problems of the data, by code."""

_NEEDS_WORKERS = frozenset({"lease_overdue", "timer_overdue", "pending_overdue", "stream_behind"})


class Findings:
    """Collects findings: at most a hundred of a code and place, and the number of the rest.

    Args:
        has_workers: whether a worker is live. Overdue work is a warning if none is.
    """

    def __init__(self, *, has_workers: bool = True) -> None:
        self._has_workers = has_workers
        self._found: list[Finding] = []
        self._count: Counter[tuple[str, str, bool]] = Counter()
        self._named: set[tuple[str, str, bool, str]] = set()

    def add(self, code: str, subject: str, detail: object = "", *, where: str = "", repaired: bool = False) -> None:
        """Add a problem of the data. The same one may be found from several runs."""
        place = PLACES[where] if where else Place("")
        entry = place.entry.format(subject=subject, detail=detail)
        text = RULES[code].text.format(subject=subject, detail=detail, entry=entry, loss=place.loss)
        if (code, where, repaired, text) in self._named:
            return
        self._count[code, where, repaired] += 1
        if self._count[code, where, repaired] <= _MAX_OF_A_KIND:
            self._named.add((code, where, repaired, text))
            self._found.append(self._finding(code, where, subject, text, repaired=repaired))

    def add_all(self, reply: Iterable[list[bytes]]) -> None:
        """Add what a script has found."""
        for code, where, subject, detail, repaired in reply:
            self.add(
                code.decode(),
                replies.shown_text(subject),
                replies.shown_text(detail),
                where=where.decode(),
                repaired=bool(repaired),
            )

    def to_list(self) -> list[Finding]:
        """All of them, errors first."""
        return sorted(
            [*self._found, *self._rest()],
            key=lambda finding: (finding.severity is not Severity.ERROR, finding.code, finding.where),
        )

    def _rest(self) -> Iterator[Finding]:
        for (code, where, repaired), count in self._count.items():
            if count > _MAX_OF_A_KIND:
                more = count - _MAX_OF_A_KIND
                text = f"and {more:,} more such findings"
                yield self._finding(code, where, "", text, repaired=repaired, count=more)

    def _finding(self, code: str, where: str, subject: str, text: str, *, repaired: bool, count: int = 1) -> Finding:
        rule = RULES[code]
        is_excused = not self._has_workers and code in _NEEDS_WORKERS
        severity = Severity.WARNING if is_excused else rule.severity_at(where)
        left = PLACES[where].left if where and code == "missing" else ""
        repair = f"{rule.repair}, except {left}" if left else rule.repair
        return Finding(code, severity, subject, text, where, repair, repaired, count)
