"""cancel_steps: a step that the code has cancelled leaves no timer, wait or job, and its child is cancelled."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.ids import job_id, step_key
from stepflow_engine.state_machine import RunStatus
from tests.contract import test_pauses as pauses
from tests.contract.test_remote_invokes import CHILD, PARENT, Pair, pair
from tests.contract.test_waits import begin, came, sleep, wait_for
from tests.support.driver import NOBODY, RETENTION_MS, Driver

__all__ = ["pair"]
W = "w"
"""The id of the step in `sleep` and `wait_for`."""


@pytest.fixture(autouse=True)
def group(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))


def cancel(driver: Driver, lease: Lease, *step_ids: str) -> ScriptStatus:
    keys = [step_key(step_id) for step_id in step_ids]
    return driver.send(
        cancel_steps(driver.partition, run_id=lease.run_id, fence=lease.fence, keys=keys, retention_ms=RETENTION_MS)
    )


def left(driver: Driver) -> list[str]:
    """What is on the server of steps: timers, waits and jobs."""
    kinds = ("TIMEOUTS", "TIMEOUT", "WAITS", "WAIT_COUNTS", "STEPS", "WAIT_LIST", "RQ_SCHEDULED")
    found = [name for kind in kinds for name in driver.client.keys(driver.keys(kind, "*"))]
    return found + list(driver.client.keys(driver.keys("RQ_JOB", "*-*")))


def test_a_cancelled_sleep_has_no_timer_any_more(driver: Driver) -> None:
    lease = driver.started()
    begin(driver, lease, sleep(delay_ms=5_000))
    assert cancel(driver, lease, W) is ScriptStatus.DONE
    assert left(driver) == []
    driver.advance(10_000)
    assert driver.fire() == (0, -1)
    assert driver.memos() == []
    assert driver.finish(lease) is ScriptStatus.DONE


@pytest.mark.parametrize("condition", [b"", b"{}"], ids=["values", "expression"])
def test_a_cancelled_wait_for_an_event_gets_none(driver: Driver, condition: bytes) -> None:
    lease = driver.started()
    begin(driver, lease, wait_for("paid", condition=condition))
    cancel(driver, lease, W)
    assert left(driver) == []
    came(driver, "paid", {})
    assert driver.memos() == []


def test_a_cancelled_job_leaves_its_queue(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a", "b", "c")
    cancel(driver, lease, "a", "c")
    assert driver.queued("shop:steps") == [job_id("run1", step_key("b"))]
    assert set(driver.steps()) == {"b"}
    (step,) = driver.claim() or ()
    driver.commit(step)
    assert left(driver) == []


def test_a_cancelled_step_that_waits_for_its_next_attempt_is_not_tried_again(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a", "b")
    for step in driver.claim() or ():
        driver.fail(step, delay_ms=3_600_000)
    cancel(driver, lease, "a", "b")
    assert left(driver) == []


def test_a_step_that_a_worker_executes_is_left_alone(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    step = driver.claim_one(worker="w2")
    before = driver.snapshot()
    assert cancel(driver, lease, "a") is ScriptStatus.DONE
    assert driver.snapshot() == before
    assert driver.commit(step) == (ScriptStatus.DONE, 1)


def test_steps_without_a_trace_and_steps_with_a_memo_are_not_changed(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    begin(driver, lease, sleep(delay_ms=5_000))
    before = driver.snapshot()
    assert cancel(driver, lease, "a", "never") is ScriptStatus.DONE
    assert driver.snapshot() == before


def test_a_stale_worker_cancels_nothing(driver: Driver) -> None:
    lease = driver.started()
    begin(driver, lease, sleep(delay_ms=5_000))
    driver.yield_run(lease)
    driver.claim_one()
    before = driver.snapshot()
    assert cancel(driver, lease, W) is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before
    driver.cancel()
    assert cancel(driver, lease, W) is ScriptStatus.NO_RUN
    assert cancel(driver, NOBODY, W) is ScriptStatus.NO_RUN


def test_a_cancelled_step_may_be_requested_again(driver: Driver) -> None:
    """Code that is not deterministic, such as a local timer: the wait begins anew."""
    lease = driver.started()
    begin(driver, lease, sleep(delay_ms=5_000))
    driver.advance(3_000)
    cancel(driver, lease, W)
    assert begin(driver, lease, sleep(delay_ms=5_000)) is ScriptStatus.DONE
    assert driver.fire() == (0, 5_000)


def test_a_slot_of_a_cancelled_job_goes_to_the_next_one(driver: Driver) -> None:
    pauses.start(driver, "run1", limit=2)
    pauses.start(driver, "run2", limit=2)
    first, second = driver.claim() or ()
    driver.plan(first, "a", "b", "c")
    states = {name: step.state for name, step in driver.steps("run1").items()}
    assert states == {"a": "waitlisted", "b": "waitlisted", "c": "waitlisted"}
    driver.finish(second)
    assert driver.steps("run1")["a"].state == "queued"
    assert cancel(driver, first, "a", "b") is ScriptStatus.DONE
    assert {name: step.state for name, step in driver.steps("run1").items()} == {"c": "queued"}
    driver.finish(first)
    assert not driver.client.keys(driver.keys("CONCURRENCY_SLOTS", "*"))


# -- children ------------------------------------------------------------------------


def test_the_child_of_a_cancelled_invoke_is_cancelled_with_its_own_children(driver: Driver) -> None:
    lease = driver.started()
    driver.invoke(lease, "call", child="child1")
    child = driver.claim_one(worker="w2")
    driver.invoke(child, "call", child="child2")
    heard = driver.listen("NOTIFICATIONS", "w2")
    assert cancel(driver, lease, "call") is ScriptStatus.DONE
    for name in ("child1", "child2"):
        run = driver.run(name)
        assert run.status is RunStatus.CANCELLED
        assert run.failure is not None
        assert run.failure.message == "the parent has cancelled the step that waited for this run"
    assert heard() == ["cancel child1"]
    assert driver.memos() == []
    assert driver.run().status is RunStatus.RUNNING
    assert left(driver) == []
    assert driver.client.xlen(driver.keys("FINISHED")) == 0, "no parent waits for these ends"
    assert driver.client.pttl(driver.keys("RUN", "child1")) > 0
    assert driver.finish(lease) is ScriptStatus.DONE


def test_a_child_that_has_ended_keeps_its_end(driver: Driver) -> None:
    lease = driver.started()
    driver.invoke(lease, "call", child="child1")
    child = driver.claim_one(worker="w2")
    driver.finish(child)
    assert cancel(driver, lease, "call") is ScriptStatus.DONE
    assert driver.run("child1").status is RunStatus.COMPLETED
    assert driver.memos() == []
    assert driver.client.xlen(driver.keys("FINISHED")) == 0
    assert driver.wake("child1") is None


def test_a_child_whose_wait_has_timed_out_is_not_cancelled(driver: Driver) -> None:
    """The reference says of a timeout: the child continues."""
    lease = driver.started()
    driver.invoke(lease, "call", child="child1", timeout_ms=1_000)
    driver.advance(1_000)
    driver.fire()
    assert cancel(driver, lease, "call") is ScriptStatus.DONE
    assert driver.run("child1").status is RunStatus.QUEUED


def test_an_invoke_that_is_requested_again_says_that_its_child_was_cancelled(driver: Driver) -> None:
    lease = driver.started()
    driver.invoke(lease, "call")
    cancel(driver, lease, "call")
    code, resolved = driver.invoke(lease, "call")
    assert code is ScriptStatus.RESOLVED
    assert resolved is not None
    assert b'"outcome":"cancelled"' in resolved.memo


@pytest.mark.parametrize("calls", range(7))
def test_the_child_of_a_cancelled_invoke_is_cancelled_in_another_partition(pair: Pair, calls: int) -> None:
    parent, _ = pair.waiting()
    heard = pair.here.listen("READY")
    assert cancel(pair.here, parent, "call") is ScriptStatus.DONE
    assert heard() == [""], "an idle worker delivers the message"
    (message,) = pair.messages()
    pair.deliver(message, calls=calls)
    if pair.left():
        pair.deliver(message)
        for one in pair.messages():
            pair.deliver(one)
    assert pair.there.run(CHILD).status is RunStatus.CANCELLED
    assert pair.left() == 0
    assert not pair.is_kept()
    assert pair.here.memos(PARENT) == []
    assert pair.here.run(PARENT).status is RunStatus.RUNNING


def test_a_child_that_starts_late_is_cancelled_too(pair: Pair) -> None:
    parent, start = pair.asked()
    assert cancel(pair.here, parent, "call") is ScriptStatus.DONE
    message = next(one for one in pair.messages() if one != start)
    pair.deliver(message)
    assert pair.left() == 2, "it stays for as long as the message that starts the child"
    pair.deliver(start)
    pair.deliver(message)
    assert pair.there.run(CHILD).status is RunStatus.CANCELLED
    assert pair.left() == 0
