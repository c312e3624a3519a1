"""start_child: a child is started once, with the memo of its step; its end is stored whether or not the code waits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.redis_client.operation import Operation, run_operation
from stepflow_broker.registry.flow_control import RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import register_functions
from stepflow_broker.transitions.invokes.invokes import find_closed_children
from stepflow_broker.transitions.invokes.outbox import ChildCancelled, RemoteChildFinished, StartChild
from stepflow_broker.transitions.runs.run_notes import note_closing
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_engine.failure import Failure
from stepflow_engine.ids import child_key, step_key
from stepflow_engine.memo import memo_of_failure
from stepflow_engine.state_machine import RunStatus
from tests.contract.test_remote_invokes import CHILD, PARENT, Pair, pair
from tests.support.driver import LEASE_MS, NOBODY, RETENTION_MS, STARTED_MEMO, Driver

__all__ = ["pair"]
KEY = step_key("call")
END = child_key(KEY)
END_ID = "call end"
REFUSAL = memo_of_failure(Failure("FunctionNotFoundError", "could not find function with ID: x"), {"id": "call"})


def outcomes(driver: Driver, run: str = "run1") -> list[tuple[str, str | None]]:
    """Key and outcome of each memo after that of the start."""
    return [(key, json.loads(text).get("outcome")) for key, text in driver.memos(run)[1:]]


# -- start -------------------------------------------------------------------------


def test_a_start_stores_its_memo_the_child_and_the_wait_for_its_end(driver: Driver) -> None:
    parent = driver.started()
    code, found = driver.start_child(parent, timeout_ms=5_000, parent_close="wait")
    assert code is ScriptStatus.DONE
    assert [(one.key, one.position, one.memo) for one in found] == [(KEY, 1, STARTED_MEMO)]  # type: ignore[union-attr]
    assert driver.memos() == [(KEY, STARTED_MEMO)]
    step = driver.steps()[END_ID]
    due_at = driver.now_ms + 5_000
    assert (step.state, step.child, step.due_at, step.parent_close) == ("waiting", "child1", due_at, "wait")
    child = driver.run("child1")
    assert (child.status, child.parent, child.parent_step) == (RunStatus.QUEUED, "run1", END)


def test_a_start_that_is_sent_again_changes_nothing(driver: Driver) -> None:
    parent = driver.started()
    driver.start_child(parent)
    before = driver.snapshot()
    assert driver.start_child(parent) == (ScriptStatus.ALREADY, [])
    driver.cancel("child1")
    after = driver.snapshot()
    assert driver.start_child(parent) == (ScriptStatus.ALREADY, [])
    assert driver.snapshot() == after != before


def test_a_start_without_the_lease_is_refused(driver: Driver) -> None:
    stale, ended = driver.started(), driver.started("run2")
    driver.finish(ended)
    driver.advance(LEASE_MS)
    driver.reclaim()
    driver.claim_one(worker="w2")
    before = driver.snapshot()
    assert driver.start_child(stale) == (ScriptStatus.STALE_FENCE, [])
    assert driver.start_child(ended) == driver.start_child(NOBODY) == (ScriptStatus.NO_RUN, [])
    assert driver.snapshot() == before


def test_a_start_with_a_registry_that_has_changed_is_refused_until_it_is_read_again(driver: Driver) -> None:
    parent = driver.started()
    version = driver.send(register_functions(driver.keys, [FunctionConfig("shop", "sell", "shop")]))
    assert driver.start_child(parent) == (ScriptStatus.STALE_REGISTRY, [])
    assert driver.start_child(parent, version=version)[0] is ScriptStatus.DONE


def test_a_function_that_cannot_be_invoked_gets_no_run_and_its_step_the_refusal(driver: Driver) -> None:
    parent = driver.started()
    code, found = driver.start_child(parent, refusal=REFUSAL)
    assert (code, [one.position for one in found]) == (ScriptStatus.DONE, [1])  # type: ignore[union-attr]
    assert driver.memos() == [(KEY, REFUSAL)]
    assert driver.steps() == {}
    assert driver.queued("shop") == []


def test_a_child_that_flow_control_skips_has_its_end_at_once(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "FINISHED"))
    parent = driver.started()
    for number in (1, 2):
        rate = RateConfig(1, 60_000)
        _, found = driver.start_child(parent, f"call {number}", child=f"child{number}", rate=rate)
    assert [one.position for one in found] == [2, 3]  # type: ignore[union-attr]
    end = child_key(step_key("call 2"))
    assert [json.loads(text)["outcome"] for key, text in driver.memos() if key == end] == ["skipped"]


# -- the end of the child ----------------------------------------------------------


@pytest.mark.parametrize("is_parked", [False, True])
def test_the_end_of_a_child_is_stored_and_wakes_a_parked_parent(driver: Driver, is_parked: bool) -> None:
    driver.store.broker.execute(create_group(driver.keys, "FINISHED"))
    parent = driver.started()
    driver.start_child(parent)
    child = driver.claim_one(worker="w2")
    if is_parked:
        assert driver.park(parent, 1) is ScriptStatus.DONE
    driver.finish(child)
    driver.wake()
    assert outcomes(driver) == [(END, "completed")]
    assert driver.run().status is (RunStatus.QUEUED if is_parked else RunStatus.RUNNING)


@pytest.mark.parametrize(
    ("parent_close", "status"), [("cancel", RunStatus.CANCELLED), ("leave", RunStatus.QUEUED), ("wait", "cancelled")]
)
@pytest.mark.parametrize("how", ["timeout", "cancel", "complete"])
def test_a_child_whose_time_is_over_or_whose_parent_is_cancelled_ends_as_its_parent_said(
    driver: Driver, parent_close: str, status: str, how: str
) -> None:
    driver.store.broker.execute(create_group(driver.keys, "FINISHED"))
    parent = driver.started()
    driver.start_child(parent, parent_close=parent_close, timeout_ms=5_000)
    if how == "timeout":
        driver.advance(5_000)
        driver.fire()
        assert outcomes(driver) == [(END, None)]  # the timeout memo of the test
    elif how == "cancel":
        driver.cancel()
    else:
        driver.finish(parent)
        status = RunStatus.QUEUED  # the worker cancels it before
    assert driver.run("child1").status == status
    assert driver.steps() == {}


def test_a_child_that_the_code_cancels_is_cancelled_however_it_was_started(driver: Driver) -> None:
    parent = driver.started()
    driver.start_child(parent, parent_close="leave")
    call = cancel_steps(driver.partition, run_id="run1", fence=parent.fence, keys=[END], retention_ms=RETENTION_MS)
    assert driver.send(call) is ScriptStatus.DONE
    assert driver.run("child1").status is RunStatus.CANCELLED
    assert outcomes(driver) == []


# -- in another partition ----------------------------------------------------------


def test_a_child_in_another_partition_is_started_by_a_message_and_cancelled_by_one(pair: Pair) -> None:
    parent = pair.here.started(PARENT)
    code, found = pair.here.start_child(parent, child=CHILD, timeout_ms=5_000)
    assert code is ScriptStatus.DONE
    _, message = found
    assert isinstance(message, StartChild)
    pair.deliver(message)
    assert pair.there.run(CHILD).status is RunStatus.QUEUED
    pair.here.advance(5_000)
    pair.here.fire()
    (cancel,) = [one for one in pair.messages() if isinstance(one, ChildCancelled)]
    pair.deliver(cancel)
    assert pair.there.run(CHILD).status is RunStatus.CANCELLED


def test_a_child_in_another_partition_tells_its_end_once(pair: Pair) -> None:
    parent = pair.here.started(PARENT)
    _, (_, message) = pair.here.start_child(parent, child=CHILD)
    assert isinstance(message, StartChild)
    pair.deliver(message)
    child = pair.there.claim_one(worker="w2")
    pair.there.finish(child)
    (end,) = [one for one in pair.messages() if isinstance(one, RemoteChildFinished)]
    pair.deliver(end)
    assert outcomes(pair.here, PARENT) == [(END, "completed")]


# -- waiting for children ----------------------------------------------------------


def test_the_children_of_a_run_with_very_many_steps_are_found_in_parts(driver: Driver) -> None:
    steps = {f"{number:040x}:state": "queued" for number in range(5_000)}
    closes = {f"{number:040x}:close": ("wait", "cancel", "leave")[number % 3] for number in range(0, 5_000, 50)}
    driver.client.hset(driver.keys("STEPS", "run9"), mapping=steps | closes)
    commands = list[Command[Any]]()

    def counted() -> Operation[set[str]]:
        operation = find_closed_children(driver.partition, "run9")
        calls = next(operation)
        while True:
            commands.extend(calls)
            try:
                calls = operation.send((yield calls))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    found = run_operation(driver.store.broker, counted())
    assert found == {name.removesuffix(":close") for name, close in closes.items() if close != "leave"}
    assert len(commands) > 4


def test_a_run_that_waits_for_its_children_says_how_its_code_has_ended(driver: Driver) -> None:
    lease = driver.started()

    def note(fence: int, run: str = "run1") -> ScriptStatus:
        status = RunStatus.COMPLETED
        return driver.send(note_closing(driver.partition, run_id=run, fence=fence, status=status))

    assert note(lease.fence - 1) is ScriptStatus.STALE_FENCE
    assert note(lease.fence, "nobody") is ScriptStatus.NO_RUN
    assert driver.run().closing == ""
    assert note(lease.fence) is note(lease.fence) is ScriptStatus.DONE
    assert driver.run().closing == "completed"
    driver.finish(lease)
    assert driver.run().closing == ""
