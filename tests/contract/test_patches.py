"""note_patches: what a run decides at the patches of its code, stored under its lease, and given to its forks."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.run_notes import note_patches
from stepflow_broker.transitions.runs.run_record import read_patches, read_run
from stepflow_broker.views.run_view import view_run
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from stepflow_engine.patches import PatchDecision
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import NOBODY, Driver

DECISIONS = {"tax": PatchDecision(True, 0), "übermut": PatchDecision(False, 3)}


def note(driver: Driver, lease: Lease, decisions: dict[str, PatchDecision] = DECISIONS) -> ScriptStatus:
    return driver.send(note_patches(driver.partition, run_id=lease.run_id, fence=lease.fence, patches=decisions))


def test_decisions_are_read_as_they_were_stored(driver: Driver) -> None:
    lease = driver.started()
    assert driver.send(read_patches(driver.partition, "run1")) == {}
    assert note(driver, lease, {"tax": DECISIONS["tax"]}) is ScriptStatus.DONE
    assert note(driver, lease) is ScriptStatus.DONE
    assert driver.send(read_patches(driver.partition, "run1")) == DECISIONS
    record = driver.send(read_run(driver.partition, "run1"))
    assert record is not None
    assert view_run(record).to_json()["patches"] == {"tax": True, "übermut": False}


def test_only_the_worker_with_the_lease_decides(driver: Driver) -> None:
    lease = driver.started()
    driver.finish(lease, RunStatus.COMPLETED)
    assert note(driver, lease) is ScriptStatus.NO_RUN
    assert note(driver, NOBODY) is ScriptStatus.NO_RUN
    driver.start("run2")
    newer = driver.claim_one()
    before = driver.snapshot()
    assert (
        driver.send(note_patches(driver.partition, run_id="run2", fence=newer.fence - 1, patches=DECISIONS))
        is ScriptStatus.STALE_FENCE
    )
    assert driver.snapshot() == before


def test_a_fork_begins_with_the_decisions_that_it_is_given(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    note(driver, lease)
    config, event = FunctionConfig("shop", "buy", "shop"), dumps({"name": "e", "id": "e", "ts": 1, "data": {}})
    carried = {"tax": DECISIONS["tax"]}
    memos = [(step_key("a"), b"")]
    start = ForkStart("run2", "run1", event, memos=memos, patches=carried)
    assert driver.send(fork_run(driver.partition, config, start)) is ScriptStatus.DONE
    assert driver.send(fork_run(driver.partition, config, ForkStart("run3", "run1", event))) is ScriptStatus.DONE
    assert driver.send(read_patches(driver.partition, "run2")) == carried
    assert driver.send(read_patches(driver.partition, "run3")) == {}
