"""invoke_child and wake_parent: a child is started once, and its end, or the timeout, wakes its parent once."""

from __future__ import annotations

import json

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.flow_control import RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import register_functions
from stepflow_broker.transitions.invokes.outbox import EndedRun, read_finished, take_over_finished
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from stepflow_engine.memo import memo_of_failure
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import LEASE_MS, NOBODY, TIMEOUT_MEMO, Driver

KEY = step_key("call")
REFUSAL = memo_of_failure(Failure("FunctionNotFoundError", "could not find function with ID: x"), {"id": "call"})


def waiting(driver: Driver, *, timeout_ms: int = 60_000) -> tuple[Lease, Lease]:
    """A held parent that waits for a child, and the child, held by another worker."""
    parent = driver.started()
    assert driver.invoke(parent, timeout_ms=timeout_ms) == (ScriptStatus.DONE, None)
    return parent, driver.claim_one(worker="w2")


def taken_over(driver: Driver) -> Lease:
    """A lease that is another worker's now."""
    stale = driver.started()
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    return stale


def outcomes(driver: Driver) -> list[tuple[str, object, str | None]]:
    """Of each memo of the parent: how its step ended, the data, the name of the error."""
    found = []
    for _, text in driver.memos():
        memo = json.loads(text)
        found.append((memo.get("outcome"), memo.get("data"), memo.get("error", {}).get("name")))
    return found


def refused(driver: Driver, parent: Lease, code: ScriptStatus, **options) -> None:
    """An invoke is refused with this code, and nothing changes."""
    before = driver.snapshot()
    assert driver.invoke(parent, **options) == (code, None)
    assert driver.snapshot() == before


# -- invoke ------------------------------------------------------------------------


def test_an_invoke_starts_the_child_and_bounds_the_wait_in_one_script(driver: Driver) -> None:
    parent = driver.started()
    assert driver.invoke(parent, timeout_ms=5_000) == (ScriptStatus.DONE, None)
    step = driver.steps()["call"]
    assert (step.state, step.child, step.due_at) == ("waiting", "child1", driver.now_ms + 5_000)
    child = driver.run("child1")
    assert (child.status, child.parent, child.parent_step) == (RunStatus.QUEUED, "run1", KEY)
    assert driver.queued("shop") == ["child1"]
    assert driver.client.get(driver.keys("TIMEOUT", f"run1:{KEY}")) == TIMEOUT_MEMO.decode()


def test_the_claim_of_a_child_names_its_parent_and_its_depth(driver: Driver) -> None:
    parent, child = waiting(driver)
    assert (parent.parent, parent.depth) == ("", 0)
    assert (child.parent, child.depth) == ("run1", 1)


def test_an_invoke_that_is_sent_twice_starts_one_child(driver: Driver) -> None:
    parent = driver.started()
    driver.invoke(parent)
    refused(driver, parent, ScriptStatus.ALREADY)


@pytest.mark.parametrize("then", ["claimed", "ended", "woken", "cancelled", "timeout"])
def test_an_invoke_that_comes_again_later_changes_nothing(driver: Driver, then: str) -> None:
    parent, child = waiting(driver)
    if then in ("ended", "woken"):
        driver.finish(child)
    if then == "woken":
        driver.wake()
    if then == "cancelled":
        driver.cancel("child1")
    if then == "timeout":
        driver.advance(60_000)
        driver.fire()
    refused(driver, parent, ScriptStatus.ALREADY)


def test_an_invoke_by_the_next_holder_finds_the_child_of_the_first(driver: Driver) -> None:
    parent, _ = waiting(driver)
    driver.advance(LEASE_MS)
    driver.reclaim()
    again = {lease.run_id: lease for lease in driver.claim(worker="w3") or ()}["run1"]
    assert again.planned
    refused(driver, again, ScriptStatus.ALREADY)
    refused(driver, parent, ScriptStatus.STALE_FENCE)


def test_an_invoke_with_a_stale_fence_is_refused(driver: Driver) -> None:
    refused(driver, taken_over(driver), ScriptStatus.STALE_FENCE)


