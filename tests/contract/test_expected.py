"""The library of the doctor and the model of the tests demand the same of every server."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stepflow_broker.protocol import scripts
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_broker.registry.flow_control import FlowConfig, SingletonConfig
from stepflow_engine.state_machine import RunStatus
from tests.support import defects
from tests.support.driver import Driver
from tests.support.invariants import read_expected

LIST_EXPECTED = """\
-- list_expected: list the entries that runs demand.
-- USES     clock jobs waits state concurrency indexes truth expected
-- KEYS     1 live
-- ARGV     1 now_ms  2.. runs
-- MOVES    none
-- RETURNS  list of {kind, member, score or value, 1 OPTIONAL | 0 DEMANDED, ids}
local entries = {}
for i = 2, #ARGV do
  local was = read_run(ARGV[i])
  for _, job in ipairs(was.live and jobs_of(ARGV[i], was) or {continuation_of(ARGV[i], was)}) do
    for _, entry in ipairs(expected(job, clock(ARGV[1]))) do
      local value = tostring(entry.exact or entry.value or '')
      entries[#entries + 1] = {entry[1], entry[3], value, entry.optional and 1 or 0, entry[2]}
    end
  end
end
return entries
"""
WITHIN = CancellationConfig((CancelConfig("gone"),), start_ms=60_000, finish_ms=120_000)


def every_kind_of_job(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "leased", "queued")
    driver.claim(1, worker="w2")
    driver.fail(lease, "delayed")
    driver.retry(driver.started("run2"))
    driver.finish(driver.started("run3"))
    driver.finish(driver.started("run4"), RunStatus.FAILED)
    driver.start("run5")


def a_run_that_must_start_and_end_in_time(driver: Driver) -> None:
    defects.start(driver, "run1", bounds=WITHIN)
    driver.claim_one()
    defects.start(driver, "run2", bounds=WITHIN, flow=FlowConfig(singleton=SingletonConfig("skip")))


ARRANGEMENTS: dict[str, Callable[[Driver], object]] = {
    "every kind of job": every_kind_of_job,
    "a run that must start and end in time": a_run_that_must_start_and_end_in_time,
    "a planned step": defects.planned,
    "a sleep": defects.waiting,
    "a wait for an event": lambda driver: defects.waiting(driver, "paid"),
    "a child": defects.parent_and_child,
    "a child whose parent does not know of its end": defects.ended_child,
    "a child whose parent knows of its end": lambda driver: defects.ended_child(driver, told=True),
    "a child in another partition": defects.parent_of_child_away,
    "a batch": defects.batched,
    "a wait list": defects.in_line,
}


@pytest.fixture(autouse=True)
def script_that_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a script that lists what the library expects."""
    folder = Path(shutil.copytree(str(scripts._FOLDER), tmp_path / "lua"))
    (folder / "doctor" / "list_expected.lua").write_text(LIST_EXPECTED)
    monkeypatch.setattr(scripts, "_FOLDER", folder)
    yield
    scripts.script.cache_clear()


def list_expected(driver: Driver) -> dict[str, dict[str, tuple[str, bool, list[str]]]]:
    """Kind → member → score or value, whether it may be missing, and the ids of the keys that may have it."""
    runs = [name.removeprefix(driver.keys("RUN")) for name in driver.client.scan_iter(f"{driver.keys('RUN')}*")]
    text = scripts.script("list_expected").text
    found: defaultdict[str, dict[str, tuple[str, bool, list[str]]]] = defaultdict(dict)
    for kind, member, value, optional, ids in driver.client.eval(text, 1, driver.keys("LIVE"), driver.now_ms, *runs):
        if kind == "INDEX":
            member = f"{ids[0]}: {member}"
        assert member not in found[kind] or kind == "RUN_FUNCTIONS", f"{member} is expected twice in {kind}"
        found[kind][member] = (value, bool(optional), ids)
    return found


@pytest.mark.parametrize("arrange", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_the_library_expects_what_the_model_expects(driver: Driver, arrange: Callable[[Driver], object]) -> None:
    arrange(driver)
    found, model = list_expected(driver), read_expected(driver.client)
    assert set(found["LIVE"]) == model.live
    assert {member.split(" ")[0] for member in found["EXPIRY"]} == model.ended
    listed = {f"{subject}: {run}": at for subject, runs in model.listed.items() for run, at in runs.items()}
    assert {member: float(score) for member, (score, _, _) in found["INDEX"].items()} == listed
    assert {f"function {name}" for name in found["RUN_FUNCTIONS"]} <= set(model.listed)
    assert set(found["RQ_QUEUE"]) == set(model.queued)
    assert set(found["LEASES"]) == model.leases
    assert set(found["WAIT_LIST"]) == model.in_line
    assert set(found["TIMEOUT"]) == model.waits
    assert set(found["RQ_WIP"]) == model.rq_wip
    assert set(found["RQ_SCHEDULED"]) == model.rq_scheduled
    assert set(found["RQ_FAILED"]) == model.rq_failed
    assert set(found["TIMEOUTS"]) == set(model.timers)
    assert {member: (index,) for member, (_, _, (index, *_)) in found["WAITS"].items()} == {
        member: (index,) for index, members in model.indexed.items() for member in members
    }
    statuses = {job: value or "failed" for job, (value, _, _) in found["RQ_JOB"].items()}
    assert statuses == model.rq_status
    exact = {member: float(value) for member, (value, _, _) in found["TIMEOUTS"].items() if value}
    assert exact.items() <= model.timers.items()


def test_few_kinds_of_entries_may_be_missing(driver: Driver) -> None:
    every_kind_of_job(driver)
    optional = {kind for kind, entries in list_expected(driver).items() if any(entry[1] for entry in entries.values())}
    assert optional <= {"STEPS", "BATCHED", "RQ_FAILED", "RQ_JOB"}
