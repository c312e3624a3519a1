"""Maps in random orders: deaths, retries, children and cancels. The invariants hold after each call, and all ends."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.transitions.invokes.outbox import EndedRun, read_finished, take_over_finished
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.ids import is_item_key, step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.backends import Store, fake_store, real_store
from tests.support.driver import ERROR, LEASE_MS, RETENTION_MS, Driver

MAP, RUN = step_key("map"), "run1"
COUNT, TOLERATED = 6, 2
FAILED, DONE = b'{"error":' + ERROR + b',"id":"item"}', b'{"data":1}'
FINDINGS = {"lease_overdue", "timer_overdue", "no_consumers", "stream_behind", "pending_overdue", "queue_unserved"}
"""What the doctor finds where no worker works."""


class Maps(RuleBasedStateMachine):
    """One run with one map. A lease that was ever given may be used at any time."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.store.client.flushall()
        self.driver = Driver(self.store)
        for kind in ("EVENTS", "FINISHED"):
            self.store.broker.execute(create_group(self.driver.keys, kind))
        self.run = self.driver.started()
        self.leases: list[Lease] = []
        self.numbers = itertools.count(1)

    # -- what workers do -------------------------------------------------------------

    def take(self, lease: Lease) -> None:
        if lease.job == RUN:
            self.run = lease
        else:
            self.leases.append(lease)

    def lease(self, data: st.DataObject, *, of_item: bool) -> Lease | None:
        """A lease of an item, or of a child; the last ones sooner than the first."""
        found = [one for one in reversed(self.leases) if (is_item_key(one.key) if of_item else one.run_id != RUN)]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(at_once=st.integers(1, 4), twice=st.booleans())
    def begin(self, at_once: int, twice: bool) -> None:
        self.driver.twice = twice
        self.driver.begin_map(self.run, count=COUNT, at_once=at_once, tolerated=TOLERATED)

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        for lease in self.driver.claim(limit, worker="w2") or []:
            self.take(lease)

    @rule(data=st.data(), text=st.sampled_from([DONE, FAILED]), twice=st.booleans())
    def commit(self, data: st.DataObject, text: bytes, twice: bool) -> None:
        self.driver.twice = twice
        if (lease := self.lease(data, of_item=True)) is not None:
            self.driver.commit_item(lease, text)

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.driver.twice = False
        if (lease := self.lease(data, of_item=True)) is not None:
            self.driver.fail(lease, attempts=lease.step_attempt + 1)

    @rule(data=st.data(), twice=st.booleans())
    def invoke(self, data: st.DataObject, twice: bool) -> None:
        self.driver.twice = twice
        if (lease := self.lease(data, of_item=True)) is not None:
            self.driver.invoke(lease, lease.step_id, child=f"child{next(self.numbers)}")

    @rule(data=st.data(), status=st.sampled_from([RunStatus.COMPLETED, RunStatus.FAILED]), wakes=st.booleans())
    def finish_child(self, data: st.DataObject, status: RunStatus, wakes: bool) -> None:
        self.driver.twice = False
        if (lease := self.lease(data, of_item=False)) is not None:
            self.driver.finish(lease, status)
            if wakes:
                self.driver.wake(lease.run_id)

    @rule(milliseconds=st.sampled_from([1_000, LEASE_MS, 60_000]))
    def pass_time(self, milliseconds: int) -> None:
        self.driver.twice = False
        self.driver.advance(milliseconds)
        self.driver.fire()
        self.driver.reclaim()

    @rule()
    def cancel_map(self) -> None:
        self.driver.twice = False
        call = cancel_steps(
            self.driver.partition, run_id=RUN, fence=self.run.fence, keys=[MAP], retention_ms=RETENTION_MS
        )
        self.driver.send(call)

    # -- the end ---------------------------------------------------------------------

    def teardown(self) -> None:
        """Whatever has happened, workers bring the map to its end, and nothing of it is left but its memo."""
        self.driver.twice = False
        for _ in range(50):
            if self.driver.memos():
                break
            self._work()
        assert [key for key, _ in self.driver.memos()] == [MAP], "the map has not ended"
        assert not self.driver.client.keys(self.driver.keys("ITEMS", "*"))
        found = {one.code for one in examine(self.store.broker, self.driver.partition)}
        assert found <= FINDINGS, found

    def _work(self) -> None:
        driver = self.driver
        driver.advance(LEASE_MS)
        driver.reclaim()
        driver.fire()
        for lease in driver.claim(worker="w3") or []:
            if lease.job == RUN:
                self.run = lease
                driver.begin_map(lease, count=COUNT, at_once=2, tolerated=TOLERATED)
            elif is_item_key(lease.key):
                driver.commit_item(lease)
            elif lease.key:
                driver.commit(lease, text=b'{"data":[],"id":"map","kind":"map"}')
            else:
                driver.finish(lease)
        calls = (
            read_finished(driver.partition, "w3", limit=100),
            take_over_finished(driver.partition, "w3", idle_ms=0, limit=100),
        )
        for event in [event for call in calls for event in self.store.broker.execute(call)]:
            if isinstance(event, EndedRun):
                driver.wake(event.run_id)


def run_machine(store: Store, count: int) -> None:
    how = settings(max_examples=count, stateful_step_count=30, deadline=None, phases=(Phase.explicit, Phase.generate))
    try:
        run_state_machine_as_test(type("MapsHere", (Maps,), {"store": store}), settings=how)
    finally:
        store.client.close()
        store.broker.close()


@pytest.mark.slow
def test_a_map_ends_whatever_happens_to_its_items_on_a_real_server(url: str) -> None:
    run_machine(real_store(url), 50)


def test_a_map_ends_whatever_happens_to_its_items_on_fakeredis() -> None:
    run_machine(fake_store(), 5)