def test_an_invoke_by_a_parent_that_has_ended_or_does_not_exist_is_refused(driver: Driver) -> None:
    refused(driver, NOBODY, ScriptStatus.NO_RUN)
    finished, cancelled = driver.started("run1"), driver.started("run2")
    driver.finish(finished)
    driver.cancel("run2")
    refused(driver, finished, ScriptStatus.NO_RUN)
    refused(driver, cancelled, ScriptStatus.NO_RUN)


def test_an_invoke_with_a_registry_that_has_changed_is_refused_until_it_is_read_again(driver: Driver) -> None:
    parent = driver.started()
    version = driver.send(register_functions(driver.keys, [FunctionConfig("shop", "sell", "shop")]))
    refused(driver, parent, ScriptStatus.STALE_REGISTRY)
    assert driver.invoke(parent, version=version) == (ScriptStatus.DONE, None)


def test_a_function_that_does_not_exist_resolves_the_step_at_once(driver: Driver) -> None:
    parent = driver.started()
    code, resolved = driver.invoke(parent, refusal=REFUSAL)
    assert code is ScriptStatus.RESOLVED
    assert resolved is not None
    assert (resolved.run_id, resolved.key, resolved.position, resolved.memo) == ("run1", KEY, 1, REFUSAL)
    assert driver.memos() == [(KEY, REFUSAL)]
    assert driver.steps() == {}
    assert driver.queued("shop") == []


def test_a_refusal_that_is_sent_twice_is_recorded_once(driver: Driver) -> None:
    parent = driver.started()
    driver.invoke(parent, refusal=REFUSAL)
    refused(driver, parent, ScriptStatus.ALREADY, refusal=REFUSAL)


def test_a_child_that_its_rate_limit_skips_resolves_the_step_at_once(driver: Driver) -> None:
    rate = RateConfig(1, 60_000)
    parent = driver.started()
    assert driver.invoke(parent, "first", child="child1", rate=rate) == (ScriptStatus.DONE, None)
    code, resolved = driver.invoke(parent, child="child2", rate=rate)
    assert code is ScriptStatus.RESOLVED
    assert resolved is not None
    memo = json.loads(resolved.memo)
    assert (memo["outcome"], memo["reason"], memo["id"]) == ("skipped", "rate limited", "call")
    assert driver.run("child2").status is RunStatus.SKIPPED
    assert driver.client.xlen(driver.keys("FINISHED")) == 0
    refused(driver, parent, ScriptStatus.ALREADY, child="child2", rate=rate)


def test_children_within_their_rate_limit_are_started_when_its_period_is_over(driver: Driver) -> None:
    rate = RateConfig(1, 60_000)
    parent = driver.started()
    driver.invoke(parent, "first", child="child1", rate=rate)
    driver.advance(60_000)
    assert driver.invoke(parent, child="child2", rate=rate) == (ScriptStatus.DONE, None)


# -- wake --------------------------------------------------------------------------


def test_a_child_that_completes_gives_its_output_to_the_parent(driver: Driver) -> None:
    parent, child = waiting(driver)
    driver.park(parent)
    driver.finish(child)
    resolved = driver.wake()
    assert resolved is not None
    assert (resolved.run_id, resolved.key, resolved.position) == ("run1", KEY, 1)
    assert driver.memos() == [(KEY, resolved.memo)]
    assert outcomes(driver) == [("completed", "done", None)]
    assert driver.queued("shop:steps") == ["run1"]


def test_a_child_that_fails_gives_its_error_to_the_parent(driver: Driver) -> None:
    _, child = waiting(driver)
    driver.finish(child, RunStatus.FAILED)
    driver.wake()
    assert outcomes(driver) == [("failed", None, "ValueError")]


def test_a_wake_that_is_sent_twice_changes_nothing(driver: Driver) -> None:
    parent, child = waiting(driver)
    driver.park(parent)
    driver.finish(child)
    driver.wake()
    before = driver.snapshot()
    assert driver.wake() is None
    assert driver.snapshot() == before


