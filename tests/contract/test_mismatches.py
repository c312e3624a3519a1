"""note_mismatch and accept_mismatch: stored once for each version of the code, and what somebody accepts goes on."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.audit import read_audit_page
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.mismatches import accept_mismatch, has_accepted_mismatch, note_mismatch
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from stepflow_engine.mismatch import Mismatch, NamedStep
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import NOBODY, Driver

MISMATCH = Mismatch((NamedStep("charge", "run"),), (NamedStep("scöre", "run", "shop.py:41"),), "1.5")


def note(driver: Driver, lease: Lease, code: str = "new") -> ScriptStatus:
    call = note_mismatch(driver.partition, run_id=lease.run_id, fence=lease.fence, mismatch=MISMATCH, code=code)
    return driver.send(call)


def accept(driver: Driver, run: str = "run1") -> ScriptStatus:
    return driver.send(accept_mismatch(driver.partition, run, who="ann", reason="fine"))


def test_each_version_of_the_code_notes_its_mismatch_once(driver: Driver) -> None:
    lease = driver.started()
    assert driver.run().mismatch is None
    assert [note(driver, lease) for _ in range(2)] == [ScriptStatus.DONE, ScriptStatus.ALREADY]
    assert note(driver, lease, "newer") is ScriptStatus.DONE
    assert driver.run().mismatch == MISMATCH


def test_only_the_worker_with_the_lease_notes_a_mismatch(driver: Driver) -> None:
    assert note(driver, NOBODY) is ScriptStatus.NO_RUN
    lease = driver.started()
    driver.retry(lease)
    before = driver.snapshot()
    assert note(driver, lease) is ScriptStatus.STALE_FENCE
    assert driver.snapshot() == before


def test_an_accepted_run_that_was_set_aside_is_queued_at_once_and_may_go_on_with_this_code(driver: Driver) -> None:
    lease = driver.started()
    driver.fail(lease, "planned")
    note(driver, lease)
    driver.retry(lease, attempts=0, delay_ms=60_000, reason="differs")
    driver.advance(2_000)
    driver.fire()
    assert driver.run().continuation == "delayed"
    assert accept(driver) is ScriptStatus.DONE
    assert accept(driver) is ScriptStatus.ALREADY
    assert (driver.run().blocked, driver.run().due_at) == ("", driver.now_ms)
    driver.fire()
    again = next(one for one in driver.claim() if not one.key)
    assert note(driver, again) is ScriptStatus.RESOLVED
    assert driver.send(has_accepted_mismatch(driver.partition, "run1", code="new"))
    assert not driver.send(has_accepted_mismatch(driver.partition, "run1", code="newer"))
    assert note(driver, again, "newer") is ScriptStatus.DONE
    assert not driver.run().has_accepted_mismatch
    (entry, *_) = driver.send(read_audit_page(driver.partition, limit=10))
    assert (entry.action, entry.subject, entry.who, entry.reason) == ("accept", "run1", "ann", "fine")


def test_a_deferred_step_of_an_accepted_run_is_tried_at_once(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    step = next(one for one in driver.claim() if one.key)
    note(driver, lease)
    driver.defer(step, delay_ms=60_000)
    assert accept(driver) is ScriptStatus.DONE
    driver.fire()
    assert [one.key for one in driver.claim()] == [step_key("a")]


def test_only_live_runs_that_differ_are_accepted(driver: Driver) -> None:
    assert accept(driver) is ScriptStatus.NO_RUN
    lease = driver.started()
    assert accept(driver) is ScriptStatus.CHANGED
    note(driver, lease)
    driver.finish(lease, RunStatus.COMPLETED)
    assert accept(driver) is ScriptStatus.NO_RUN


def test_a_fork_that_may_take_another_way_stores_how_many_memos_are_not_compared(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    config, event = FunctionConfig("shop", "buy", "shop"), dumps({"name": "e", "id": "e", "ts": 1, "data": {}})
    for run, unchecked in (("run2", 0), ("run3", 1)):
        start = ForkStart(run, "run1", event, memos=[(step_key("a"), b"")], unchecked_memos=unchecked)
        assert driver.send(fork_run(driver.partition, config, start)) is ScriptStatus.DONE
        assert driver.run(run).unchecked_memos == unchecked
