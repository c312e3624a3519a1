"""continue_as_new: a round ends and the next one is queued, in one script; what it keeps, and what it forgets."""

from __future__ import annotations

import json

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.run_notes import note_closing, note_undo
from stepflow_broker.transitions.steps.signals import send_signal
from stepflow_engine.rounds import PastRound
from stepflow_engine.state_machine import RunStatus
from tests.contract.test_pauses import GATE, paused, start
from tests.contract.test_waits import begin, begun, came, early, know_paths, of_value, sleep
from tests.support.driver import DIGEST, LEASE_MS, NOBODY, START_MS, Driver

CONFIG = FunctionConfig("shop", "buy", "shop")


def next_round(driver: Driver, lease: Lease) -> Lease:
    """End the round of a lease, and claim the next one."""
    assert driver.continue_as_new(lease) is ScriptStatus.DONE
    return driver.claim_one()


def test_the_next_round_is_queued_with_its_event_and_without_memos(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    driver.advance(5_000)
    assert driver.continue_as_new(lease) is ScriptStatus.DONE
    run = driver.run()
    assert (run.status, run.round, run.round_at, run.attempt) == (RunStatus.QUEUED, 1, driver.now_ms, 0)
    assert (run.started_at, run.event["data"]) == (START_MS, {"round": 1})
    assert run.rounds == (PastRound(0, START_MS, driver.now_ms, 1, DIGEST),)
    assert driver.memos() == []
    following = driver.claim_one(worker="w2")
    assert (following.round, following.applied, following.event, following.fence > lease.fence) == (1, 0, None, True)
    assert driver.commit(lease, "b")[0] is ScriptStatus.STALE_FENCE


def test_a_call_that_comes_again_changes_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.continue_as_new(lease)
    before = driver.snapshot()
    assert driver.continue_as_new(lease) is ScriptStatus.ALREADY
    assert driver.snapshot() == before
    following = driver.claim_one()
    before = driver.snapshot()
    assert driver.continue_as_new(lease) is ScriptStatus.ALREADY
    assert driver.snapshot() == before
    driver.finish(following)
    before = driver.snapshot()
    assert driver.continue_as_new(lease) is ScriptStatus.NO_RUN
    assert driver.snapshot() == before


def test_a_call_without_the_lease_is_refused(driver: Driver) -> None:
    stale, ended = driver.started(), driver.started("run2")
    driver.cancel("run2")
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    before = driver.snapshot()
    assert driver.continue_as_new(stale) is ScriptStatus.STALE_FENCE
    assert driver.continue_as_new(ended) is driver.continue_as_new(NOBODY) is ScriptStatus.NO_RUN
    assert driver.snapshot() == before


def test_what_the_round_has_left_of_steps_goes_with_it(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "queued", "leased", "delayed")
    begin(driver, lease, sleep(delay_ms=5_000))
    first, second = driver.claim(2, worker="w2") or ()
    driver.fail(second, delay_ms=60_000)
    assert driver.continue_as_new(lease) is ScriptStatus.DONE
    assert driver.steps() == {}
    for kind in ("TIMEOUTS", "TIMEOUT", "STEPS", "RQ_SCHEDULED", "ATTEMPTS"):
        assert driver.client.keys(driver.keys(kind, "*")) == []
    assert driver.commit(first)[0] is ScriptStatus.STALE_FENCE
    assert driver.queued("shop:steps") == ["run1"]


def test_a_round_that_continues_while_its_key_is_paused_is_gated(driver: Driver) -> None:
    start(driver, "run1", limit=9)
    lease = driver.claim_one()
    assert paused(driver, "key", GATE)
    driver.plan(lease, "a")
    assert driver.continue_as_new(lease) is ScriptStatus.DONE
    assert driver.client.hget(driver.keys("RUN", "run1"), "continuation") == "waitlisted"


def test_facts_of_the_round_are_forgotten(driver: Driver) -> None:
    lease = driver.started()
    driver.send(note_undo(driver.partition, run_id="run1", fence=lease.fence))
    driver.send(note_closing(driver.partition, run_id="run1", fence=lease.fence, status=RunStatus.COMPLETED))
    driver.retry(lease)
    driver.advance(1_000)
    driver.fire()
    lease = driver.claim_one()
    assert lease.attempt == 1
    lease = next_round(driver, lease)
    run = driver.run()
    assert (lease.attempt, run.has_undo, run.closing, run.failure) == (0, False, "", None)


def test_signals_that_no_wait_has_received_are_kept_for_the_next_round(driver: Driver) -> None:
    lease = driver.started()
    for _ in range(2):
        call = send_signal(driver.partition, run_id="run1", name="go", signal_id="s1", data=b"1")
        driver.send(call)
        lease = next_round(driver, lease)
    assert driver.run().signals == 1


def received(driver: Driver, lease: Lease) -> str | None:
    """The id of the event that ends a wait of the round at once."""
    begun(driver, lease, of_value(1))
    memos = [json.loads(text) for _, text in driver.memos()]
    return memos[0]["data"]["id"] if memos else None


def test_an_event_is_received_once_in_all_rounds_and_kept_for_the_next(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))
    know_paths(driver)
    lease = early(driver)
    for event_id in ("second", "third"):
        came(driver, "paid", {"n": 1}, paths=("data.n",), event_id=event_id)
    found = [received(driver, lease)]
    for _ in range(4):
        lease = next_round(driver, lease)
        found.append(received(driver, lease))
    assert found == ["e1", "second", "third", None, None]


