"""Pinned runs: a job goes to a worker of the release that started its run, and waits if there is none."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.code import code_names, digest_of_code, register_code
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import register_functions
from stepflow_broker.transitions.audit import read_audit_page
from stepflow_broker.transitions.jobs.job_claims import Lease, claim_jobs, queue_lists
from stepflow_broker.transitions.runs.run_control import unpin_run
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_engine.codec import dumps
from tests.support.driver import LEASE_MS, Driver


def starts(driver: Driver, run: str = "run1", *, pinned: bool = True) -> None:
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {}})
    config = FunctionConfig("shop", "buy", "shop", pinned=pinned)
    assert driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False)) is ScriptStatus.DONE


def lives(driver: Driver, release: str, *, is_new: bool = False) -> list[str]:
    """A worker of a release is alive. ``is_new``: it has just started, and registers the function."""
    names = code_names(["shop/buy"], f"digest of {release}".replace(" ", "-"), release=release)
    driver.send(register_code(driver.partition, names))
    if is_new:
        config = FunctionConfig("shop", "buy", "shop", pinned=True, release=release)
        driver.send(register_functions(driver.keys, [config]))
    return names


def claim(driver: Driver, release: str) -> list[Lease]:
    """Claim as a worker of a release."""
    call = claim_jobs(
        driver.partition,
        lists=queue_lists(["shop"]),
        worker=f"worker {release}",
        limit=9,
        lease_ms=LEASE_MS,
        code=digest_of_code(lives(driver, release)),
        version=release,
    )
    claimed = driver.store.broker.execute(call)
    driver.check()
    assert claimed is not None
    assert claimed.lacking == {}, "a pinned run does not lack code"
    return claimed.leases


def started(driver: Driver, release: str = "1.4") -> Lease:
    """A pinned run that a worker of a release has claimed."""
    lives(driver, release, is_new=True)
    starts(driver)
    (lease,) = claim(driver, release)
    return lease


def test_a_continuation_is_claimed_by_the_release_that_started_its_run(driver: Driver) -> None:
    lease = started(driver)
    driver.yield_run(lease)
    heard = driver.listen("READY")
    assert claim(driver, "1.5") == []
    assert heard() == ["shop:steps"]
    assert driver.run("run1").continuation == "waitlisted"
    assert claim(driver, "1.5") == []
    (again,) = claim(driver, "1.4")
    assert (again.job, again.version, again.attempt) == ("run1", "1.4", 0)
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


def test_planned_steps_are_claimed_by_the_release_of_their_run(driver: Driver) -> None:
    lease = started(driver)
    driver.plan(lease, "a", "b")
    assert claim(driver, "1.5") == []
    assert {step.state for step in driver.steps("run1").values()} == {"waitlisted"}
    assert {one.step_id for one in claim(driver, "1.4")} == {"a", "b"}


def test_a_run_that_is_not_pinned_is_claimed_by_any_release(driver: Driver) -> None:
    lives(driver, "1.4", is_new=True)
    starts(driver, pinned=False)
    (lease,) = claim(driver, "1.4")
    driver.yield_run(lease)
    assert len(claim(driver, "1.5")) == 1


def test_the_release_that_was_registered_last_starts_new_runs_while_it_lives(driver: Driver) -> None:
    lives(driver, "1.4", is_new=True)
    lives(driver, "1.5", is_new=True)
    starts(driver)
    starts(driver, "run2")
    assert claim(driver, "1.4") == []
    assert {(lease.job, lease.version) for lease in claim(driver, "1.5")} == {("run1", "1.5"), ("run2", "1.5")}
    starts(driver, "run3")
    assert claim(driver, "1.4") == []
    driver.advance(100_000)  # no worker of 1.5 has said that it lives
    assert [(lease.job, lease.version) for lease in claim(driver, "1.4")] == [("run3", "1.4")]
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


@pytest.mark.parametrize(
    ("keeps", "lives_s", "expected"),
    [(False, 0, "1.5"), (True, 0, "1.4"), (False, 100, "1.4")],
    ids=["by default", "told to stay", "the newest has no worker"],
)
def test_the_next_round_of_a_pinned_run_belongs_to_the_release_that_starts_new_runs(
    driver: Driver, keeps: bool, lives_s: int, expected: str
) -> None:
    lease = started(driver)
    lives(driver, "1.5", is_new=True)
    driver.advance(lives_s * 1_000)
    assert driver.continue_as_new(lease, keep_version=keeps) is ScriptStatus.DONE
    assert driver.run("run1").version == expected
    other = {"1.4": "1.5", "1.5": "1.4"}[expected]
    assert claim(driver, other) == []
    (following,) = claim(driver, expected)
    assert (following.version, following.round) == (expected, 1)


def test_the_next_round_of_a_run_that_is_not_pinned_names_the_version_that_began_it(driver: Driver) -> None:
    lives(driver, "1.4", is_new=True)
    starts(driver, pinned=False)
    (lease,) = claim(driver, "1.4")
    lives(driver, "1.5", is_new=True)
    driver.continue_as_new(lease)
    assert driver.run("run1").version == "1.4"


def test_a_started_run_waits_for_its_release_though_none_lives(driver: Driver) -> None:
    driver.yield_run(started(driver))
    assert claim(driver, "1.5") == []
    driver.advance(100_000)
    assert claim(driver, "1.5") == []
    assert driver.run("run1").continuation == "waitlisted"
    assert len(claim(driver, "1.4")) == 1


@pytest.mark.parametrize("kind", ["run", "step"])
def test_an_unpinned_run_is_claimed_by_any_release(driver: Driver, kind: str) -> None:
    lease = started(driver)
    driver.yield_run(lease) if kind == "run" else driver.plan(lease, "a")
    assert claim(driver, "1.5") == []
    assert driver.send(unpin_run(driver.partition, "run1", who="ann", reason="gone")) is ScriptStatus.DONE
    before = driver.snapshot()
    assert driver.send(unpin_run(driver.partition, "run1", who="ann")) is ScriptStatus.ALREADY
    assert driver.snapshot() == before
    (taken,) = claim(driver, "1.5")
    assert (taken.run_id, taken.step_id) == ("run1", "" if kind == "run" else "a")
    (entry, *_) = driver.send(read_audit_page(driver.partition, before="", limit=9))
    assert (entry.who, entry.action, entry.subject, entry.reason) == ("ann", "unpin", "run1", "gone")


def test_a_run_that_has_ended_cannot_be_unpinned(driver: Driver) -> None:
    started(driver)
    driver.cancel("run1")
    assert driver.send(unpin_run(driver.partition, "run1", who="ann")) is ScriptStatus.NO_RUN
    assert driver.send(unpin_run(driver.partition, "nobody", who="ann")) is ScriptStatus.NO_RUN


def test_a_pinned_run_that_waits_for_its_release_can_be_cancelled(driver: Driver) -> None:
    driver.yield_run(started(driver))
    assert claim(driver, "1.5") == []
    assert driver.cancel("run1") is ScriptStatus.DONE
    assert claim(driver, "1.4") == []
    assert not driver.client.exists(driver.keys("CODE_WAITS"))


def test_a_worker_keeps_a_job_of_a_pinned_run_whose_step_its_code_lacks(driver: Driver) -> None:
    lease = started(driver)
    lives(driver, "1.5")
    assert driver.leave(lease, "digest-of-1.4") is ScriptStatus.ALREADY


def test_a_damaged_registration_does_not_stop_claims(driver: Driver) -> None:
    lives(driver, "1.4", is_new=True)
    starts(driver)
    driver.client.hset(driver.keys("FUNCTIONS"), "shop/buy", "{damaged")
    assert len(claim(driver, "1.5")) == 1
