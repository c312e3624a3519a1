"""Flow control: whatever a random crowd of events, crashes and clock moves does, runs start as the model says."""

from __future__ import annotations

import itertools
import os
import random

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.flow_control import (
    ConcurrencyConfig,
    DebounceConfig,
    FlowConfig,
    RateConfig,
    SingletonConfig,
    ThrottleConfig,
)
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.run_starts import start_runs
from stepflow_engine.codec import dumps
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, Driver
from tests.support.flow_model import DAY_MS, FlowModel, Life, Sent

TICK_MS = 10_000
"""The clock moves by whole ticks, and all periods are whole ticks: so keys expire to the tick, on the test's clock."""

DAY_TICKS = DAY_MS // TICK_MS
USERS, SHOPS, ORDERS, TOTAL = 3, 2, 5, 2
SEEDS = range(int(os.environ.get("STEPFLOW_EXAMPLES", "1")))
USER, SHOP, ORDER = "event.data.user", "event.data.shop", "event.data.order"
EXPIRING, LASTING = ("IDEMPOTENCY", "RATE", "THROTTLE", "DEBOUNCE"), ("SINGLETON", "CONCURRENCY_SLOTS", "WAIT_LIST")

RATE = RateConfig(3, 6 * TICK_MS, SHOP)
THROTTLE = ThrottleConfig(4, 6 * TICK_MS, 2, USER)
DEBOUNCE = DebounceConfig(3 * TICK_MS, 0, USER)
BOUNDED = DebounceConfig(3 * TICK_MS, 5 * TICK_MS, USER)
SKIP, CANCEL, ATTACH = (SingletonConfig(mode, SHOP) for mode in ("skip", "cancel", "attach"))
GATES = (ConcurrencyConfig(1, USER), ConcurrencyConfig(TOTAL))

FLOWS = {  # debounce and throttle cannot go together
    "rate": FlowConfig(rate_limit=RATE),
    "throttle": FlowConfig(throttle=THROTTLE),
    "debounce": FlowConfig(debounce=DEBOUNCE),
    "debounce-timeout": FlowConfig(debounce=BOUNDED),
    "singleton-skip": FlowConfig(singleton=SKIP),
    "singleton-cancel": FlowConfig(singleton=CANCEL),
    "once": FlowConfig(idempotency=ORDER),
    "rate-concurrency-once": FlowConfig(rate_limit=RATE, concurrency=GATES, idempotency=ORDER),
    "rate-debounce": FlowConfig(rate_limit=RATE, debounce=DEBOUNCE),
    "rate-singleton-skip": FlowConfig(rate_limit=RATE, singleton=SKIP),
    "rate-singleton-cancel": FlowConfig(rate_limit=RATE, singleton=CANCEL),
    "rate-singleton-attach": FlowConfig(rate_limit=RATE, singleton=ATTACH),
    "singleton-skip-debounce": FlowConfig(singleton=SKIP, debounce=BOUNDED),
    "singleton-cancel-debounce": FlowConfig(singleton=CANCEL, debounce=BOUNDED),
    "throttle-concurrency": FlowConfig(throttle=THROTTLE, concurrency=GATES),
}


