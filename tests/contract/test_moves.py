"""Moves that nothing else tests, and: every move in the table of the state machine is made by a test of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.flow_control import BatchConfig, FlowConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.events.event_stream import StreamedEvent, deliver_remote_event
from stepflow_broker.transitions.invokes.invokes import ChildStart, invoke_child
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.jobs.leases import repair_jobs
from stepflow_broker.transitions.runs.batches import end_batch
from stepflow_engine.codec import dumps, loads
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import EFFECTS, TRANSITIONS, Machine, Move
from tests.contract.test_pauses import GATE, paused, start
from tests.contract.test_waits import begin, wait_for
from tests.support.backends import Store
from tests.support.driver import LEASE_MS, RETENTION_MS, TIMEOUT_MEMO, Driver


def started(driver: Driver, run: str = "run1") -> Lease:
    """A claimed run whose function has a concurrency limit, which a pause of the key closes."""
    start(driver, run, limit=9)
    return driver.claim_one()


def states(driver: Driver, run: str = "run1") -> tuple[str | None, list[str]]:
    """The state of the continuation, and those of the steps."""
    continuation = driver.client.hget(driver.keys("RUN", run), "continuation")
    steps = driver.client.hgetall(driver.keys("STEPS", run))
    return continuation, [state for field, state in steps.items() if field.endswith(":state")]


def close(driver: Driver) -> None:
    assert paused(driver, "key", GATE)


def test_a_run_that_is_yielded_while_its_key_is_paused_is_gated(driver: Driver) -> None:
    lease = started(driver)
    close(driver)
    assert driver.yield_run(lease) is ScriptStatus.DONE
    assert states(driver) == ("waitlisted", [])


def test_jobs_that_are_released_while_their_key_is_paused_are_gated(driver: Driver) -> None:
    lease = started(driver)
    driver.plan(lease, "a")
    step = driver.claim_one(worker="w2")
    close(driver)
    assert driver.release(lease, step) == 2
    assert states(driver) == ("waitlisted", ["waitlisted"])


def test_jobs_that_are_reclaimed_while_their_key_is_paused_are_gated(driver: Driver) -> None:
    driver.plan(started(driver), "a")
    driver.claim_one(worker="w2")
    close(driver)
    driver.advance(LEASE_MS + 1)
    assert len(driver.reclaim()) == 2
    assert states(driver) == ("waitlisted", ["waitlisted"])


def test_jobs_whose_delay_is_over_while_their_key_is_paused_are_gated(driver: Driver) -> None:
    driver.retry(started(driver, "run1"))
    driver.fail(started(driver, "run2"), "a")
    close(driver)
    driver.advance(1_000)
    driver.fire()
    assert states(driver, "run1") == ("waitlisted", [])
    assert states(driver, "run2") == ("leased", ["waitlisted"])


def test_a_step_that_is_planned_while_its_key_is_paused_is_gated_and_ends_with_its_run(driver: Driver) -> None:
    lease = started(driver)
    close(driver)
    driver.plan(lease, "a")
    assert states(driver) == ("leased", ["waitlisted"])
    driver.finish(lease)
    assert states(driver) == (None, [])


def test_a_run_that_a_memo_wakes_while_its_key_is_paused_is_gated(driver: Driver) -> None:
    lease = started(driver)
    driver.plan(lease, "a")
    step = driver.claim_one(worker="w2")
    driver.park(lease)
    close(driver)
    driver.commit(step)
    assert states(driver) == ("waitlisted", [])


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_parked_run_whose_code_continues_is_queued_or_gated(driver: Driver, is_paused: bool) -> None:
    lease = started(driver)
    driver.plan(lease, "a")
    driver.park(lease)
    if is_paused:
        close(driver)
    driver.continue_run(lease.run_id)
    assert states(driver)[0] == ("waitlisted" if is_paused else "queued")


def test_a_step_whose_job_was_taken_away_is_gated_when_it_is_repaired_while_its_key_is_paused(driver: Driver) -> None:
    driver.plan(started(driver), "a")
    (job,) = driver.queued("shop:steps")
    close(driver)
    driver.client.lrem(driver.keys("RQ_QUEUE", "shop:steps"), 0, job)
    driver.client.delete(driver.keys("RQ_JOB", job))
    driver.send(repair_jobs(driver.partition, cursor=0))
    assert states(driver) == ("leased", ["waitlisted"])


# -- moves between runs and partitions ---------------------------------------------


def test_the_end_of_a_batch_ends_the_step_of_a_parent_of_one_of_its_runs(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "FINISHED"))
    parent = driver.started()
    config = FunctionConfig(
        "shop", "collect", "shop", flow=FlowConfig(batch=BatchConfig(1, 5_000)), retention_ms=RETENTION_MS
    )
    child = ChildStart(
        key=step_key("call"),
        step_id="call",
        child="child1",
        event=dumps({"name": "e", "id": "child1", "ts": 1, "data": {}}),
        detail=dumps({"id": "call"})[1:],
        timeout_ms=60_000,
        timeout_memo=TIMEOUT_MEMO,
        refusal=b"",
        config=config,
        depth=1,
    )
    driver.send(invoke_child(driver.partition, child, run_id="run1", fence=parent.fence, version=0))
    driver.park(parent)
    batch = driver.claim_one(worker="w2")
    driver.finish(batch)
    driver.send(end_batch(driver.partition, batch.run_id))
    assert states(driver) == ("queued", [])
    assert [loads(text)["data"] for _, text in driver.memos()] == ["done"]


def test_an_event_of_another_partition_ends_a_wait_once(store: Store) -> None:
    driver = Driver(store, keys=Keys.over(2).all[1])
    here, there = driver.partition.all
    run = "0001run"
    lease = driver.started(run)
    begin(driver, lease, wait_for("paid"))
    driver.park(lease)
    event = StreamedEvent("1-1", dumps({"name": "paid", "id": "e1", "ts": 1, "data": 17}), "e1", dedupe=True)
    deliver = deliver_remote_event(there, event, origin=here, paths=("",))
    assert driver.send(deliver).code is ScriptStatus.DONE
    assert [loads(text)["data"]["data"] for _, text in driver.memos(run)] == [17]
    before = driver.snapshot()
    driver.send(deliver)
    assert driver.snapshot() == before


# -- all moves ---------------------------------------------------------------------

FOLDER = Path(__file__).parent
MAKE_ALL_MOVES = (
    "test_remote_invokes.py::test_the_memo_is_the_one_that_a_child_nearby_leaves[real-failed]",
    "test_batches.py::test_a_batch_in_which_nobody_is_left_is_cancelled[real]",
    "test_batches.py::test_batches_stand_in_line_as_one[real]",
    "test_batches.py::test_the_end_of_a_batch_is_that_of_its_runs_whoever_sees_to_it[real-failed]",
    "test_batches.py::test_who_cancels_a_batch_cancels_its_runs[real]",
    "test_cancellation.py::test_a_run_that_does_not_end_in_time_is_cancelled_with_its_children[real]",
    "test_child_handles.py::test_a_start_stores_its_memo_the_child_and_the_wait_for_its_end[real]",
    "test_claiming.py::test_a_job_that_a_version_of_the_code_cannot_execute_goes_to_another_at_once[real-run]",
    "test_claiming.py::test_a_job_that_a_version_of_the_code_cannot_execute_goes_to_another_at_once[real-step]",
    "test_cancelled_steps.py::test_a_cancelled_job_leaves_its_queue[real]",
    "test_cancelled_steps.py::test_a_cancelled_sleep_has_no_timer_any_more[real]",
    "test_cancelled_steps.py::test_a_cancelled_step_that_waits_for_its_next_attempt_is_not_tried_again[real]",
    "test_cancelled_steps.py::test_a_slot_of_a_cancelled_job_goes_to_the_next_one[real]",
    "test_ending.py::test_a_run_can_be_cancelled_in_every_state[real-with_steps_in_every_state]",
    "test_ending.py::test_a_run_that_is_retried_waits_for_its_time_and_counts_the_attempt[real]",
    "test_ending.py::test_steps_that_have_not_ended_go_with_their_run[real]",
    "test_flow_rules.py::test_runs_that_are_debounced_away_use_up_no_rate[real]",
    "test_forking.py::test_a_fork_has_the_memos_that_were_named_in_their_order[real]",
    "test_invokes.py::test_a_refusal_that_is_sent_twice_is_recorded_once[real]",
    "test_invokes.py::test_an_invoke_that_comes_again_later_changes_nothing[real-cancelled]",
    "test_later_starts.py::test_a_delayed_start_is_skipped_by_a_singleton_that_is_live_when_it_is_due[real]",
    "test_later_starts.py::test_a_delayed_start_takes_the_place_of_a_singleton_when_it_is_due[real]",
    "test_later_starts.py::test_a_delayed_start_waits_for_a_slot_when_it_is_due[real]",
    "test_later_starts.py::test_delayed_starts_join_their_batch_when_they_are_due[real]",
    "test_leases.py::test_a_first_look_after_a_while_leaves_workers_the_time_to_extend[real]",
    "test_leases.py::test_jobs_that_are_handed_back_twice_are_queued_once[real]",
    "test_maps.py::test_a_child_that_does_not_end_in_time_fails_its_item[real]",
    "test_maps.py::test_a_map_that_the_code_cancels_leaves_its_executing_items_which_then_end_without_a_result[real]",
    "test_maps.py::test_a_map_without_items_has_its_job_at_once[real]",
    "test_maps.py::test_an_item_waits_for_its_child_whose_end_hands_out_the_next[real]",
    "test_maps.py::test_an_item_whose_child_is_in_another_partition_waits_for_it[real]",
    "test_maps.py::test_an_item_whose_function_does_not_exist_or_is_skipped_fails[real]",
    "test_maps.py::test_as_many_items_are_open_as_may_be_and_the_end_of_one_hands_out_the_next[real]",
    "test_maps.py::test_items_and_their_map_wait_for_a_slot_and_a_stopped_map_leaves_the_wait_list[real]",
    "test_maps.py::test_the_next_round_of_a_run_has_nothing_of_a_map_and_may_have_one[real]",
    "test_maps.py::test_too_many_failures_drop_what_no_worker_executes_and_leave_the_rest_to_end[real]",
    "test_maps.py::test_the_end_of_the_run_deletes_the_items_and_their_results[real-cancel]",
    "test_maps.py::test_the_end_of_the_run_deletes_the_items_and_their_results[real-finish]",
    "test_moves.py::test_a_parked_run_whose_code_continues_is_queued_or_gated[real-False]",
    "test_moves.py::test_a_parked_run_whose_code_continues_is_queued_or_gated[real-True]",
    "test_moves.py::test_a_run_that_a_memo_wakes_while_its_key_is_paused_is_gated[real]",
    "test_moves.py::test_a_run_that_is_yielded_while_its_key_is_paused_is_gated[real]",
    "test_moves.py::test_a_step_that_is_planned_while_its_key_is_paused_is_gated_and_ends_with_its_run[real]",
    "test_moves.py::test_a_step_whose_job_was_taken_away_is_gated_when_it_is_repaired_while_its_key_is_paused[real]",
    "test_moves.py::test_an_event_of_another_partition_ends_a_wait_once[real]",
    "test_moves.py::test_jobs_that_are_reclaimed_while_their_key_is_paused_are_gated[real]",
    "test_moves.py::test_jobs_that_are_released_while_their_key_is_paused_are_gated[real]",
    "test_moves.py::test_jobs_whose_delay_is_over_while_their_key_is_paused_are_gated[real]",
    "test_moves.py::test_the_end_of_a_batch_ends_the_step_of_a_parent_of_one_of_its_runs[real]",
    "test_pauses.py::test_a_run_that_was_put_aside_can_be_cancelled[real-cancel]",
    "test_pauses.py::test_many_jobs_go_on_bit_by_bit[real]",
    "test_pauses.py::test_no_job_of_a_paused_key_is_given_out_whether_it_has_a_slot_or_not[real]",
    "test_planning.py::test_a_step_that_is_put_off_keeps_its_number_of_attempts[real]",
    "test_asks.py::test_an_answer_ends_the_wait_and_wakes_the_run_with_who_and_when[real-False]",
    "test_rounds.py::test_a_round_that_continues_while_its_key_is_paused_is_gated[real]",
    "test_rounds.py::test_the_next_round_is_queued_with_its_event_and_without_memos[real]",
    "test_rounds.py::test_what_the_round_has_left_of_steps_goes_with_it[real]",
    "test_run_signals.py::test_a_signal_ends_the_wait_that_has_begun_and_wakes_its_run[real-False]",
    "test_run_signals.py::test_signals_that_come_early_are_received_in_order_one_by_each_wait[real-False]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-leased-open]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-leased-paused]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-queued-open]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-queued-paused]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-delayed-open]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-delayed-paused]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-parked-open]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-parked-paused]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-waitlisted-open]",
    "test_undo.py::test_a_run_is_undone_whatever_its_continuation_does[real-waitlisted-paused]",
    "test_undo.py::test_a_run_that_has_failed_waits_in_a_wait_list_to_be_undone_while_its_key_is_paused[real]",
    "test_undo.py::test_jobs_of_undo_handlers_go_with_their_run[real-cancel-cancelled]",
    "test_undo.py::test_jobs_of_undo_handlers_go_with_their_run[real-fail-failed]",
    "test_waits.py::test_a_time_that_is_past_resolves_the_step_at_once[real]",
    "test_waits.py::test_a_wait_with_a_condition_is_left_to_a_worker[real]",
    "test_waits.py::test_events_of_a_step_are_sent_with_its_memo_and_once[real]",
    "test_waits.py::test_the_end_of_a_run_ends_its_waits[real]",
    "test_waits.py::test_the_time_and_the_event_end_a_wait_once_whichever_is_first[real]",
)
"""Tests of this folder that together make all moves. If one is renamed or removed, put another in its place."""
WITHIN_A_SCRIPT = {
    ("invoke_child", Move(Machine.STEP, "waiting", "memo")): "it follows none -> waiting",
    ("start_child", Move(Machine.STEP, "waiting", "memo")): "it follows none -> waiting",
}
"""Moves that no reader sees, because the same script makes another before."""
Made = set[tuple[str, Move]]


def _make_all_moves(file: Path) -> Made:
    """Execute the tests in a process of their own; returns the transitions and the moves that they have made."""
    tests = [str(FOLDER / name) for name in MAKE_ALL_MOVES]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--moves", str(file), *tests],
        cwd=FOLDER.parents[1],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        (name, Move(Machine(machine), before, after))
        for _, name, machine, before, after in map(json.loads, file.read_text().splitlines())
    }


def _of_effects(made: Made) -> Made:
    """The moves of effects that transitions have made, and that are not their own."""
    return {
        (effect, move)
        for name, move in made
        if move not in TRANSITIONS[name].moves
        for effect in TRANSITIONS[name].all_effects
        if move in EFFECTS[effect].transition.moves
    }


def test_every_move_of_the_table_is_made_by_a_test(tmp_path: Path) -> None:
    """All but those of the doctor: they depend on the defects that tests/contract/test_doctor.py plants."""
    made = _make_all_moves(tmp_path / "moves")
    own = {
        (name, move)
        for name, transition in TRANSITIONS.items()
        for move in transition.moves
        if not name.startswith("examine_")
    }
    assert own - made == set(WITHIN_A_SCRIPT)
    of_effects = {(name, move) for name, effect in EFFECTS.items() for move in effect.transition.moves}
    assert of_effects - _of_effects(made) == set()


def test_a_move_that_the_table_does_not_name_fails_the_call(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSITIONS, "yield_run", TRANSITIONS["extend_leases"])  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="yield_run: MOVES does not name"):
        driver.yield_run(driver.started())
