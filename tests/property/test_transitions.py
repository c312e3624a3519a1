"""The scripts against a model, in random orders, with stale leases, lost replies and a moving clock."""

from __future__ import annotations

import itertools
import os

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import RunStatus
from tests.property.model import Model, Run
from tests.support.backends import Store, fake_store, real_store
from tests.support.driver import LEASE_MS, Driver, memo

RUNS = ("run1", "run2")
STEPS = ("a", "b", "c")
WORKERS = ("w1", "w2")
ENDS = (RunStatus.COMPLETED, RunStatus.FAILED)
QUEUES = ("shop", "gpu")
LATE = {"lease_overdue", "timer_overdue", "queue_unserved"}
"""Findings that need a moving clock, or a live worker, only."""
UNROUTED = {"no_consumers", "stream_behind"}
"""Findings on the events of cancelled runs, which nothing routes here."""


class Transitions(RuleBasedStateMachine):
    """Calls scripts and the model alike. A lease that was ever given may be used at any time."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.store.client.flushall()
        self.driver = Driver(self.store)
        self.store.broker.execute(create_group(self.driver.keys, "EVENTS"))  # for the events of cancelled runs
        self.model = Model()
        self.leases: list[Lease] = []
        self.texts = itertools.count(1)

    # -- runs ------------------------------------------------------------------------

    @rule(name=st.sampled_from(RUNS), twice=st.booleans())
    def start(self, name: str, twice: bool) -> None:
        self.driver.twice = twice
        expected = ScriptStatus.ALREADY if name in self.model.runs else ScriptStatus.DONE
        self.model.runs.setdefault(name, Run())
        assert self.driver.start(name) == expected

    @rule(name=st.sampled_from(RUNS), twice=st.booleans())
    def cancel(self, name: str, twice: bool) -> None:
        self.driver.twice = twice
        assert self.driver.cancel(name) == self.model.cancel(name)

    # -- jobs ------------------------------------------------------------------------

    @rule(limit=st.integers(1, 4), worker=st.sampled_from(WORKERS))
    def claim(self, limit: int, worker: str) -> None:
        started, new = self.model.ready()
        claimed = self.driver.claim(limit, worker=worker, queues=QUEUES) or []
        assert len(claimed) == min(limit, len(started) + len(new))
        assert {lease.job for lease in claimed[: len(started)]} <= started
        for lease in claimed:
            self.model.claimed(lease, self.driver.now_ms + LEASE_MS)
        self.leases += claimed

    def lease(self, data: st.DataObject, *, of_step: bool | None = None) -> Lease | None:
        """A lease that was ever given, the last ones sooner than the first."""
        found = [lease for lease in reversed(self.leases) if of_step is None or bool(lease.key) is of_step]
        return data.draw(st.sampled_from(found)) if found else None

    def free_step(self, lease: Lease, data: st.DataObject) -> str | None:
        """A step that the holder of a run may execute itself: one without a job; any, if the lease is not valid."""
        run = self.model.runs[lease.run_id]
        valid = self.model.holds(lease) is not None
        free = [name for name in STEPS if not valid or step_key(name) not in run.steps | run.memos]
        return data.draw(st.sampled_from(free)) if free else None

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans(), twice=st.booleans())
    def commit_own(self, data: st.DataObject, keep: bool, twice: bool) -> None:
        lease = self.lease(data, of_step=False)
        step_id = lease and self.free_step(lease, data)
        if lease is not None and step_id:
            self.commit(lease, step_id, keep=keep, twice=twice)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), twice=st.booleans())
    def commit_planned(self, data: st.DataObject, twice: bool) -> None:
        lease = self.lease(data, of_step=True)
        if lease is not None:
            self.commit(lease, lease.step_id, keep=True, twice=twice)

    def commit(self, lease: Lease, step_id: str, *, keep: bool, twice: bool) -> None:
        text = memo(next(self.texts))
        self.driver.twice = False
        for _ in range(2 if twice else 1):
            expected = self.model.commit(lease, step_key(step_id), text, keep=keep)
            assert self.driver.commit(lease, step_id, text=text, keep=keep) == expected

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        step_ids=st.lists(st.sampled_from(STEPS), min_size=1, unique=True),
        queue=st.sampled_from(QUEUES),
        twice=st.booleans(),
    )
    def plan(self, data: st.DataObject, step_ids: list[str], queue: str, twice: bool) -> None:
        lease = self.lease(data, of_step=False)
        if lease is not None:
            self.driver.twice = twice
            own = queue if queue != "shop" else ""
            assert self.driver.plan(lease, *step_ids, queue=own) == self.model.plan(lease, step_ids, queue)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), delay_ms=st.integers(0, 2 * LEASE_MS), twice=st.booleans())
    def fail_own(self, data: st.DataObject, delay_ms: int, twice: bool) -> None:
        lease = self.lease(data, of_step=False)
        step_id = lease and self.free_step(lease, data)
        if lease is not None and step_id:
            self.fail(lease, step_id, 1, delay_ms, twice=twice)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), delay_ms=st.integers(0, 2 * LEASE_MS), twice=st.booleans())
    def fail_planned(self, data: st.DataObject, delay_ms: int, twice: bool) -> None:
        lease = self.lease(data, of_step=True)
        if lease is not None:
            self.fail(lease, lease.step_id, lease.step_attempt + 1, delay_ms, twice=twice)

    def fail(self, lease: Lease, step_id: str, attempts: int, delay_ms: int, *, twice: bool) -> None:
        self.driver.twice = twice
        expected = self.model.fail(lease, step_key(step_id), attempts, self.driver.now_ms + delay_ms)
        assert self.driver.fail(lease, step_id, attempts=attempts, delay_ms=delay_ms) == expected

    # -- giving a run up ---------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), delay_ms=st.integers(0, 2 * LEASE_MS), twice=st.booleans())
    def retry(self, data: st.DataObject, delay_ms: int, twice: bool) -> None:
        lease = self.lease(data, of_step=False)
        if lease is not None:
            self.driver.twice = twice
            expected = self.model.retry(lease, self.driver.now_ms + delay_ms)
            assert self.driver.retry(lease, delay_ms=delay_ms) == expected

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), late=st.booleans(), twice=st.booleans())
    def park(self, data: st.DataObject, late: bool, twice: bool) -> None:
        """A holder parks a run that waits for steps; it may not have heard of the last memo."""
        lease = self.lease(data, of_step=False)
        if lease is None:
            return
        run = self.model.runs[lease.run_id]
        applied = max(0, len(run.memos) - late)
        if self.model.holds(lease) and not run.steps and applied == len(run.memos):
            return
        self.driver.twice = twice
        assert self.driver.park(lease, applied) == self.model.park(lease, applied)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), status=st.sampled_from(ENDS), twice=st.booleans())
    def finish(self, data: st.DataObject, status: RunStatus, twice: bool) -> None:
        lease = self.lease(data, of_step=False)
        if lease is not None:
            self.driver.twice = twice
            assert self.driver.finish(lease, status) == self.model.finish(lease, status)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), twice=st.booleans())
    def release(self, data: st.DataObject, twice: bool) -> None:
        lease = self.lease(data)
        if lease is not None:
            self.driver.twice = twice
            assert self.driver.release(lease) == self.model.release(lease)

    # -- time ----------------------------------------------------------------------------

    @rule(milliseconds=st.sampled_from([1, 500, LEASE_MS - 1, LEASE_MS, 3 * LEASE_MS]))
    def advance(self, milliseconds: int) -> None:
        self.driver.advance(milliseconds)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), twice=st.booleans())
    def extend(self, data: st.DataObject, twice: bool) -> None:
        lease = self.lease(data)
        if lease is not None:
            self.driver.twice = twice
            assert self.driver.extend(lease) == self.model.extend(lease, self.driver.now_ms + LEASE_MS)

    @rule(twice=st.booleans())
    def reclaim(self, twice: bool) -> None:
        self.driver.twice = twice
        assert set(self.driver.reclaim()) == self.model.due("leased", self.driver.now_ms)

    @rule(twice=st.booleans())
    def fire(self, twice: bool) -> None:
        self.driver.twice = twice
        fired, _ = self.driver.fire()
        assert fired == len(self.model.due("delayed", self.driver.now_ms))

    # -- what holds ------------------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), twice=st.booleans())
    def continue_as_new(self, data: st.DataObject, twice: bool) -> None:
        lease = self.lease(data, of_step=False)
        if lease is not None:
            self.driver.twice = twice
            assert self.driver.continue_as_new(lease) == self.model.continue_as_new(lease)

    @invariant()
    def the_server_has_what_the_model_has(self) -> None:
        for name, run in self.model.runs.items():
            record = self.driver.run(name)
            assert record.status.ended == run.status.ended
            if run.status.ended:
                assert record.status is run.status
            else:
                assert (record.continuation or "none") == run.continuation.state
                steps = {step.key: (step.state, step.attempts) for step in self.driver.steps(name).values()}
                assert steps == {key: (job.state, job.attempts) for key, job in run.steps.items()}
            assert self.driver.memos(name) == list(run.memos.items())
        started, new = self.model.ready()
        queued = self.model.jobs("queued")
        for queue in QUEUES:
            on_queue = {name for name in started if queued[name].queue == queue}
            assert set(self.driver.queued(f"{queue}:steps")) == on_queue
        assert set(self.driver.queued("shop")) == new

    @invariant()
    def leases_and_timers_end_when_the_model_says(self) -> None:
        client, keys = self.driver.client, self.driver.keys
        leases = {name: job.until_ms for name, job in self.model.jobs("leased").items()}
        timers = {f"job:{name}": job.until_ms for name, job in self.model.jobs("delayed").items()}
        assert dict(client.zrange(keys("LEASES"), 0, -1, withscores=True)) == leases
        assert dict(client.zrange(keys("TIMEOUTS"), 0, -1, withscores=True)) == timers

    def teardown(self) -> None:
        """The doctor finds nothing, and every run that is left alone can be completed.

        Workers that die lose time and nothing else.
        """
        self.driver.twice = False
        found = examine(self.store.broker, self.driver.partition)
        assert [finding for finding in found if finding.code not in LATE | UNROUTED] == []
        live = {name for name, run in self.model.runs.items() if not run.status.ended}
        for _ in range(100):
            if not any(not self.driver.run(name).status.ended for name in live):
                break
            self.driver.advance(3 * LEASE_MS)
            self.driver.reclaim()
            self.driver.fire()
            for lease in self.driver.claim(queues=QUEUES) or ():
                self.complete(lease)
        for name in live:
            assert self.driver.run(name).status is RunStatus.COMPLETED
            recorded = dict(self.driver.memos(name))
            assert self.model.runs[name].memos.items() <= recorded.items()

    def complete(self, lease: Lease) -> None:
        """Do a job as a worker does it: the step; or the code, which waits for the planned steps and then ends."""
        if lease.key:
            assert self.driver.commit(lease)[0] is ScriptStatus.DONE
        elif self.driver.steps(lease.run_id):
            assert self.driver.park(lease, lease.applied) in (ScriptStatus.DONE, ScriptStatus.MORE)
        else:
            assert self.driver.finish(lease) is ScriptStatus.DONE


def examples(most: int, *phases: Phase) -> settings:
    """Settings for a machine; STEPFLOW_EXAMPLES multiplies the number of examples."""
    scale = int(os.environ.get("STEPFLOW_EXAMPLES", "1"))
    return settings(max_examples=most * scale, stateful_step_count=40, phases=phases)


def run_machine(store: Store, how: settings) -> None:
    try:
        run_state_machine_as_test(type("TransitionsHere", (Transitions,), {"store": store}), settings=how)
    finally:
        store.client.close()
        store.broker.close()


def test_scripts_and_model_agree_whatever_is_called_on_a_real_server(url: str) -> None:
    run_machine(real_store(url), examples(50, Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))


def test_scripts_and_model_agree_whatever_is_called_on_fakeredis() -> None:
    """Not shrunk: that takes minutes here, and seconds on the real server."""
    run_machine(fake_store(), examples(15, Phase.explicit, Phase.reuse, Phase.generate))