class Crowd:
    """Events of a few users, and workers that sometimes die; every call may be sent twice."""

    def __init__(self, driver: Driver, flow: FlowConfig, seed: int = 0) -> None:
        self.driver, self.model, self.random = driver, FlowModel(flow), random.Random(seed)
        self.config = FunctionConfig("shop", "buy", "shop", flow=flow, retention_ms=RETENTION_MS)
        self.leases: dict[str, Lease] = {}
        self.expires_ms: dict[str, int] = {}
        self.unseen: set[str] = set()
        self.numbers = itertools.count()

    # -- moves -------------------------------------------------------------------

    def start(self) -> None:
        self.send(*[self.any_event() for _ in range(self.random.randint(1, 3))])

    def any_event(self) -> Sent:
        user, shop, order = (self.random.randrange(most) for most in (USERS, SHOPS, ORDERS))
        return self.event(user=user, shop=shop, order=order, age_ms=TICK_MS * self.random.randint(-2, 2))

    def event(self, *, user: int = 0, shop: int = 0, order: int = 0, age_ms: int = 0) -> Sent:
        """An event that comes now, and is so old."""
        now_ms = self.driver.now_ms
        return Sent(f"run{next(self.numbers)}", user, shop, order, now_ms - age_ms, now_ms)

    def send(self, *events: Sent) -> list[str]:
        """Start runs in one script -> why each was refused, if it was; the model says the same."""
        words = [(sent.run, _event_text(sent)) for sent in events]
        codes = self.driver.send(start_runs(self.driver.partition, self.config, words))
        self.hold_expiries()
        return [self.compare(sent, code) for sent, code in zip(events, codes, strict=True)]

    def compare(self, sent: Sent, code: ScriptStatus) -> str:
        reasons = self.model.refusals(sent)
        if not reasons:
            assert code is ScriptStatus.DONE, f"{sent} was refused: {self.driver.run(sent.run).reason}"
            self.model.start(sent)
            self.unseen.add(sent.run)
            return ""
        assert code is ScriptStatus.RESOLVED, f"{sent} was started, in spite of: {reasons}"
        record = self.driver.run(sent.run)
        assert (record.status, record.reason in reasons) == (RunStatus.SKIPPED, True), f"{sent}: {record.reason}"
        self.forget(sent.run)
        return record.reason

    def claim(self) -> None:
        limit = self.random.randint(1, 4)
        ready = {run for run, life in self.model.live().items() if life.state == "queued"}
        found = {lease.run_id: lease for lease in self.driver.claim(limit) or ()}
        assert set(found) <= ready, "a run was claimed that has not started, or has been claimed"
        assert self.model.flow.concurrency or len(found) == min(limit, len(ready)), (
            "a run that is ready was not claimed"
        )
        for run in found:
            self.model.lives[run].state = "leased"
        self.leases |= found

    def take(self) -> tuple[Lease, Life] | None:
        """A lease that some worker still has."""
        if not self.leases:
            return None
        lease = self.leases.pop(self.random.choice(sorted(self.leases)))
        return lease, self.model.lives[lease.run_id]

    def finish(self) -> None:
        if taken := self.take():
            status = self.random.choice([RunStatus.COMPLETED, RunStatus.COMPLETED, RunStatus.FAILED])
            assert self.driver.finish(taken[0], status) is ScriptStatus.DONE
            taken[1].end(status)

    def retry(self) -> None:
        if taken := self.take():
            delay_ms = TICK_MS * self.random.randint(1, 3)
            assert self.driver.retry(taken[0], delay_ms=delay_ms) is ScriptStatus.DONE
            taken[1].state, taken[1].due_ms = "delayed", self.driver.now_ms + delay_ms

    def die(self) -> None:
        """A worker forgets what it had; the lease runs out."""
        self.take()

    def cancel(self) -> None:
        if lives := self.model.live():
            run = self.random.choice(sorted(lives))
            assert self.driver.cancel(run) is ScriptStatus.DONE
            lives[run].end(RunStatus.CANCELLED)

    def fire(self) -> None:
        assert self.driver.fire()[0] == self.model.fire(self.driver.now_ms)

    def reclaim(self) -> None:
        for run in self.driver.reclaim():
            self.model.lives[run].state = "queued"
            self.leases.pop(run, None)

    def pass_time(self, ticks: int = 0) -> None:
        ticks = ticks or self.random.choice([1, 1, 1, 2, 2, 3, 3, 6, DAY_TICKS // 2])
        self.driver.advance(ticks * TICK_MS)
        for name in [name for name, at_ms in self.expires_ms.items() if at_ms < self.driver.now_ms]:
            self.driver.client.delete(name)
            del self.expires_ms[name]
        if self.leases and self.random.random() < 0.7:
            self.driver.extend(*self.leases.values())
        if self.random.random() < 0.7:
            self.reclaim()

    def finish_all(self) -> None:
        """From now on nobody dies, and everything runs that should."""
        for _ in range(200):
            if not self.model.live():
                return
            for move in (self.fire, self.reclaim, self.claim, self.finish, self.finish):
                move()
                self.check()
            self.pass_time(1)
        raise AssertionError(f"some runs never got through: {self.model.live()}")

    # -- what holds --------------------------------------------------------------

    def check(self) -> None:
        """The server has the runs, times and singletons that the model has, and no limit is passed."""
        client, keys = self.driver.client, self.driver.keys
        self.see_ends()
        assert set(client.zrange(keys("LIVE"), 0, -1)) == set(self.model.live())
        assert dict(client.zrange(keys("TIMEOUTS"), 0, -1, withscores=True)) == self.model.timers()
        holders = {f"{keys('SINGLETON')}shop/buy:{SHOP}={shop}": run for shop, run in self.model.holders().items()}
        assert {name: client.get(name) for name in self.names("SINGLETON")} == holders
        if self.model.flow.concurrency:
            self.check_gates()

    def see_ends(self) -> None:
        """Each run that ends does so as the model says; then it is forgotten, as after its retention."""
        for run in [run for run in self.unseen if not self.model.lives[run].live]:
            life, record = self.model.lives[run], self.driver.run(run)
            assert (record.status, record.reason) == (life.status, life.reason), f"{run} ended otherwise: {life}"
            self.leases.pop(run, None)
            self.unseen.remove(run)
            if record.status is not RunStatus.FAILED:
                self.forget(run)

    def check_gates(self) -> None:
        leases = dict(self.driver.client.zrange(self.driver.keys("LEASES"), 0, -1, withscores=True))
        good = [self.model.lives[run].sent.user for run, until_ms in leases.items() if until_ms > self.driver.now_ms]
        assert len(good) == len(set(good)), "a user has more than one lease"
        assert len(good) <= TOTAL

    def check_spans(self) -> None:
        """No span of a period had more starts than it may have."""
        flow, lives = self.model.flow, self.model.started()
        if rate := flow.rate_limit:
            for shop in range(SHOPS):
                _check_spans([life for life in lives if life.sent.shop == shop], rate.limit, rate.period_ms)
        if throttle := flow.throttle:
            for user in range(USERS):
                of_user = [life for life in lives if life.sent.user == user]
                _check_spans(of_user, throttle.limit + throttle.burst - 1, throttle.period_ms)

    # -- the server --------------------------------------------------------------

    def names(self, *kinds: str) -> list[str]:
        return [name for kind in kinds for name in self.driver.client.scan_iter(f"{self.driver.keys(kind)}*", 1000)]

    def hold_expiries(self) -> None:
        """Take the expiries that a script has just set from the server's clock to the test's."""
        for name in self.names(*EXPIRING):
            left_ms = self.driver.client.pttl(name)
            if left_ms > 0:
                self.expires_ms[name] = self.driver.now_ms + -(-left_ms // TICK_MS) * TICK_MS
                self.driver.client.persist(name)
            assert left_ms != -1 or name in self.expires_ms, f"{name} never expires"

    def forget(self, run: str) -> None:
        self.driver.client.delete(*(self.driver.keys(kind, run) for kind in ("RUN", "ATTEMPTS")))


def _event_text(sent: Sent) -> bytes:
    data = {"user": sent.user, "shop": sent.shop, "order": sent.order}
    return dumps({"name": "e", "id": sent.run, "ts": sent.ts, "data": data})


def _check_spans(lives: list[Life], most: int, period_ms: int) -> None:
    starts = sorted(life.start_ms for life in lives)
    for first, one_more in zip(starts, starts[most:], strict=False):
        assert one_more - first >= period_ms, f"more than {most} starts in {period_ms} ms from {first}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FLOWS)
def test_runs_start_as_the_model_says_and_all_of_them_end(driver: Driver, name: str, seed: int) -> None:
    crowd = Crowd(driver, FLOWS[name], seed)
    moves = [crowd.start] * 4 + [crowd.claim, crowd.finish, crowd.pass_time, crowd.fire] * 2
    moves += [crowd.retry, crowd.die, crowd.cancel, crowd.reclaim]
    for _ in range(80):
        driver.twice = crowd.random.random() < 0.3
        crowd.random.choice(moves)()
        crowd.check()
    crowd.finish_all()
    crowd.check_spans()
    crowd.pass_time(DAY_TICKS + 1)
    assert not crowd.names(*EXPIRING, *LASTING), f"seed {seed}: something stays behind"


def test_a_run_that_the_rate_limit_refuses_cancels_nobody(driver: Driver) -> None:
    crowd = Crowd(driver, FlowConfig(rate_limit=RateConfig(1, TICK_MS, SHOP), singleton=CANCEL))
    assert crowd.send(crowd.event(), crowd.event()) == ["", "rate limited"]
    crowd.check()


def test_a_run_that_is_refused_leaves_no_singleton_behind(driver: Driver) -> None:
    crowd = Crowd(driver, FlowConfig(rate_limit=RateConfig(1, TICK_MS, SHOP), singleton=SKIP))
    crowd.send(crowd.event())
    crowd.claim()
    crowd.finish()
    assert crowd.send(crowd.event()) == ["rate limited"]
    crowd.check()


def test_a_run_that_is_refused_leaves_its_order_to_the_next(driver: Driver) -> None:
    crowd = Crowd(driver, FlowConfig(rate_limit=RateConfig(1, TICK_MS, SHOP), idempotency=ORDER))
    assert crowd.send(crowd.event(order=1), crowd.event(order=2)) == ["", "rate limited"]
    crowd.pass_time(1)
    assert crowd.send(crowd.event(order=2), crowd.event(order=1)) == ["", "duplicate"]


def test_an_order_starts_again_after_a_day_and_not_before(driver: Driver) -> None:
    crowd = Crowd(driver, FLOWS["once"])
    reasons = []
    for ticks in (0, DAY_TICKS // 2, DAY_TICKS - DAY_TICKS // 2, 1):
        if ticks:
            crowd.pass_time(ticks)
        reasons += crowd.send(crowd.event())
    assert reasons == ["", "duplicate", "duplicate", ""]


def test_a_run_that_is_late_for_its_start_is_not_debounced_away(driver: Driver) -> None:
    """Its time was over before the next event came, though no timer has been fired yet."""
    crowd = Crowd(driver, FLOWS["debounce"])
    crowd.send(crowd.event())
    crowd.pass_time(4)
    assert crowd.send(crowd.event(), crowd.event()) == ["", ""]
    crowd.finish_all()


@pytest.mark.parametrize("singleton", [SKIP, CANCEL], ids=["skip", "cancel"])
def test_a_singleton_that_a_debounce_puts_off_gives_way_to_later_events_alone(
    driver: Driver, singleton: SingletonConfig
) -> None:
    crowd = Crowd(driver, FlowConfig(singleton=singleton, debounce=BOUNDED))
    assert crowd.send(crowd.event()) == [""]
    crowd.pass_time(1)
    assert crowd.send(crowd.event(age_ms=2 * TICK_MS)) in (["debounced"], ["singleton"])
    for _ in range(3):
        assert crowd.send(crowd.event()) == [""]
        crowd.check()  # among them the time to start, which is not later than the timeout of the first
        crowd.pass_time(1)


def test_a_run_that_cannot_be_singleton_displaces_nobody_in_the_debounce(driver: Driver) -> None:
    crowd = Crowd(driver, FlowConfig(singleton=SKIP, debounce=DEBOUNCE))
    assert crowd.send(crowd.event(user=0, shop=0), crowd.event(user=1, shop=1)) == ["", ""]
    assert crowd.send(crowd.event(user=0, shop=1)) == ["singleton"]
    crowd.check()


def test_runs_that_are_debounced_away_use_up_no_rate(driver: Driver) -> None:
    crowd = Crowd(driver, FlowConfig(rate_limit=RateConfig(1, 6 * TICK_MS, SHOP), debounce=DEBOUNCE))
    assert crowd.send(crowd.event(), crowd.event(), crowd.event(age_ms=1)) == ["", "", "debounced"]
    assert crowd.send(crowd.event(shop=1), crowd.event()) == ["", ""]
    crowd.check()


def test_a_run_that_waits_for_its_next_attempt_is_not_debounced_away(driver: Driver) -> None:
    """Not even within the ms in which it started and failed."""
    crowd = Crowd(driver, FLOWS["debounce"])
    crowd.send(crowd.event())
    crowd.pass_time(3)
    for move in (crowd.fire, crowd.claim, crowd.retry):
        move()
    assert crowd.send(crowd.event()) == [""]
    crowd.check()


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "period_ms", "burst"), [(7, 7_001, 1), (7, 10_000, 3), (2_001, 20_011, 1)])
def test_a_throttle_puts_off_to_the_ms_however_many_have_come(
    driver: Driver, limit: int, period_ms: int, burst: int
) -> None:
    """Also when a period has no whole number of ms for each start."""
    crowd = Crowd(driver, FlowConfig(throttle=ThrottleConfig(limit, period_ms, burst, USER)))
    crowd.send(*[crowd.event() for _ in range(limit + burst)])
    crowd.check()
    crowd.check_spans()
