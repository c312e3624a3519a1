"""Concurrency limits: random runs, steps, crashes and clock moves never exceed a limit, and every job is executed."""

from __future__ import annotations

import random

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.flow_control import ConcurrencyConfig, FlowConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from tests.support.driver import LEASE_MS, RETENTION_MS, Driver

TENANTS, LIMIT, TOTAL = 3, 2, 4
CONFIG = FunctionConfig(
    "shop",
    "buy",
    "shop",
    flow=FlowConfig(concurrency=(ConcurrencyConfig(LIMIT, "event.data.tenant"), ConcurrencyConfig(TOTAL))),
    retention_ms=RETENTION_MS,
)


class Crowd:
    """Runs of one step and then three at once, by workers that sometimes die."""

    def __init__(self, driver: Driver, seed: int) -> None:
        self.driver = driver
        self.random = random.Random(seed)
        self.tenant_of: dict[str, int] = {}
        self.leases: dict[str, Lease] = {}
        self.runs = 0

    def check(self) -> None:
        """No limit is passed by those whose leases are good."""
        good = [lease for lease in self.leases.values() if self._is_good(lease)]
        assert len(good) <= TOTAL
        for tenant in range(TENANTS):
            assert sum(self.tenant_of[lease.run_id] == tenant for lease in good) <= LIMIT

    def _is_good(self, lease: Lease) -> bool:
        score = self.driver.client.zscore(self.driver.keys("LEASES"), lease.job)
        return score is not None and score > self.driver.now_ms

    def start(self) -> None:
        run, tenant = f"run{self.runs}", self.random.randrange(TENANTS)
        self.runs += 1
        self.tenant_of[run] = tenant
        event = dumps({"name": "e", "id": run, "ts": 1, "data": {"tenant": tenant}})
        call = start_run(self.driver.partition, CONFIG, run_id=run, event=event, dedupe=False)
        assert self.driver.send(call) is ScriptStatus.DONE

    def claim(self) -> None:
        for lease in self.driver.claim(self.random.randint(1, 5)) or ():
            self.leases[lease.job] = lease

    def work(self) -> None:
        """One lease makes progress: a step's is committed; a run's plans its steps, is parked, or ends."""
        if not self.leases:
            return
        lease = self.leases.pop(self.random.choice(sorted(self.leases)))
        if not self._is_good(lease):
            return
        if lease.key:
            self.driver.commit(lease)
            return
        steps = self.driver.steps(lease.run_id)
        memos = {key for key, _ in self.driver.memos(lease.run_id)}
        wanted = ["first"] if not memos else ["a", "b", "c"]
        missing = [step for step in wanted if step_key(step) not in memos and step_key(step) not in steps]
        if wanted == ["first"] and self.random.random() < 0.5:
            self.driver.commit(lease, "first")
            self.driver.yield_run(lease)
        elif missing:
            self.driver.plan(lease, *missing)
            self.driver.park(lease, len(memos))
        elif steps:
            self.driver.park(lease, len(memos))
        else:
            self.driver.finish(lease)

    def die(self) -> None:
        """A worker forgets what it had; its leases run out."""
        if self.leases:
            self.leases.pop(self.random.choice(sorted(self.leases)))

    def pass_time(self) -> None:
        self.driver.now_ms += self.random.choice([1, 1_000, LEASE_MS, 61_000])
        alive = list(self.leases.values())
        if alive and self.random.random() < 0.7:
            self.driver.extend(*[lease for lease in alive if self._is_good(lease)])
        self.driver.reclaim()

    def cancel(self) -> None:
        self.driver.cancel(f"run{self.random.randrange(max(1, self.runs))}")

    def over(self) -> bool:
        return not self.driver.client.zcard(self.driver.keys("LIVE"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_limits_hold_at_every_instant_and_everybody_gets_through(driver: Driver, seed: int) -> None:
    crowd = Crowd(driver, seed)
    moves = [crowd.start, crowd.claim, crowd.claim, crowd.work, crowd.work, crowd.work, crowd.die, crowd.pass_time]
    for turn in range(100):
        crowd.random.choice([*moves, crowd.cancel] if turn % 5 == 0 else moves)()
        crowd.check()
    driver.now_ms += 61_000  # whatever is held or reserved lapses; from now on nobody dies
    driver.reclaim()
    crowd.leases.clear()
    for _ in range(1_000):
        if crowd.over():
            break
        crowd.random.choice([crowd.claim, crowd.work, crowd.work])()
        crowd.check()
    assert crowd.over(), f"seed {seed}: some runs never got through"
    assert not [
        *driver.client.scan_iter("stepflow:concurrency-slots:*"),
        *driver.client.scan_iter("stepflow:wait-list:*"),
    ]


def test_a_tenant_in_a_shared_line_has_no_more_jobs_there_than_slots_of_its_own(driver: Driver) -> None:
    """However many runs one tenant has, another's first is soon at hand."""
    crowd = Crowd(driver, 0)
    for tenant in (0, *[1] * 30, 2):
        crowd.random.randrange = lambda _stop, tenant=tenant: tenant  # type: ignore[method-assign]
        crowd.start()
    lines = {name: driver.client.zcard(name) for name in driver.client.scan_iter("stepflow:wait-list:*")}
    assert lines.pop(driver.keys("WAIT_LIST", "shop/buy:event.data.tenant=1")) == 30 - LIMIT
    assert not lines
    taken = driver.claim(10) or []
    assert sorted(crowd.tenant_of[lease.run_id] for lease in taken) == [0, 1, 1, 2]


def test_a_lease_that_comes_late_is_not_kept_when_its_slot_is_another_s(driver: Driver) -> None:
    config = FunctionConfig("shop", "one", "shop", flow=FlowConfig(concurrency=(ConcurrencyConfig(1),)))
    for run in ("run1", "run2"):
        event = dumps({"name": "e", "id": run, "ts": 1, "data": {}})
        driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))
    first = driver.claim_one()
    driver.now_ms += LEASE_MS + 1
    event = dumps({"name": "e", "id": "run3", "ts": 1, "data": {}})
    driver.send(start_run(driver.partition, config, run_id="run3", event=event, dedupe=False))
    second = driver.claim_one()  # a start has found that the slot had lapsed
    assert second.run_id == "run2"
    assert driver.extend(first, second) == [first.job]