def test_a_run_that_has_received_very_many_events_forgets_those_that_the_next_round_cannot_find(driver: Driver) -> None:
    lease = next_round(driver, driver.started())
    for first in range(0, 2_001, 500):
        old = {f"old{n}": 0 for n in range(first, first + 500)}
        driver.client.hset(driver.keys("DELIVERED", "run1"), mapping=old)
    driver.client.hset(driver.keys("DELIVERED", "run1"), "of this round", 1)
    driver.advance(1_000)
    assert driver.continue_as_new(lease) is ScriptStatus.DONE
    left = driver.client.hgetall(driver.keys("DELIVERED", "run1"))
    assert left["of this round"] == "0"
    assert len(left) == 2, "and the event of the round itself"
    assert driver.client.hget(driver.keys("RUN", "run1"), "events_since") == str(START_MS + 1)


def test_the_event_of_the_round_before_ends_no_wait_of_the_next(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))
    know_paths(driver)
    lease = early(driver)
    assert driver.continue_as_new(lease, own_event="e1") is ScriptStatus.DONE
    assert received(driver, driver.claim_one()) is None


def test_the_last_rounds_are_kept(driver: Driver) -> None:
    lease = driver.started()
    for _ in range(25):
        lease = next_round(driver, lease)
    assert [past.number for past in driver.run().rounds] == list(range(24, 4, -1))
    driver.finish(lease)
    assert driver.run().status is RunStatus.COMPLETED
    assert driver.client.pttl(driver.keys("RUN", "run1")) > 0


def test_a_run_in_a_later_round_is_reclaimed_undone_and_cancelled_as_any_other(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))
    lease = next_round(driver, driver.started())
    driver.advance(LEASE_MS)
    driver.reclaim()
    lease = driver.claim_one(worker="w2")
    assert lease.round == 1
    driver.plan(lease, "a")
    (step,) = driver.claim(worker="w3") or ()
    assert step.round == 1
    driver.send(note_undo(driver.partition, run_id="run1", fence=lease.fence))
    driver.commit(step)
    driver.cancel()
    undoing = driver.claim_one()
    assert (undoing.round, undoing.undoing) == (1, "cancelled")


def test_a_fork_is_in_the_round_of_its_source(driver: Driver) -> None:
    lease = next_round(driver, driver.started())
    driver.finish(lease, RunStatus.FAILED)
    driver.send(fork_run(driver.partition, CONFIG, ForkStart("run2", "run1", b"")))
    claimed = driver.claim_one()
    assert (claimed.run_id, claimed.round) == ("run2", 1)
    assert driver.run("run2").event["data"] == {"round": 1}
