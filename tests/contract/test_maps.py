"""begin_map, commit_item: the items of a map are handed out a few at a time, and its job comes when all have ended."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.flow_control import RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes.invokes import ChildStart
from stepflow_broker.transitions.invokes.remote_invokes import invoke_remote_child
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.ids import is_item_key, item_key, step_key
from stepflow_engine.state_machine import RunStatus
from tests.contract.test_moves import close, started
from tests.support.driver import ERROR, LEASE_MS, NOBODY, RETENTION_MS, Driver

FAILED = b'{"error":' + ERROR + b',"id":"map[0]"}'
MAP = step_key("map")


def items(driver: Driver, limit: int = 100, *, worker: str = "w2") -> list[Lease]:
    """Claim jobs, of which all are of items."""
    leases = driver.claim(limit, worker=worker) or []
    assert all(is_item_key(lease.key) for lease in leases)
    return leases


def collected(driver: Driver, text: bytes = b'{"data":[],"id":"map","kind":"map"}') -> None:
    """The map has its job. A worker claims it, and stores the results."""
    lease = driver.claim_one(worker="w3")
    assert lease.key == MAP
    assert driver.commit(lease, text=text)[0] is ScriptStatus.DONE
    assert driver.steps() == {}
    assert driver.results() == {}


def test_as_many_items_are_open_as_may_be_and_the_end_of_one_hands_out_the_next(driver: Driver) -> None:
    lease = driver.started()
    assert driver.begin_map(lease, count=5, at_once=2) is ScriptStatus.DONE
    first, second = items(driver)
    assert [first.step_id, second.step_id] == ["map[0]", "map[1]"]
    assert first.key == item_key(MAP, "0" * 8, 0)
    assert driver.commit_item(second, b'{"data":"b"}') is ScriptStatus.DONE
    (third,) = items(driver)
    assert third.step_id == "map[2]"
    assert driver.results() == {1: '{"data":"b"}'}
    for one in (first, third):
        driver.commit_item(one)
    for one in items(driver):
        driver.commit_item(one)
    assert driver.steps()["map"].state == "queued"
    assert sorted(driver.results()) == [0, 1, 2, 3, 4]
    collected(driver)
    assert [key for key, _ in driver.memos()] == [MAP]


def test_more_items_than_one_call_hands_out_are_handed_out_by_more_calls(driver: Driver) -> None:
    lease = driver.started()
    assert driver.begin_map(lease, count=250, at_once=150) is ScriptStatus.MORE
    assert driver.begin_map(lease, count=250, at_once=150) is ScriptStatus.DONE
    before = driver.snapshot()
    assert driver.begin_map(lease, count=250, at_once=150) is ScriptStatus.DONE
    assert driver.snapshot() == before
    assert len(items(driver, 1_000)) == 150


def test_a_map_that_its_first_worker_left_half_way_hands_out_two_items_for_one(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=250, at_once=150)
    for lease in items(driver, 50):
        driver.commit_item(lease)
    counts = driver.steps()["map"].items
    assert counts is not None
    assert (counts.begun, counts.open) == (200, 150)


def test_a_map_without_items_has_its_job_at_once(driver: Driver) -> None:
    lease = driver.started()
    assert driver.begin_map(lease, count=0) is ScriptStatus.DONE
    collected(driver)
    assert driver.begin_map(lease, count=0) is ScriptStatus.ALREADY


def test_only_a_valid_lease_begins_a_map_or_ends_an_item_and_each_once(driver: Driver) -> None:
    assert driver.begin_map(NOBODY, count=2) is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.begin_map(lease, count=2)
    stale, _ = items(driver)
    driver.advance(LEASE_MS)
    driver.reclaim()
    assert driver.begin_map(lease, count=2) is ScriptStatus.STALE_FENCE
    again = next(one for one in driver.claim(worker="w3") or () if one.step_id == "map[0]")
    before = driver.snapshot()
    assert driver.commit_item(stale, b'{"data":"stale"}') is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before
    assert driver.commit_item(again) is ScriptStatus.DONE
    assert driver.commit_item(again) is ScriptStatus.ALREADY
    driver.cancel()
    assert driver.commit_item(stale) is ScriptStatus.NO_RUN


def test_items_may_fail_as_often_as_is_tolerated(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=3, at_once=3, tolerated=1)
    first, second, third = items(driver)
    driver.commit_item(first, FAILED)
    driver.commit_item(second)
    driver.commit_item(third)
    assert sorted(driver.results()) == [0, 1, 2]
    collected(driver)


def test_too_many_failures_drop_what_no_worker_executes_and_leave_the_rest_to_end(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=9, at_once=5)
    first, second, third = items(driver, 3)
    driver.fail(third)
    assert driver.commit_item(first, FAILED) is ScriptStatus.DONE
    assert {step.id: step.state for step in driver.steps().values()} == {"map": "mapping", "map[1]": "leased"}
    assert driver.commit_item(second) is ScriptStatus.DONE
    assert sorted(driver.results()) == [0, 1]
    assert driver.fire() == (0, -1)
    collected(driver)


def test_results_that_are_too_large_together_stop_a_map(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=9, at_once=1, room=20)
    for _ in range(3):
        (one,) = items(driver)
        driver.commit_item(one)
    assert sorted(driver.results()) == [0, 1, 2]
    collected(driver)


def test_an_item_is_retried_like_a_step_and_stays_open(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=3, at_once=1)
    (one,) = items(driver)
    assert driver.fail(one, delay_ms=1_000) is ScriptStatus.DONE
    assert items(driver) == []
    driver.advance(1_000)
    driver.fire()
    (again,) = items(driver)
    assert (again.step_id, again.step_attempt) == ("map[0]", 1)
    driver.commit_item(again)
    assert [one.step_id for one in items(driver)] == ["map[1]"]


def test_the_items_of_a_dead_worker_are_queued_again(driver: Driver) -> None:
    lease = driver.started()
    driver.begin_map(lease, count=3)
    dead = items(driver)
    driver.advance(LEASE_MS)
    assert set(driver.reclaim()) == {lease.job, *(one.job for one in dead)}


@pytest.mark.parametrize("ends", ["finish", "cancel"])
def test_the_end_of_the_run_deletes_the_items_and_their_results(driver: Driver, ends: str) -> None:
    lease = driver.started()
    driver.begin_map(lease, count=9, at_once=3)
    first, *_ = items(driver, 2)
    driver.commit_item(first)
    if ends == "cancel":
        driver.cancel()
    else:
        driver.finish(lease, RunStatus.FAILED)
    assert not driver.client.keys(driver.keys("ITEMS", "*"))
    assert not driver.client.keys(driver.keys("RQ_JOB", "*-*"))


def test_a_map_that_the_code_cancels_leaves_its_executing_items_which_then_end_without_a_result(driver: Driver) -> None:
    lease = driver.started()
    driver.begin_map(lease, count=9, at_once=3)
    first, second = items(driver, 2)
    driver.commit_item(first)
    call = cancel_steps(driver.partition, run_id="run1", fence=lease.fence, keys=[MAP], retention_ms=RETENTION_MS)
    assert driver.send(call) is ScriptStatus.DONE
    assert [step.id for step in driver.steps().values()] == ["map[1]"]
    driver.begin_map(lease, count=9, at_once=1)
    assert driver.commit_item(second) is ScriptStatus.DONE
    assert driver.results() == {}
    assert [one.step_id for one in items(driver)] == ["map[0]"]


def test_items_and_their_map_wait_for_a_slot_and_a_stopped_map_leaves_the_wait_list(driver: Driver) -> None:
    driver.begin_map(started(driver), count=9, at_once=3, tolerated=1)
    first, second, third = items(driver)
    close(driver)
    driver.commit_item(first, FAILED)
    assert driver.steps()["map[3]"].state == "waitlisted"
    driver.commit_item(second, FAILED)
    assert {step.id: step.state for step in driver.steps().values()} == {"map": "mapping", "map[2]": "leased"}
    driver.commit_item(third)
    assert driver.steps()["map"].state == "waitlisted"


def test_the_next_round_of_a_run_has_nothing_of_a_map_and_may_have_one(driver: Driver) -> None:
    lease = driver.started()
    driver.begin_map(lease, count=9)
    driver.commit_item(items(driver)[0])
    assert driver.continue_as_new(lease) is ScriptStatus.DONE
    assert not driver.client.keys(driver.keys("ITEMS", "*"))
    assert driver.steps() == {}
    lease = next(one for one in driver.claim() or () if not one.key)
    driver.begin_map(lease, count=1, round=1)
    driver.commit_item(items(driver)[0])
    assert driver.steps()["map"].state == "queued"


# -- functions -------------------------------------------------------------------


def with_children(driver: Driver, count: int = 3, *, at_once: int = 2, tolerated: int = 0) -> list[Lease]:
    """The children of the first items, claimed."""
    driver.begin_map(driver.started(), count=count, at_once=at_once, tolerated=tolerated)
    return children(driver)


def children(driver: Driver) -> list[Lease]:
    for lease in items(driver):
        assert driver.invoke(lease, lease.step_id, child=f"child{lease.step_id[4]}")[0] is ScriptStatus.DONE
    return driver.claim(worker="w3") or []


def test_an_item_waits_for_its_child_whose_end_hands_out_the_next(driver: Driver) -> None:
    first, second = with_children(driver)
    assert {step.state for step in driver.steps().values() if step.is_item} == {"waiting"}
    driver.finish(first)
    assert driver.wake(first.run_id) is None
    assert driver.results() == {0: '{"data":"done"}'}
    (third,) = children(driver)
    for child in (second, third):
        driver.finish(child)
        driver.wake(child.run_id)
        assert driver.wake(child.run_id) is None
    collected(driver)


def test_a_child_that_fails_fails_its_item_and_has_its_run_in_the_memo(driver: Driver) -> None:
    first, second = with_children(driver, tolerated=3)
    driver.finish(first, RunStatus.FAILED)
    driver.wake(first.run_id)
    assert driver.results()[0].startswith('{"error":')
    assert '"outcome":"failed"' in driver.results()[0]
    assert driver.steps()["map"].items is not None
    driver.cancel(second.run_id)
    driver.wake(second.run_id)  # a worker reads the finished event
    assert '"outcome":"cancelled"' in driver.results()[1]


def test_a_child_that_does_not_end_in_time_fails_its_item(driver: Driver) -> None:
    with_children(driver, 2, tolerated=2)
    driver.advance(60_000)
    driver.fire()
    assert all("InvokeTimeoutError" in text for text in driver.results().values())
    assert driver.steps()["map"].state == "queued"


def test_an_item_whose_function_does_not_exist_or_is_skipped_fails(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=3, at_once=3, tolerated=3)
    refused, taken, skipped = items(driver)
    assert driver.invoke(refused, refusal=FAILED)[0] is ScriptStatus.RESOLVED
    driver.invoke(taken, child="child1", rate=RateConfig(1, 60_000))
    assert driver.invoke(skipped, child="child2", rate=RateConfig(1, 60_000))[0] is ScriptStatus.RESOLVED
    assert driver.results()[0] == FAILED.decode()
    assert '"outcome":"skipped"' in driver.results()[2]


def test_an_item_whose_child_is_in_another_partition_waits_for_it(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=2, at_once=1)
    (lease,) = items(driver)
    config = FunctionConfig("shop", "sell", "shop")
    start = ChildStart(lease.key, "map[0]", "child1", b"{}", b'"id":"map[0]"}', 60_000, FAILED, b"", config, 1)
    call = invoke_remote_child(driver.partition, start, run_id="run1", fence=lease.fence, version=0)
    assert driver.send(call)[0] is ScriptStatus.DONE
    assert driver.send(call)[0] is ScriptStatus.ALREADY
    assert driver.steps()["map[0]"].state == "waiting"


def test_a_cancelled_map_cancels_the_children_of_its_items(driver: Driver) -> None:
    lease = driver.started()
    driver.begin_map(lease, count=3, at_once=2)
    first, second = children(driver)
    call = cancel_steps(driver.partition, run_id="run1", fence=lease.fence, keys=[MAP], retention_ms=RETENTION_MS)
    driver.send(call)
    assert {driver.run(child.run_id).status for child in (first, second)} == {RunStatus.CANCELLED}
    assert driver.steps() == {}
