"""What is true of the server after every script, whatever was called in whatever order.

The truth of a run says which jobs, leases and timers there must be; these must be there, once, and nothing else may.
This model is independent of ``lua/lib/expected.lua``; ``tests/contract/test_expected.py`` compares the two.

=====  =============================================================================================
``R1``   a run is either live, and listed so, or ended, and listed so
``R2``   what lives has no expiry; what has ended has one, and has no steps, lease, job on a list or timer
``R3``   a live run's continuation is queued once, or leased, or delayed, or there is a step to wait for
``R4``   a planned step is queued once, or leased, or delayed, or waits for a child, and has no memo
``R5``   memos and their order name the same steps, each once
``W1``   a step that waits has a timeout key and a timer, and its child lives or has left a finished event
``W3``   the index of asks has the steps that wait for an answer, and no others
``M1``   the open items of a map are steps, at most as many as may be; its results are of items that it has handed out
``S1``   the signals that a run keeps, their count and their size agree; none is kept while a wait for it lasts
``L1``   lists, leases and timers hold what R3 and R4 ask for and nothing else
``E1``   each delayed event has a text and a timer of its own
``Q1``   RQ's hashes and registries say the same
=====  =============================================================================================
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import redis

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.registry.tags import unpack_subjects
from stepflow_broker.views.run_pauses import limits_of
from stepflow_engine.ids import job_id
from stepflow_engine.state_machine import RunStatus
from tests.support.snapshots import Snapshot

__all__ = ["Expected", "Part", "check_invariants", "read_expected"]

_KEYS = Keys()
_MARK = '["stepflow_workers.'
_OF_CONTINUATION = {
    "queued": RunStatus.QUEUED,
    "waitlisted": RunStatus.QUEUED,
    "leased": RunStatus.RUNNING,
    "delayed": RunStatus.WAITING,
    "batched": RunStatus.WAITING,
    None: RunStatus.WAITING,
}


@dataclass(slots=True)
class Expected:
    """The jobs, leases and timers that the truth asks for."""

    live: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    listed: defaultdict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    queued: Counter[str] = field(default_factory=Counter)
    leases: set[str] = field(default_factory=set)
    in_line: set[str] = field(default_factory=set)
    started: dict[str, set[str]] = field(default_factory=dict)
    timers: dict[str, float] = field(default_factory=dict)
    asks: dict[str, float] = field(default_factory=dict)
    waits: set[str] = field(default_factory=set)
    maps: set[str] = field(default_factory=set)
    indexed: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    rq_status: dict[str, str] = field(default_factory=dict)
    rq_wip: set[str] = field(default_factory=set)
    rq_scheduled: set[str] = field(default_factory=set)
    rq_failed: set[str] = field(default_factory=set)

    def job(self, job: str, state: str | None, *, fence: str | None, due: str | None) -> None:
        """Expect a job in a state."""
        match state:
            case "queued":
                self.queued[job] += 1
                self.rq_status[job] = "queued"
            case "leased":
                assert fence, f"R3/R4: {job} is leased without a fence"
                self.leases.add(job)
                self.rq_wip.add(f"{job}:{fence}")
                self.rq_status[job] = "started"
            case "waitlisted":
                self.in_line.add(job)
                self.rq_status[job] = "deferred"
            case "delayed":
                assert due, f"R3/R4: {job} is delayed without a time"
                self.timers[f"job:{job}"] = float(due)
                self.rq_scheduled.add(job)
                self.rq_status[job] = "scheduled"
            case None:
                self.rq_status[job] = "deferred"
            case _:
                raise AssertionError(f"R3/R4: {job} is {state}")
        if state != "leased":
            assert fence is None, f"R3/R4: {job} is {state} and has fence {fence}"


class Part:
    """A client of one partition, which leaves out what all its keys start with."""

    def __init__(self, client: redis.Redis | Snapshot, partition: str) -> None:
        self._client = client
        self._partition = partition

    def __getattr__(self, command: str) -> Any:
        call = getattr(self._client, command)
        return lambda key, *words, **options: call(self._partition + key, *words, **options)

    def smembers(self, key: str) -> set[str]:
        """The members of a set, of which some are keys."""
        return {member.removeprefix(self._partition) for member in self._client.smembers(self._partition + key)}

    def scan_iter(self, pattern: str, *, count: int) -> list[str]:
        """The keys of the partition that fit."""
        found = self._client.scan_iter(self._partition + pattern, count=count)
        return [key.removeprefix(self._partition) for key in found]


def check_invariants(client: redis.Redis | Part) -> None:
    """Fail if the server, or a part, is in a state that it must never be in. ``client`` decodes replies."""
    expected = read_expected(client)
    for kind in ("MEMOS", "MEMO_ORDER", "ATTEMPTS", "STEPS", "SIGNALS", "SIGNAL_IDS"):
        for run in _subjects(client, kind):
            assert client.exists(_KEYS("RUN", run)), f"R2: {kind} of {run} outlives its run"
    _compare(client, expected)


def read_expected(client: redis.Redis | Part) -> Expected:
    """What the truth of all runs asks for. Fails if a run contradicts itself."""
    expected = Expected()
    for run in _subjects(client, "RUN"):
        _check_run(client, run, expected)
    return expected


def _check_run(client: redis.Redis | Part, run: str, expected: Expected) -> None:
    truth = client.hgetall(_KEYS("RUN", run))
    status = RunStatus(truth["status"])
    memos, order = set(client.hkeys(_KEYS("MEMOS", run))), client.lrange(_KEYS("MEMO_ORDER", run), 0, -1)
    _list(run, truth, expected)
    if "signals" in truth:
        _check_signals(client, run, truth)
    assert len(order) == len(set(order)), f"R5: a step of {run} is recorded twice"
    assert memos == set(order), f"R5: the memos of {run} and their order differ"
    if status.ended:
        _check_ended(client, run, truth, expected)
        return
    expected.live.add(run)
    for kind in ("RUN", "MEMOS", "MEMO_ORDER", "ATTEMPTS", "STEPS", "SIGNALS", "SIGNAL_IDS"):
        assert client.pttl(_KEYS(kind, run)) < 0, f"R2: {kind} of the live run {run} expires"
    if "started_at" in truth:
        expected.started[run] = {name for _, name in limits_of(truth.get("concurrency", "").encode())}
    planned = _check_steps(client, run, memos, expected)
    continuation = truth.get("continuation")
    assert status is _OF_CONTINUATION[continuation], f"R3: {run} is {status} with its continuation {continuation}"
    assert continuation or planned, f"R3: {run} waits for nothing"
    if continuation == "batched":
        _check_batched(client, run, truth["batch"])
        return
    assert ("owner" in truth) == (continuation == "leased"), f"R3: {run} is {continuation} with owner"
    expected.job(run, continuation, fence=truth.get("lease"), due=truth.get("due"))
    _check_bounds(client, run, truth, expected)


def _check_batched(client: redis.Redis | Part, run: str, batch: str) -> None:
    """A run of a batch is listed there, and the batch lives, or its end is still to be seen to."""
    assert run in client.lrange(_KEYS("BATCHED", batch), 0, -1), f"B1: {run} is not in its batch {batch}"
    truth = client.hgetall(_KEYS("RUN", batch))
    unseen = truth.get("finished") and client.xrange(_KEYS("FINISHED"), truth["finished"], truth["finished"])
    assert unseen or not RunStatus(truth["status"]).ended, f"B1: {run} waits for the batch {batch}, which has ended"


def _check_bounds(client: redis.Redis | Part, run: str, truth: dict[str, str], expected: Expected) -> None:
    """What ends a run from outside: its places in the index, and its timers, whose times only scripts know."""
    if "undoing" in truth:  # nothing stops an undo
        return
    for name, index in truth.items():
        if name.startswith("cancel:"):
            expected.indexed[index].add(f"{run}:!{name.removeprefix('cancel:')}")
    started = "started_at" in truth
    for bound, begun in (("start", not started), ("finish", started)):
        if f"{bound}_within" in truth and begun:
            due = client.zscore(_KEYS("TIMEOUTS"), f"{bound}:{run}")
            assert due, f"L1: {run} must {bound} in time and has no timer"
            expected.timers[f"{bound}:{run}"] = due


def _check_ended(client: redis.Redis | Part, run: str, truth: dict[str, str], expected: Expected) -> None:
    expected.ended.add(run)
    assert not {"continuation", "lease", "owner"} & set(truth), f"R2: {run} has ended and has {set(truth)}"
    assert not client.exists(_KEYS("STEPS", run)), f"R2: {run} has ended and has steps"
    finished = truth.get("finished")
    unseen = bool(finished and client.xrange(_KEYS("FINISHED"), finished, finished))
    for kind in ("SIGNALS", "SIGNAL_IDS"):
        assert client.pttl(_KEYS(kind, run)) != -1, f"R2: {kind} of the ended run {run} has no expiry"
    for kind in ("RUN", "MEMOS", "MEMO_ORDER", "ATTEMPTS"):
        expires = client.pttl(_KEYS(kind, run)) != -1
        assert expires or unseen, f"R2: {kind} of the ended run {run} has no expiry"
        assert not (kind == "RUN" and expires and unseen), f"R2: {run} expires before its parent knows of its end"
    if truth["status"] == "failed" and (client.exists(_KEYS("RQ_JOB", run)) or "forks" not in truth):  # else requeued
        expected.rq_status[run] = "failed"
        expected.rq_failed.add(run)
        assert client.pttl(_KEYS("RQ_JOB", run)) > 0, f"Q1: the job of the failed run {run} has no expiry"


def _check_steps(client: redis.Redis | Part, run: str, memos: set[str], expected: Expected) -> set[str]:
    fields = client.hgetall(_KEYS("STEPS", run))
    planned = {name for name in fields if ":" not in name}
    leftover = {name.partition(":")[0] for name in fields} - planned
    assert not leftover, f"R4: {run} has fields of steps without an id: {leftover}"
    assert not planned & memos, f"R4: {run} has steps that are planned and have a memo: {planned & memos}"
    for key in planned:
        state, fence = fields.get(f"{key}:state"), fields.get(f"{key}:lease")
        assert state, f"R4: step {key} of {run} has no state"
        assert (f"{key}:owner" in fields) == (state == "leased"), f"R4: step {key} of {run} is {state} with owner"
        if f"{key}:count" in fields:
            _check_map(client, run, key, fields, planned)
            expected.maps.add(f"{run}:{key}")
        if state == "mapping":
            continue
        if state == "waiting":
            _check_wait(client, run, key, fields, expected)
        else:
            expected.job(job_id(run, key), state, fence=fence, due=fields.get(f"{key}:due"))
    return planned


def _check_map(client: redis.Redis | Part, run: str, key: str, fields: dict[str, str], planned: set[str]) -> None:
    names = ("count", "next", "open", "at_once", "failed", "tolerated", "bytes", "room")
    numbers = {name: int(fields[f"{key}:{name}"]) for name in names}
    prefix = key + fields[f"{key}:digest"]
    indexes = {int(name[-8:], 16) for name in planned if len(name) == len(key) + 16 and name.startswith(prefix)}
    steps = {index for index in indexes if index < numbers["next"]}
    results = client.hgetall(_KEYS("ITEMS", f"{run}:{key}"))
    assert len(steps) == numbers["open"] <= numbers["at_once"], f"M1: {key} of {run} has {len(steps)} open items"
    assert not steps & {int(index) for index in results}, f"M1: an item of {key} of {run} has ended and has a step"
    assert numbers["next"] <= numbers["count"], f"M1: {key} of {run} has handed out too many items"
    is_stopped = numbers["failed"] > numbers["tolerated"] or numbers["bytes"] > numbers["room"]
    assert is_stopped or len(results) + len(steps) == numbers["next"], f"M1: {key} of {run} has lost an item"
    assert numbers["failed"] == sum(text.startswith('{"error":') for text in results.values()), f"M1: {key} of {run}"
    assert numbers["bytes"] == sum(len(text.encode()) for text in results.values()), f"M1: the size of {key} of {run}"
    is_over = not steps and (is_stopped or len(results) == numbers["count"])
    assert is_over == (fields[f"{key}:state"] != "mapping"), f"M1: {key} of {run} is {fields[f'{key}:state']}"


def _check_wait(client: redis.Redis | Part, run: str, key: str, fields: dict[str, str], expected: Expected) -> None:
    expected.waits.add(f"{run}:{key}")
    expected.timers[f"wait:{run}:{key}"] = float(fields[f"{key}:due"])
    if f"{key}:child" not in fields:
        index = fields.get(f"{key}:index", "")
        if index == "ask":
            expected.asks[f"{run}:{key}"] = float(fields[f"{key}:began"])
        elif index.startswith("signal\n"):
            _check_signal_wait(client, run, index)
        elif index:
            expected.indexed[index].add(f"{run}:{key}")
        return
    if f"{key}:message" in fields:  # it is in another partition
        return
    child = client.hgetall(_KEYS("RUN", fields[f"{key}:child"]))
    assert child, f"W1: step {key} of {run} waits for a run that does not exist"
    assert child["parent"] == run, f"W1: step {key} of {run} waits for a child of {child['parent']}"
    if RunStatus(child["status"]).ended:
        entries = client.xrange(_KEYS("FINISHED"), child["finished"], child["finished"])
        assert entries, f"W1: step {key} of {run} waits for a run that has ended without an event"


def _check_signal_wait(client: redis.Redis | Part, run: str, index: str) -> None:
    """No signal is kept while a wait for its name has begun."""
    name = index.split("\n", 2)[2]
    kept = client.hget(_KEYS("SIGNALS", run), f"queue {name}")
    assert not kept, f"S1: {run} waits for signal {name} and keeps {kept}"


def _check_signals(client: redis.Redis | Part, run: str, truth: dict[str, str]) -> None:
    """The signals that are kept, their count, their size and the queues of their names agree."""
    fields = client.hgetall(_KEYS("SIGNALS", run))
    kept = {name: text for name, text in fields.items() if name.isdecimal()}
    queued = [number for name, queue in fields.items() if name.startswith("queue ") for number in queue.split()]
    assert sorted(queued) == sorted(kept), f"S1: the signals of {run} and their queues differ"
    assert int(truth["signals"]) == len(kept), f"S1: {run} keeps {len(kept)} signals, not {truth['signals']}"
    assert int(fields.get("bytes", 0)) == sum(len(text.encode()) for text in kept.values()), (
        f"S1: the size of the signals of {run} is wrong"
    )


def _is_foreign(client: redis.Redis | Part, job: str) -> bool:
    """Whether a job of RQ belongs to another program."""
    return not (client.hgetall(_KEYS("RQ_JOB", job)).get("data") or _MARK).startswith(_MARK)


def _compare(client: redis.Redis | Part, expected: Expected) -> None:
    assert set(client.zrange(_KEYS("LIVE"), 0, -1)) == expected.live, "R1: the list of live runs is wrong"
    _compare_listed(client, expected)
    lists = {name: client.lrange(_KEYS("RQ_QUEUE", name), 0, -1) for name in _subjects(client, "RQ_QUEUE")}
    on_lists = Counter(job for jobs in lists.values() for job in jobs if not _is_foreign(client, job))
    assert on_lists == expected.queued, "L1: the lists hold other jobs than the truth asks for"
    assert set(client.zrange(_KEYS("LEASES"), 0, -1)) == expected.leases, "L1: the leases are others"
    timers = dict(client.zrange(_KEYS("TIMEOUTS"), 0, -1, withscores=True))
    delayed = client.zrange(_KEYS("DELAYED_EVENTS"), 0, -1, withscores=True)
    events = [(name.removeprefix("event:"), due) for name, due in timers.items() if name.startswith("event:")]
    assert events == delayed, "E1: the timers of delayed events are others"
    assert set(client.hkeys(_KEYS("DELAYED_EVENT_TEXTS"))) == dict(delayed).keys(), "E1: the delayed events are others"
    timers = {
        name: due for name, due in timers.items() if not name.startswith(("resume:", "event:", "limit:"))
    }  # of no run
    assert timers == expected.timers, "L1: the timers are others"
    lines = [job for name in _subjects(client, "WAIT_LIST") for job in client.zrange(_KEYS("WAIT_LIST", name), 0, -1)]
    assert sorted(lines) == sorted(expected.in_line), "G1: others stand in line"
    jobs, of_runs = expected.leases | set(expected.queued) | expected.in_line, defaultdict[str, set[str]](set)
    for name in _subjects(client, "CONCURRENCY_SLOTS"):
        slots = dict(client.zrange(_KEYS("CONCURRENCY_SLOTS", name), 0, -1, withscores=True))
        if name.startswith("runs "):
            assert set(slots.values()) <= {math.inf}, "G3: the slot of a run expires"
            assert set(slots) <= jobs | set(expected.started), "G3: a run that is over, or is not ready, has a slot"
            of_runs[name] = set(slots)
        else:
            assert set(slots) <= jobs, "G2: a job that is over has a slot"
    for run, limits in expected.started.items():
        for name in limits:
            assert not name.startswith("runs ") or run in of_runs[name], f"G3: {run} lives without a slot of {name}"
    assert set(_subjects(client, "TIMEOUT")) == expected.waits, "W1: the timeout keys are others"
    assert set(_subjects(client, "ITEMS")) <= expected.maps, "M1: there are results of maps that do not exist"
    asks = dict(client.zrange(_KEYS("ASKS"), 0, -1, withscores=True))
    assert asks == expected.asks, "W3: the index of asks is another"
    _compare_index(client, expected)
    assert {_KEYS("RQ_QUEUE", name) for name in lists} <= client.smembers(_KEYS("RQ_QUEUES")), "Q1: a list is unknown"
    _compare_rq(client, expected, {job: name for name, jobs in lists.items() for job in jobs})


def _list(run: str, truth: dict[str, str], expected: Expected) -> None:
    """The indexes by which a run is found."""
    name, created_at = f"{truth['app']}/{truth['function']}", float(truth["created_at"])
    subjects = unpack_subjects(truth.get("indexed", "").encode())
    errors = [subject for subject in subjects if subject.startswith("error ")]
    for subject in [f"function {name}", *(one for one in subjects if one not in errors)]:
        expected.listed[subject][run] = created_at
    if not RunStatus(truth["status"]).ended:
        return
    ended_at = float(truth["ended_at"])
    expected.listed[f"ended {name}"][run] = ended_at
    for subject in [f"failed {name}", *errors] if truth["status"] == "failed" else []:
        expected.listed[subject][run] = ended_at


def _compare_listed(client: redis.Redis | Part, expected: Expected) -> None:
    """Runs that have expired stay in the indexes until they are forgotten."""
    exists = {run for runs in expected.listed.values() for run in runs}
    found = {
        subject: dict(client.zrange(_KEYS("INDEX", subject), 0, -1, withscores=True))
        for subject in _subjects(client, "INDEX")
    }
    known = {subject: {run: at for run, at in runs.items() if run in exists} for subject, runs in found.items()}
    assert {subject: runs for subject, runs in known.items() if runs} == expected.listed, "R1: the indexes are others"
    names = {subject.removeprefix("function ") for subject in found if subject.startswith("function ")}
    assert client.smembers(_KEYS("RUN_FUNCTIONS")) == names, "R1: the functions that have runs are others"
    expiring = [entry.split(" ")[0] for entry in client.zrange(_KEYS("EXPIRY"), 0, -1)]
    assert len(expiring) == len(set(expiring)), "R1: a run would be forgotten twice"
    assert set(expiring) >= expected.ended, "R1: a run is never forgotten"
    assert not set(expiring) & expected.live, "R1: a live run would be forgotten"


def _compare_index(client: redis.Redis | Part, expected: Expected) -> None:
    indexed = {index: client.smembers(_KEYS("WAITS", index)) for index in _subjects(client, "WAITS")}
    assert indexed == expected.indexed, "W2: the index of waits is another"
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index, members in indexed.items():
        paths, _, event = index.split("\n", 2)
        counts[event][paths] += len(members)
    waited = {event: client.hgetall(_KEYS("WAIT_COUNTS", event)) for event in _subjects(client, "WAIT_COUNTS")}
    waited = {event: {paths: int(count) for paths, count in found.items()} for event, found in waited.items()}
    assert waited == counts, "W2: the counts of waits are others"


def _compare_rq(client: redis.Redis | Part, expected: Expected, list_of: dict[str, str]) -> None:
    own = [job for job in _subjects(client, "RQ_JOB") if not _is_foreign(client, job)]
    jobs = {job: client.hgetall(_KEYS("RQ_JOB", job)) for job in own}
    statuses = {job: fields.get("status") for job, fields in jobs.items()}
    assert statuses == expected.rq_status, "Q1: RQ's jobs have other statuses"
    for job, name in list_of.items():
        if _is_foreign(client, job):
            continue
        assert jobs[job]["origin"] == name, f"Q1: {job} is on list {name} and says {jobs[job]['origin']}"
    for kind, wanted in (
        ("RQ_WIP", expected.rq_wip),
        ("RQ_SCHEDULED", expected.rq_scheduled),
        ("RQ_FAILED", expected.rq_failed),
    ):
        found = {member for name in _subjects(client, kind) for member in client.zrange(_KEYS(kind, name), 0, -1)}
        assert found == wanted, f"Q1: {kind} holds {found}, not {wanted}"


def _subjects(client: redis.Redis | Part, kind: str) -> list[str]:
    """The ids of all keys of a kind."""
    prefix = _KEYS(kind)
    return [name.removeprefix(prefix) for name in client.scan_iter(f"{prefix}*", count=1000)]
