"""A run with something to undo does not end at once: its jobs undo its steps, and it ends as was decided before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.cancellation import CancellationConfig
from stepflow_broker.registry.code import code_names, register_code
from stepflow_broker.registry.flow_control import FlowConfig, SingletonConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.run_ends import end_undo, finish_run
from stepflow_broker.transitions.runs.run_notes import note_undo
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_broker.transitions.steps.signals import send_signal
from stepflow_engine.codec import dumps, loads
from stepflow_engine.ids import step_key, undo_key
from stepflow_engine.run_events import CANCELLED
from stepflow_engine.state_machine import RunStatus
from tests.contract.test_pauses import GATE, paused, resumed
from tests.contract.test_pauses import start as gated_start
from tests.support.driver import ERROR, GROUP_OF_ERRORS, NOBODY, RETENTION_MS, Driver

FAILED_EVENT = (dumps({"name": "stepflow/function.failed", "id": "f1", "ts": 1, "data": None}), "f1")
UNDO_FAILED_EVENT = (dumps({"name": "stepflow/function.undo_failed", "id": "u1", "ts": 1, "data": None}), "u1")
End = Callable[[Driver, Lease], ScriptStatus]


def note(driver: Driver, lease: Lease) -> ScriptStatus:
    return driver.send(note_undo(driver.partition, run_id=lease.run_id, fence=lease.fence))


def fail(driver: Driver, lease: Lease) -> ScriptStatus:
    return driver.send(
        finish_run(
            driver.partition,
            run_id=lease.run_id,
            fence=lease.fence,
            status=RunStatus.FAILED,
            payload=ERROR,
            retention_ms=RETENTION_MS,
            failed_event=FAILED_EVENT,
        )
    )


def cancel(driver: Driver, lease: Lease) -> ScriptStatus:
    return driver.cancel(lease.run_id)


def end(driver: Driver, lease: Lease, event: tuple[bytes, str] = (b"", "")) -> ScriptStatus:
    call = end_undo(
        driver.partition,
        run_id=lease.run_id,
        fence=lease.fence,
        retention_ms=RETENTION_MS,
        version="v2",
        undo_failed_event=event,
    )
    return driver.send(call)


def start(driver: Driver, run: str = "run1", **options: object) -> None:
    config = FunctionConfig("shop", "buy", "shop", retention_ms=RETENTION_MS, **options)  # type: ignore[arg-type]
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {"order": 1}})
    driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


def booked(driver: Driver, **options: object) -> Lease:
    """A claimed run with one completed step that can be undone."""
    start(driver, **options)
    lease = driver.claim_one()
    assert note(driver, lease) is ScriptStatus.DONE
    driver.commit(lease, "book")
    return lease


def sent(driver: Driver) -> list[str]:
    """The ids of the events on the stream."""
    return [fields["id"] for _, fields in driver.client.xrange(driver.keys("EVENTS"))]


both_ends = pytest.mark.parametrize(("finish", "status"), [(fail, "failed"), (cancel, "cancelled")])


@both_ends
@pytest.mark.parametrize("twice", [False, True])
def test_a_run_with_something_to_undo_is_queued_for_that_and_ends_as_decided(
    driver: Driver, finish: End, status: str, twice: bool
) -> None:
    lease = booked(driver)
    driver.plan(lease, "a", "b")
    step = driver.claim_one(worker="w2")
    driver.twice = twice
    assert finish(driver, lease) is (ScriptStatus.MORE if finish is fail else ScriptStatus.DONE)
    run = driver.run()
    assert (run.status, run.undoing, run.continuation) == (RunStatus.QUEUED, status, "queued")
    assert run.failure is not None
    assert driver.steps() == {}, "what executes is fenced out, and what waits is dropped"
    assert driver.commit(step)[0] is ScriptStatus.STALE_FENCE
    assert driver.commit(lease, "late")[0] is ScriptStatus.STALE_FENCE
    assert sent(driver) == [], "it has not ended yet"
    assert driver.attempts()[-1].outcome == "unfinished"

    undoing = driver.claim_one(worker="w3", version="v1")
    assert (undoing.undoing, undoing.event, undoing.planned) == (status, None, False)
    driver.plan(undoing, "undo book")
    assert driver.claim_one().undoing == status, "jobs of undo handlers say it too"
    assert end(driver, undoing) is ScriptStatus.DONE
    run = driver.run()
    assert (run.status, run.undoing, run.ended_version) == (RunStatus(status), "", "v2")
    assert sent(driver) == (["f1"] if status == "failed" else ["run1-cancelled"])
    assert end(driver, undoing) is ScriptStatus.ALREADY


@both_ends
def test_a_run_without_a_completed_step_has_nothing_to_undo(driver: Driver, finish: End, status: str) -> None:
    lease = driver.started()
    note(driver, lease)
    assert finish(driver, lease) is ScriptStatus.DONE
    assert driver.run().status == status


@both_ends
def test_a_run_that_has_noted_no_undo_handler_ends_at_once(driver: Driver, finish: End, status: str) -> None:
    lease = driver.started()
    driver.commit(lease, "book")
    assert finish(driver, lease) is ScriptStatus.DONE
    assert driver.run().status == status


def test_a_run_that_completes_undoes_nothing(driver: Driver) -> None:
    lease = booked(driver)
    assert driver.finish(lease) is ScriptStatus.DONE
    assert driver.run().status is RunStatus.COMPLETED


def test_the_note_is_of_the_holder_alone(driver: Driver) -> None:
    lease = driver.started()
    driver.release(lease)
    assert note(driver, lease) is ScriptStatus.STALE_FENCE
    assert note(driver, NOBODY) is ScriptStatus.NO_RUN
    assert not driver.run().has_undo


@both_ends
def test_only_the_holder_ends_a_run_that_undoes_its_steps(driver: Driver, finish: End, status: str) -> None:
    lease = booked(driver)
    assert end(driver, lease) is ScriptStatus.STALE_FENCE, "it does not undo anything yet"
    finish(driver, lease)
    assert end(driver, lease) is ScriptStatus.STALE_FENCE
    assert end(driver, NOBODY) is ScriptStatus.NO_RUN
    assert end(driver, driver.claim_one()) is ScriptStatus.DONE


def test_a_run_that_undoes_its_steps_is_not_cancelled(driver: Driver) -> None:
    lease = booked(driver)
    fail(driver, lease)
    before = driver.snapshot()
    assert driver.cancel() is ScriptStatus.ALREADY
    assert driver.snapshot() == before
    end(driver, driver.claim_one())
    assert driver.run().status is RunStatus.FAILED


def test_a_run_that_undoes_its_steps_receives_no_signal(driver: Driver) -> None:
    cancel(driver, booked(driver))
    before = driver.snapshot()
    call = send_signal(driver.partition, run_id="run1", name="go", signal_id="s1", data=b"1")
    assert driver.send(call) == (ScriptStatus.NO_RUN, "undoing cancelled")
    assert driver.snapshot() == before


def test_no_deadline_and_no_event_stops_an_undo(driver: Driver) -> None:
    lease = booked(driver, cancellation=CancellationConfig(finish_ms=60_000))
    driver.advance(60_000)
    driver.fire()
    assert driver.run().undoing == "cancelled"
    assert driver.client.zrange(driver.keys("TIMEOUTS"), 0, -1) == []
    undoing = driver.claim_one()
    driver.advance(3_600_000)
    driver.fire()
    assert driver.commit(lease, "late")[0] is ScriptStatus.STALE_FENCE
    assert end(driver, undoing) is ScriptStatus.DONE
    assert driver.run().status is RunStatus.CANCELLED


def in_state(driver: Driver, state: str) -> Lease:
    """A run with something to undo whose function has a concurrency limit, and whose continuation is in a state."""
    gated_start(driver, "run1", limit=9)
    lease = driver.claim_one()
    note(driver, lease)
    driver.commit(lease, "book")
    if state == "queued":
        driver.yield_run(lease)
    elif state == "delayed":
        driver.retry(lease)
    elif state == "parked":
        driver.plan(lease, "a")
        driver.park(lease, 1)
    elif state == "waitlisted":
        driver.send(register_code(driver.partition, code_names(["shop/buy"], "v2")))
        assert driver.leave(lease, "v1") is ScriptStatus.DONE
    return lease


@pytest.mark.parametrize("is_paused", [False, True], ids=["open", "paused"])
@pytest.mark.parametrize("state", ["leased", "queued", "delayed", "parked", "waitlisted"])
def test_a_run_is_undone_whatever_its_continuation_does(driver: Driver, state: str, is_paused: bool) -> None:
    in_state(driver, state)
    gated_start(driver, "other", limit=9)
    if is_paused:
        paused(driver, "key", GATE)
    assert driver.cancel() is ScriptStatus.DONE
    assert driver.run().continuation in (("waitlisted",) if is_paused else ("queued", "waitlisted"))
    if is_paused:
        resumed(driver, "key", GATE)
    done = []
    while (claimed := driver.claim()) or driver.fire()[0]:
        for job in claimed or ():
            done.append(job.run_id)
            assert (end(driver, job) if job.undoing else driver.finish(job)) is ScriptStatus.DONE
        driver.advance(1_000)
    assert sorted(done) == ["other", "run1"]


def test_a_run_that_has_failed_waits_in_a_wait_list_to_be_undone_while_its_key_is_paused(driver: Driver) -> None:
    lease = in_state(driver, "leased")
    paused(driver, "key", GATE)
    assert fail(driver, lease) is ScriptStatus.MORE
    assert driver.run().continuation == "waitlisted"
    resumed(driver, "key", GATE)
    assert driver.claim_one().undoing == "failed"


@both_ends
def test_jobs_of_undo_handlers_go_with_their_run(driver: Driver, finish: End, status: str) -> None:
    """It ends before them if its workers die, whatever they do."""
    finish(driver, in_state(driver, "leased"))
    lease = driver.claim_one()
    driver.plan(lease, "leased")
    driver.fail(lease, "delayed")
    (leased,) = driver.claim(worker="w2") or ()
    driver.plan(lease, "queued")
    paused(driver, "key", GATE)
    driver.plan(lease, "waitlisted")
    states = {"leased": "leased", "delayed": "delayed", "queued": "queued", "waitlisted": "waitlisted"}
    assert {name: step.state for name, step in driver.steps().items()} == states
    assert end(driver, lease) is ScriptStatus.DONE
    assert driver.commit(leased)[0] is ScriptStatus.NO_RUN
    assert driver.run().status == status
    assert driver.claim() == []


def test_a_singleton_is_replaced_at_once_and_undone_beside_the_new_run(driver: Driver) -> None:
    one = FlowConfig(singleton=SingletonConfig("cancel"))
    booked(driver, flow=one)
    start(driver, "run2", flow=one)
    assert driver.run().undoing == "cancelled"
    first, second = driver.claim() or ()
    assert (first.run_id, second.run_id) == ("run1", "run2")
    assert end(driver, first) is ScriptStatus.DONE
    start(driver, "run3", flow=FlowConfig(singleton=SingletonConfig("skip")))
    assert driver.run("run3").status is RunStatus.SKIPPED, "run2 has the key"


@both_ends
def test_a_parent_waits_until_its_child_is_undone(driver: Driver, finish: End, status: str) -> None:
    parent = driver.started()
    driver.invoke(parent)
    driver.park(parent)
    child = driver.claim_one()
    note(driver, child)
    driver.commit(child, "book")
    finish(driver, child)
    assert driver.wake() is None
    assert driver.steps()["call"].state == "waiting"
    end(driver, driver.claim_one())
    driver.wake()
    [(_, text)] = driver.memos()
    assert loads(text)["outcome"] == status


def test_a_cancelled_parent_and_its_child_are_both_undone(driver: Driver) -> None:
    parent = booked(driver)
    driver.invoke(parent)
    child = driver.claim_one(worker="w2")
    note(driver, child)
    driver.commit(child, "book")
    driver.cancel()
    assert {driver.run(run).undoing for run in ("run1", "child1")} == {"cancelled"}
    for lease in driver.claim() or ():
        assert end(driver, lease) is ScriptStatus.DONE
    driver.wake()
    assert {driver.run(run).status for run in ("run1", "child1")} == {RunStatus.CANCELLED}


def test_failures_are_listed_for_as_long_as_the_run_is_kept(driver: Driver) -> None:
    fail(driver, booked(driver))
    assert end(driver, driver.claim_one(), UNDO_FAILED_EVENT) is ScriptStatus.DONE
    assert sent(driver) == ["f1", "u1"]
    key = driver.keys("UNDO_FAILURES")
    assert driver.client.zrange(key, 0, -1, withscores=True) == [("run1", driver.now_ms + RETENTION_MS)]
    assert 0 < driver.client.pttl(key) <= RETENTION_MS


def test_the_group_of_an_error_counts_a_run_once(driver: Driver) -> None:
    lease = booked(driver)
    driver.finish(lease, RunStatus.FAILED)
    end(driver, driver.claim_one())
    assert driver.client.hget(driver.keys("ERROR_GROUP", GROUP_OF_ERRORS), "count") == "1"
    assert driver.run().error_group == GROUP_OF_ERRORS


def test_a_fork_that_is_cancelled_before_it_starts_undoes_the_steps_that_it_has_taken_over(driver: Driver) -> None:
    driver.finish(booked(driver))
    config = FunctionConfig("shop", "buy", "shop", retention_ms=RETENTION_MS)
    fork = ForkStart(
        "fork1", "run1", dumps({"name": "e", "id": "run1", "ts": 1, "data": {}}), memos=[(step_key("book"), b"")]
    )
    driver.send(fork_run(driver.partition, config, fork))
    driver.cancel("fork1")
    assert driver.run("fork1").undoing == "cancelled"
    assert end(driver, driver.claim_one()) is ScriptStatus.DONE
    assert driver.run("fork1").status is RunStatus.CANCELLED


def test_each_cancelled_run_is_reported_once_with_its_event(driver: Driver) -> None:
    parent = driver.started()
    driver.invoke(parent)
    driver.twice = True
    driver.cancel()
    events = [loads(fields["event"]) for _, fields in driver.client.xrange(driver.keys("EVENTS"))]
    assert [event["name"] for event in events] == [CANCELLED, CANCELLED]
    assert [event["data"]["run_id"] for event in events] == ["run1", "child1"]
    assert events[0]["data"] == {
        "function": "shop/buy",
        "run_id": "run1",
        "error": loads(ERROR),
        "event": {"name": "e", "id": "run1", "ts": 1, "data": {}},
    }


def test_no_step_has_the_key_of_an_undo_handler() -> None:
    assert undo_key(step_key("book")) not in {
        step_key("undo book"),
        step_key("book"),
        step_key("undo " + step_key("book")),
    }
