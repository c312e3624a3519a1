"""A finding of the doctor's: what is wrong, how bad it is, and what is done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["RULES", "Finding", "Findings", "Rule", "Severity"]

_MOST_OF_A_CODE = 100


class Severity(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and how it is.

    Attributes:
        code: what kind of finding it is; see `RULES` for those on data.
        subject: what it is about: a run, a job, a key, a setting.
        text: a sentence without its full stop.
        repair: what ``--repair`` does about it; ``""``: nothing.
        repaired: whether it has been done.
    """

    code: str
    severity: Severity
    subject: str
    text: str
    repair: str = ""
    repaired: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is an error that has not been mended."""
        return self.severity is Severity.ERROR and not self.repaired

    def to_json(self) -> dict[str, Any]:
        """The fields that scripts get."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code stands for.

    Attributes:
        severity: an error: a run may not go on, or something is kept for ever; a warning: neither.
        text: the sentence, with ``{subject}`` and ``{detail}``.
        repair: what ``--repair`` does; ``""``: nothing.
    """

    severity: Severity
    text: str
    repair: str = ""


def _error(text: str, repair: str = "") -> Rule:
    return Rule(Severity.ERROR, text, repair)


def _warning(text: str, repair: str = "") -> Rule:
    return Rule(Severity.WARNING, text, repair)


# ruff: noqa: E501
# fmt: off
RULES: dict[str, Rule] = {
    # live runs: an owner and a deadline
    "job_missing": _error("job {subject} is ready and stands on no list of queue {detail}: no worker can take it", "puts it on its list"),
    "job_duplicated": _error("job {subject} stands on the lists of queue {detail} more than once", "leaves it there once"),
    "lease_missing": _error("job {subject} is leased to worker {detail}, and its lease is on no list: nobody would reclaim it", "gives it a lease of 10 s"),
    "lease_invalid": _error("job {subject} is leased, to nobody or without a fence", "puts it back on its list"),
    "timer_missing": _error("the timer {subject} is missing, or set for another time than the truth says", "sets it; the time by which a run must start is not known any more"),
    "wait_list_entry_missing": _error("job {subject} waits for a slot and stands in {detail} lines, not in one", "has it pass its gates anew"),
    "wait_list_stalled": _error("jobs stand in line for {subject}, and nobody has a slot whose end would let them in", "lets the first of them in"),
    "batch_lost": _error("run {subject} waits for batch {detail}, which does not list it, or has ended without an event", "lists it, or ends it as its batch has ended; one whose batch is lost is to be cancelled"),
    "run_stuck": _error("run {subject} has no job and no step to wait for: it would never go on", "queues it"),
    "run_status_wrong": _error("run {subject} says {detail}, and its job says otherwise", "has the job decide"),
    "live_run_unlisted": _error("run {subject} lives and is not on the list of live runs", "puts it there"),
    "live_run_expires": _error("run {subject} lives, and its {detail} expires", "takes the expiry away"),
    "run_incomplete": _error("run {subject} lives without its app, function, queue or time: cancel it"),
    "run_status_missing": _error("run {subject} has no status: its truth is lost, and what is left of it never expires", "lets it expire in a day"),
    "singleton_lost": _error("run {subject} is a singleton, and another could start beside it: {detail} names no run or another", "names it there, if nobody else is named"),
    # steps and their waits
    "step_incomplete": _error("step {subject} has no id or no state, so nothing would execute it", "forgets it, and has the run ask for it again"),
    "step_ended": _error("step {subject} has a memo and is {detail} all the same", "drops its job or its wait; the memo counts"),
    "timeout_key_missing": _error("the wait {subject} has no timeout key: its end could not be told", "writes one"),
    "wait_index_missing": _error("{subject} waits for an event and is not in the index of waits: the event would pass it by", "puts it there"),
    "child_missing": _error("the step {subject} waits for run {detail}, which does not exist", "ends the wait now, as one whose time is over"),
    "child_result_lost": _error("the step {subject} waits for run {detail}, which has ended without an event", "gives the step the run's end"),
    "remote_child_missing": _error("the step {subject} waits for run {detail} of another partition, which does not exist", "ends the wait now, as one whose time is over"),
    "remote_child_result_lost": _error("the step {subject} waits for run {detail} of another partition, which has ended without an event", "gives the step the run's end"),
    "memo_order_wrong": _error("the memos of run {subject} and their order differ", "lists each once, those without a place last; not while a worker has the run"),
    "child_outcome_differs": _error("run {subject} ended otherwise than the memo of its parent's step {detail} says"),
    "wait_count_low": _error("the count of waits for event {subject} at {detail} is too low: events would pass waits by", "counts them anew"),
    "wait_count_high": _warning("the count of waits for event {subject} at {detail} is too high: its events are looked at for nothing"),
    # ended runs
    "ended_run_holds_job": _error("run {subject} has ended and holds a job or a lease", "takes it away"),
    "ended_run_has_steps": _error("run {subject} has ended and has planned steps", "drops them with their jobs and waits"),
    "ended_run_never_expires": _error("run {subject} has ended, and its {detail} never expires", "lets it expire after the retention"),
    "ended_run_expires_early": _error("run {subject} has ended, and its {detail} expires before its parent knows", "takes the expiry away"),
    "ended_run_unlisted": _error("run {subject} has ended and is not on the list of ended runs", "puts it there"),
    # what dangles: nothing asks for it
    "orphaned_rq_queue": _error("job {subject} stands on list {detail}, and nothing asks for it", "takes it off"),
    "orphaned_leases": _error("job {subject} has a lease, and nothing asks for it", "drops it"),
    "orphaned_timeouts": _error("the timer {subject} is set, and nothing asks for it", "drops it"),
    "orphaned_concurrency_slots": _error("job {subject} has a slot of {detail}, and nothing asks for it", "frees it, for those who stand in line"),
    "orphaned_wait_list": _error("job {subject} stands in line for {detail}, and nothing asks for it", "takes it out"),
    "orphaned_timeout": _error("the timeout key {subject} belongs to no wait", "drops it"),
    "orphaned_waits": _error("the wait {subject} is in the index and waits no more", "takes it out"),
    "orphaned_finished": _error("the finished event {subject} is of a run that does not exist, or has left another", "drops it"),
    "orphaned_live": _error("run {subject} is on the list of live runs and does not live", "takes it off"),
    "orphaned_ended": _error("run {subject} is on the list of ended runs and has not ended, or does not exist", "takes it off"),
    "orphaned_steps": _error("the steps of run {subject} are kept, and there is no such run", "drops them"),
    "orphaned_memos": _error("the memos of run {subject} are kept, and there is no such run", "drops them"),
    "orphaned_memo_order": _error("the order of memos of run {subject} is kept, and there is no such run", "drops it"),
    "orphaned_batched": _error("the list of batch {subject} is kept, and the batch is over", "drops it"),
    "orphaned_rq_job": _error("RQ's job {subject} is kept for ever, and nothing asks for it", "drops it; a failed run's expires in a day"),
    "orphaned_singleton": _warning("singleton {subject} names run {detail}, which has ended or is none", "drops the name"),
    "no_expiry": _warning("{detail} {subject} never expires", "lets it expire in a day"),
    # what RQ's tools are shown
    "rq_view_wrong": _warning("RQ's tools show job {subject} as {detail!r}, which it is not, or in no registry", "shows it as it is"),
    "orphaned_rq_wip": _warning("RQ's tools show {subject} of {detail} as executing, which it is not", "takes it off"),
    "orphaned_rq_scheduled": _warning("RQ's tools show job {subject} of {detail} as scheduled, which it is not", "takes it off"),
    "orphaned_rq_failed": _warning("RQ's tools show run {subject} of {detail} as failed, which it is not", "takes it off"),
    # what should have been seen to by now
    "lease_overdue": _error("{detail} leases ended over a minute ago, that of {subject} first, and no worker has reclaimed them", "reclaims them"),
    "timer_overdue": _error("{detail} timers were due over a minute ago, {subject} first, and no worker has fired them", "fires them"),
    "pending_overdue": _error("{detail} entries of {subject} were taken over a minute ago and not seen to", "wakes the parents of finished runs; events need a worker"),
    "stream_behind": _error("entries of {subject} that came over {detail} s ago have been taken by nobody", "wakes the parents of finished runs; events need a worker"),
    "group_missing": _error("{subject} has entries and no consumer group", "makes the group"),
    "no_consumers": _warning("{subject} has entries and no consumers: start a worker"),
    "queue_unserved": _warning("no live worker serves queue {subject}, of {detail}: start one"),
    "suspended": _warning("RQ is suspended{detail}: no job is claimed until rq resume"),
}
# fmt: on

_WITHOUT_WORKERS = frozenset({"lease_overdue", "timer_overdue", "pending_overdue", "stream_behind"})


class Findings:
    """Collects findings: a hundred of each code, and how many more there are.

    Args:
        has_workers: whether a worker lives; what nobody sees to while there is none is not an error.
    """

    def __init__(self, *, has_workers: bool = True) -> None:
        self._has_workers = has_workers
        self._found: list[Finding] = []
        self._count: Counter[tuple[str, bool]] = Counter()

    def add(self, code: str, subject: str, detail: object = "", *, repaired: bool = False) -> None:
        """Note a finding on data."""
        self._count[code, repaired] += 1
        if self._count[code, repaired] <= _MOST_OF_A_CODE:
            text = RULES[code].text.format(subject=subject, detail=detail)
            self._found.append(self._finding(code, subject, text, repaired=repaired))

    def add_all(self, reply: Iterable[list[bytes]]) -> None:
        """Note what a script has found."""
        for code, subject, detail, repaired in reply:
            self.add(code.decode(), _text(subject), _text(detail), repaired=bool(repaired))

    def to_list(self) -> list[Finding]:
        """All of them, errors first."""
        more = [
            self._finding(code, "", f"and {count - _MOST_OF_A_CODE:,} more such findings", repaired=repaired)
            for (code, repaired), count in self._count.items()
            if count > _MOST_OF_A_CODE
        ]
        return sorted([*self._found, *more], key=lambda finding: (finding.severity is not Severity.ERROR, finding.code))

    def _finding(self, code: str, subject: str, text: str, *, repaired: bool) -> Finding:
        rule = RULES[code]
        unmanned = not self._has_workers and code in _WITHOUT_WORKERS
        return Finding(code, Severity.WARNING if unmanned else rule.severity, subject, text, rule.repair, repaired)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