def test_a_wake_by_a_child_that_has_not_ended_changes_nothing(driver: Driver) -> None:
    waiting(driver)
    before = driver.snapshot()
    assert driver.wake() is None
    assert driver.snapshot() == before


@pytest.mark.parametrize("run", ["nobody", "run1"])
def test_a_wake_by_a_run_without_a_parent_changes_nothing(driver: Driver, run: str) -> None:
    driver.finish(driver.started())
    before = driver.snapshot()
    assert driver.wake(run) is None
    assert driver.snapshot() == before


def test_a_child_that_ends_before_its_parent_is_parked_keeps_it_from_parking(driver: Driver) -> None:
    parent, child = waiting(driver)
    driver.finish(child)
    driver.wake()
    assert driver.park(parent, applied=0) is ScriptStatus.MORE
    assert driver.run().status is RunStatus.RUNNING


def test_the_holder_of_the_parent_is_told_the_memo_unless_it_is_the_caller(driver: Driver) -> None:
    for caller, told in (("w2", 1), ("w1", 0)):
        run, child = f"run{told}", f"child{told}"
        parent = driver.started(run)
        driver.invoke(parent, child=child)
        driver.finish(driver.claim_one(worker="w2"))
        heard = driver.listen("NOTIFICATIONS", "w1")
        resolved = driver.wake(child, worker=caller)
        assert resolved is not None
        assert heard() == [f"memo {run} 1 {KEY}"] * told
        driver.finish(parent)


def test_children_that_end_together_queue_their_parent_once(driver: Driver) -> None:
    parent = driver.started()
    for n in range(10):
        driver.invoke(parent, f"call-{n}", child=f"child{n}")
    children = driver.claim(worker="w2") or []
    driver.park(parent)
    for child in children:
        driver.finish(child)
        driver.wake(child.run_id)
    assert driver.queued("shop:steps") == ["run1"]
    again = driver.claim_one()
    assert (again.fence, again.applied) == (parent.fence + 1, 10)


def test_the_end_of_a_child_whose_parent_has_ended_changes_nothing_in_it(driver: Driver) -> None:
    parent, child = waiting(driver)
    driver.finish(parent)
    ended = driver.client.hgetall(driver.keys("RUN", "run1"))
    driver.finish(child)
    assert driver.wake() is None
    assert driver.client.hgetall(driver.keys("RUN", "run1")) == ended
    assert driver.client.xlen(driver.keys("FINISHED")) == 0


# -- cancel ------------------------------------------------------------------------


def test_a_child_that_is_cancelled_says_so_to_its_parent_at_once(driver: Driver) -> None:
    parent, child = waiting(driver)
    driver.park(parent)
    driver.cancel("child1")
    assert outcomes(driver) == [("cancelled", None, "ValueError")]
    assert driver.queued("shop:steps") == ["run1"]
    assert driver.client.xlen(driver.keys("FINISHED")) == 0
    assert driver.finish(child) is ScriptStatus.NO_RUN
    assert driver.wake() is None


def test_cancelling_a_parent_cancels_the_children_that_it_waits_for(driver: Driver) -> None:
    waiting(driver)
    assert driver.cancel() is ScriptStatus.DONE
    assert driver.run("child1").status is RunStatus.CANCELLED
    assert driver.client.xlen(driver.keys("FINISHED")) == 0


def test_cancelling_a_parent_may_leave_its_children(driver: Driver) -> None:
    _, child = waiting(driver)
    assert driver.cancel(children=False) is ScriptStatus.DONE
    assert driver.run("child1").status is RunStatus.RUNNING
    assert driver.finish(child) is ScriptStatus.DONE
    assert driver.wake() is None
    assert driver.client.xlen(driver.keys("FINISHED")) == 0


def test_cancelling_a_grandparent_cancels_the_whole_tree_that_it_waits_for(driver: Driver) -> None:
    _, child = waiting(driver)
    driver.invoke(child, child="grandchild")
    assert driver.cancel() is ScriptStatus.DONE
    statuses = {driver.run(run).status for run in ("run1", "child1", "grandchild")}
    assert statuses == {RunStatus.CANCELLED}
    assert driver.client.xlen(driver.keys("FINISHED")) == 0


