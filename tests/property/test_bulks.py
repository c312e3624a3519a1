"""Workers that execute a bulk may die, pause and wake up at any time: each run is forked once, and counted once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import fakeredis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.runs.bulks import (
    BulkRecord,
    BulkStart,
    Outcome,
    TakenRuns,
    add_bulk_runs,
    read_bulk,
    settle_bulk_runs,
    start_bulk,
    stop_bulk,
    take_bulk_runs,
)
from stepflow_engine.cipher import NO_ENCRYPTION
from tests.support.backends import FakeBroker
from tests.support.driver import START_MS
from tests.support.plain import SetClock

HOLD_MS = 2_000
PACE = 1.5
"""How much faster than the rate a bulk makes up for time in which no runs were taken."""
CREDIT_S, PACE_CREDIT_S = 5, 0.25
"""How much time it makes up for, by the rate and by the pace."""
WORKERS = st.sampled_from(["w1", "w2"])
EVENTS = st.one_of(
    st.tuples(st.just("take"), WORKERS),
    st.tuples(st.just("fork"), WORKERS),  # some of what it has taken
    st.tuples(st.just("settle"), WORKERS),  # it forks the rest first
    st.tuples(st.just("die"), WORKERS),
    st.tuples(st.just("advance"), st.sampled_from([100, HOLD_MS + 1, 4 * HOLD_MS])),
)


@dataclass(slots=True)
class Bulk:
    """A bulk, and the workers that execute it. What a fork does is a set here: its id follows from the run."""

    broker: FakeBroker
    total: int
    per_second: float
    now_ms: int = START_MS
    held: dict[str, TakenRuns] = field(default_factory=dict)
    forked: dict[str, int] = field(default_factory=dict)
    partition: Partition = field(init=False)

    def __post_init__(self) -> None:
        self.partition = Partition.first_of(Keys(), NO_ENCRYPTION, SetClock(lambda: self.now_ms))
        self.broker.execute(add_bulk_runs(self.partition, "b1", 0, [f"run{number}" for number in range(self.total)]))
        start = BulkStart("b1", self.total, "shop/buy", b"{}", self.per_second, "me")
        assert self.broker.execute(start_bulk(self.partition, start)) is ScriptStatus.DONE

    def take(self, worker: str) -> ScriptStatus:
        call = take_bulk_runs(self.partition, "b1", worker=worker, hold_ms=HOLD_MS)
        taken = self.broker.execute(call)
        again = self.broker.execute(call)
        assert (again.status, again.runs) == (taken.status, taken.runs)
        if taken.status is ScriptStatus.DONE:
            self.held[worker] = taken
        return taken.status

    def fork(self, worker: str, *, share: int = 2) -> None:
        taken = self.held.get(worker)
        for run in taken.runs[::share] if taken else ():
            self.forked.setdefault(run, self.now_ms)

    def settle(self, worker: str) -> None:
        self.fork(worker, share=1)
        taken = self.held.pop(worker, None)
        if taken is not None:
            outcomes = [Outcome("done") if int(run[3:]) % 3 else Outcome("skipped", "why", run) for run in taken.runs]
            call = settle_bulk_runs(
                self.partition, "b1", outcomes, worker=worker, hold_ms=HOLD_MS, settled=taken.settled
            )
            self.broker.execute(call)
            assert not taken.runs or self.broker.execute(call) is ScriptStatus.ALREADY

    def happen(self, event: tuple[str, str | int]) -> None:
        match event:
            case ("take", str(worker)):
                self.take(worker)
            case ("fork", str(worker)):
                self.fork(worker)
            case ("settle", str(worker)):
                self.settle(worker)
            case ("die", str(worker)):
                self.held.pop(worker, None)
            case ("advance", int(ms)):
                self.now_ms += ms

    def finish(self) -> BulkRecord:
        """Have one worker do the rest."""
        while (status := self.take("w9")) is not ScriptStatus.NO_RUN:
            wait_ms = self.held["w9"].wait_ms if status is ScriptStatus.DONE else HOLD_MS
            self.now_ms += max(20, wait_ms)
            self.settle("w9")
        record = self.broker.execute(read_bulk(self.partition, "b1"))
        assert record is not None
        return record

    def check_rate(self) -> None:
        """No more runs were forked for the first time in a short or a long time than the pace and the rate allow."""
        times = sorted(self.forked.values())
        for window_s in (1, 2, 5, 10, 20):
            most = max(sum(at <= other < at + window_s * 1_000 for other in times) for at in times)
            by_pace = PACE * self.per_second * (window_s + PACE_CREDIT_S)
            assert most <= min(by_pace, self.per_second * (window_s + CREDIT_S)) + 2, "a burst"


OVERTAKEN: list[tuple[str, str | int]] = [
    ("take", "w1"),
    ("advance", HOLD_MS + 1),
    ("take", "w2"),
    ("settle", "w2"),
    ("take", "w2"),
    ("settle", "w1"),
]


@settings(max_examples=20)
@example(OVERTAKEN, 9, 10.0)
@given(st.lists(EVENTS, max_size=25), st.integers(1, 40), st.sampled_from([10.0, 20.0]))
def test_each_run_is_forked_once_and_counted_once(
    events: list[tuple[str, str | int]], total: int, per_second: float
) -> None:
    bulk = Bulk(FakeBroker(fakeredis.FakeServer()), total, per_second)
    for event in events:
        bulk.happen(event)
    record = bulk.finish()
    assert set(bulk.forked) == {f"run{number}" for number in range(total)}
    skipped = sum(number % 3 == 0 for number in range(total))
    assert (record.state, record.done, record.skipped) == ("completed", total - skipped, skipped)
    assert Counter({why: count for why, (count, _) in record.reasons.items()}) == Counter({("skipped", "why"): skipped})
    bulk.check_rate()


@settings(max_examples=20)
@given(st.lists(EVENTS, max_size=25), st.lists(EVENTS, max_size=10), st.integers(1, 30))
def test_a_stopped_bulk_has_counted_what_it_has_forked(
    before: list[tuple[str, str | int]], after: list[tuple[str, str | int]], total: int
) -> None:
    bulk = Bulk(FakeBroker(fakeredis.FakeServer()), total, 10.0)
    for event in before:
        bulk.happen(event)
    bulk.broker.execute(stop_bulk(bulk.partition, "b1", who="ann"))
    for event in after:
        bulk.happen(event)
    record = bulk.finish()
    assert record.state in ("stopped", "completed")
    assert record.done + record.skipped == len(bulk.forked)