# -- timeout -----------------------------------------------------------------------


def test_a_timeout_resolves_the_step_and_leaves_the_child_running(driver: Driver) -> None:
    parent, child = waiting(driver, timeout_ms=5_000)
    driver.park(parent)
    driver.advance(4_999)
    assert driver.fire() == (0, 1)
    driver.advance(1)
    assert driver.fire() == (1, -1)
    assert driver.memos() == [(KEY, TIMEOUT_MEMO)]
    assert driver.queued("shop:steps") == ["run1"]
    assert driver.run("child1").status is RunStatus.RUNNING
    assert driver.finish(child) is ScriptStatus.DONE


def test_a_finish_after_the_timeout_changes_nothing_in_the_parent(driver: Driver) -> None:
    _, child = waiting(driver, timeout_ms=5_000)
    driver.advance(5_000)
    driver.fire()
    driver.finish(child)
    assert driver.wake() is None
    assert driver.memos() == [(KEY, TIMEOUT_MEMO)]
    assert driver.client.xlen(driver.keys("FINISHED")) == 0


def test_a_timeout_after_the_finish_changes_nothing_in_the_parent(driver: Driver) -> None:
    _, child = waiting(driver, timeout_ms=5_000)
    driver.finish(child)
    driver.wake()
    driver.advance(5_000)
    assert driver.fire() == (0, -1)
    assert outcomes(driver) == [("completed", "done", None)]


def test_timeouts_that_fire_twice_are_recorded_once(driver: Driver) -> None:
    waiting(driver, timeout_ms=5_000)
    driver.advance(5_000)
    driver.fire()
    before = driver.snapshot()
    driver.fire()
    assert driver.snapshot() == before


def test_the_holder_of_the_parent_is_told_of_the_timeout(driver: Driver) -> None:
    waiting(driver, timeout_ms=5_000)
    heard = driver.listen("NOTIFICATIONS", "w1")
    driver.advance(5_000)
    driver.fire()
    assert heard() == [f"memo run1 1 {KEY}"]


# -- the stream --------------------------------------------------------------------


def left_on_the_stream(driver: Driver) -> None:
    """A child that has ended, and whose worker died before it woke the parent."""
    driver.store.broker.execute(create_group(driver.keys, "FINISHED"))
    parent, child = waiting(driver)
    driver.park(parent)
    driver.finish(child)


def test_a_finished_event_is_read_once_and_wakes_the_parent(driver: Driver) -> None:
    left_on_the_stream(driver)
    assert driver.send(read_finished(driver.partition, "w3")) == [EndedRun("child1")]
    assert driver.send(read_finished(driver.partition, "w4")) == []
    assert driver.wake("child1", worker="w3") is not None
    assert driver.client.xlen(driver.keys("FINISHED")) == 0
    assert driver.client.xpending(driver.keys("FINISHED"), "stepflow")["pending"] == 0


def test_a_finished_event_that_a_dead_worker_took_is_taken_over(driver: Driver) -> None:
    left_on_the_stream(driver)
    driver.send(read_finished(driver.partition, "dead"))
    assert driver.send(take_over_finished(driver.partition, "w3", idle_ms=0)) == [EndedRun("child1")]
    assert driver.wake("child1", worker="w3") is not None
    assert driver.send(take_over_finished(driver.partition, "w3", idle_ms=0)) == []


def test_a_finished_event_stays_until_the_parents_step_is_resolved(driver: Driver) -> None:
    left_on_the_stream(driver)
    for _ in range(3):
        driver.send(read_finished(driver.partition, "w3"))
        assert driver.client.xlen(driver.keys("FINISHED")) == 1
    driver.wake()
    assert driver.client.xlen(driver.keys("FINISHED")) == 0


def test_the_end_of_a_run_without_a_parent_leaves_no_finished_event(driver: Driver) -> None:
    driver.finish(driver.started())
    assert driver.client.xlen(driver.keys("FINISHED")) == 0
