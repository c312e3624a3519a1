"""Pages of indexes: every run once, in order, whatever comes and goes between two pages."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepflow_broker.doctor.examine import examine
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.flow_control import BatchConfig, FlowConfig, RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.tags import TagConfig
from stepflow_broker.transitions.runs.batches import end_batch
from stepflow_broker.transitions.runs.run_control import forget_runs
from stepflow_broker.transitions.runs.run_index import Place, RunQuery, page_index
from stepflow_broker.transitions.runs.run_notes import tag_run
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_broker.views import find_runs, run_candidates
from stepflow_broker.views.error_groups import read_error_groups
from stepflow_broker.views.find_runs import find_page
from stepflow_engine.codec import dumps
from stepflow_engine.error_group import FailedLike
from stepflow_engine.errors import FilterError
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import GROUP_OF_ERRORS, RETENTION_MS, Driver
from tests.support.found_runs import ENDED, found_runs

TAGS = (TagConfig("tenant", "event.data.tenant"), TagConfig("plan", "event.data.plan"))
ALL = RunQuery()


def start(
    driver: Driver,
    run: str,
    function: str = "buy",
    *,
    tags: bool = False,
    flow: FlowConfig | None = None,
    **data: object,
) -> ScriptStatus:
    tagged = TAGS if tags else ()
    config = FunctionConfig("shop", function, "shop", flow=flow, retention_ms=RETENTION_MS, tags=tagged)
    event = dumps({"name": "e", "id": run, "ts": 1, "data": data})
    return driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


def listed(driver: Driver, **wanted: object) -> list[str]:
    return [run.id for run in found_runs(driver.store.broker, driver.partition, **wanted)]


def pages(driver: Driver, wanted: RunQuery, *, limit: int) -> list[list[str]]:
    """All pages, the next of each by the place of its last run."""
    found, after = [], None
    while True:
        page = driver.store.broker.execute(page_index(driver.partition, wanted, after, limit=limit, most=1_000))
        if page.found:
            found.append([place.run_id for place in page.found])
            after = page.found[-1]
        if page.last is None:
            return found


def test_a_prefix_that_very_many_ids_have_is_refused(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_candidates, "_MAX_MATCHES", 3)
    for number in range(5):
        start(driver, f"abcd{number}", "buy" if number < 3 else "sell")
    with pytest.raises(FilterError, match="more than 3 run ids begin with 'abcd': write more of its digits"):
        listed(driver, id_prefix="abcd")
    assert listed(driver, id_prefix="abcd", functions=("shop/buy",)) == ["abcd2", "abcd1", "abcd0"]
    assert listed(driver, id_prefix="abcd", functions=("shop/sell",), app="shop") == ["abcd4", "abcd3"]
    assert listed(driver, id_prefix="abcd", app="other") == []


def test_runs_are_listed_newest_first_and_those_of_one_millisecond_by_their_ids(driver: Driver) -> None:
    for run in ("a2", "a1", "a3"):
        start(driver, run)
    driver.advance(1)
    start(driver, "a0")
    assert pages(driver, ALL, limit=10) == [["a0", "a3", "a2", "a1"]]
    assert pages(driver, ALL, limit=1) == [["a0"], ["a3"], ["a2"], ["a1"]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_of_several_functions_are_merged(driver: Driver, limit: int) -> None:
    for number in range(20):
        start(driver, f"{number:04d}", f"f{number % 3}")
        driver.advance(number % 2)
    merged = [run for page in pages(driver, ALL, limit=limit) for run in page]
    assert merged == [f"{number:04d}" for number in reversed(range(20))]
    two = RunQuery(functions=("shop/f0", "shop/f2"))
    assert [run for page in pages(driver, two, limit=limit) for run in page] == [
        f"{number:04d}" for number in reversed(range(20)) if number % 3 != 1
    ]


def test_no_run_is_lost_or_repeated_when_the_run_at_the_cursor_goes_away(driver: Driver) -> None:
    """Many runs share a millisecond, and the run where the next page begins is forgotten between two pages."""
    key = driver.keys("INDEX", "function shop/buy")
    start(driver, "zzzz")
    runs = [f"{number:04x}" for number in range(300)]
    for number, run in enumerate(runs):
        at = 1_000 if 50 <= number < 250 else 900 + number // 10 if number < 50 else 1_001 + number // 10
        driver.client.zadd(key, {run: at})
        driver.client.hset(driver.keys("RUN", run), mapping={"status": "queued", "app": "shop", "function": "buy"})
    driver.client.zrem(key, "zzzz")
    found, after, page_number = [], None, 0
    while True:
        page = driver.store.broker.execute(page_index(driver.partition, ALL, after, limit=13, most=1_000))
        found += [place.run_id for place in page.found]
        if page.last is None:
            break
        after, page_number = page.found[-1], page_number + 1
        if page_number % 3 == 0:
            driver.client.zrem(key, after.run_id)
    assert found == sorted(runs, key=lambda run: (driver_time(run), run), reverse=True)


def driver_time(run: str) -> int:
    number = int(run, 16)
    return 1_000 if 50 <= number < 250 else 900 + number // 10 if number < 50 else 1_001 + number // 10


def test_a_page_ends_after_so_many_entries_and_says_where(driver: Driver) -> None:
    for number in range(10):
        start(driver, f"{number:04d}")
        driver.advance(1)
    wanted = RunQuery(statuses=frozenset({RunStatus.RUNNING, RunStatus.COMPLETED}))
    page = driver.store.broker.execute(page_index(driver.partition, wanted, None, limit=5, most=4))
    assert (page.found, page.read, page.last and page.last.run_id) == ([], 4, "0006")
    page = driver.store.broker.execute(page_index(driver.partition, wanted, page.last, limit=5, most=100))
    assert (page.found, page.read, page.last) == ([], 6, None)


def test_times_bound_a_page(driver: Driver) -> None:
    began = driver.now_ms
    for number in range(5):
        start(driver, f"{number:04d}")
        driver.advance(10)
    assert listed(driver, since_ms=began + 10, until_ms=began + 30) == ["0002", "0001"]
    assert listed(driver, until_ms=began) == []
    after = Place(began + 20, "0002")
    page = driver.store.broker.execute(
        page_index(driver.partition, RunQuery(until_ms=began + 40), after, limit=5, most=100)
    )
    assert [place.run_id for place in page.found] == ["0001", "0000"]


def test_ended_runs_are_listed_by_their_end_whatever_their_retention(driver: Driver) -> None:
    leases = [driver.started(run) for run in ("run1", "run2", "run3")]
    for lease, retention_ms in zip(reversed(leases), (RETENTION_MS, 7 * RETENTION_MS, 1_000), strict=True):
        driver.advance(5)
        driver.finish(lease, retention_ms=retention_ms)
    assert listed(driver, statuses=ENDED) == ["run1", "run2", "run3"]
    assert listed(driver) == ["run3", "run2", "run1"]
    assert listed(driver, statuses=frozenset({RunStatus.COMPLETED})) == ["run1", "run2", "run3"]


def test_running_runs_are_found_behind_many_that_are_queued(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_runs, "BUDGET", 3)
    driver.started("run1")
    planned = driver.started("run2")
    driver.plan(planned, "a")
    driver.park(planned)
    driver.claim_one()
    for number in range(5):
        driver.advance(1)
        start(driver, f"later{number}")
    assert listed(driver, statuses=frozenset({RunStatus.RUNNING})) == ["run1"]
    monkeypatch.setattr(run_candidates, "_MAX_MATCHES", 1)
    monkeypatch.setattr(find_runs, "BUDGET", 100)
    assert listed(driver, statuses=frozenset({RunStatus.RUNNING})) == ["run1"]


def test_failed_runs_are_found_by_function_and_by_group(driver: Driver) -> None:
    driver.finish(driver.started("run1"), RunStatus.FAILED)
    driver.finish(driver.started("run2"))
    assert listed(driver, statuses=frozenset({RunStatus.FAILED})) == ["run1"]
    assert listed(driver, statuses=frozenset({RunStatus.FAILED}), functions=("shop/buy",)) == ["run1"]
    assert listed(driver, statuses=frozenset({RunStatus.FAILED}), error_group=GROUP_OF_ERRORS) == ["run1"]
    assert driver.run("run1").error_group == GROUP_OF_ERRORS
    [group] = run_operation(driver.store.broker, read_error_groups(driver.partition, limit=5))
    assert (group.id, group.count, group.run, group.step, group.name) == (
        GROUP_OF_ERRORS,
        1,
        "run1",
        "charge",
        "ValueError",
    )


def test_errors_are_counted_and_the_oldest_groups_are_dropped(driver: Driver) -> None:
    for number in range(3):
        driver.finish(driver.started(f"run{number}"), RunStatus.FAILED)
        driver.advance(1_000)
    old = {f"{number:016x}": driver.now_ms - 10_000_000 + number for number in range(999)}
    driver.client.zadd(driver.keys("ERROR_GROUPS"), old)
    driver.client.zadd(driver.keys("ERROR_GROUPS"), {"f" * 16: driver.now_ms - 31 * 86_400_000})
    driver.finish(driver.started("run3"), RunStatus.FAILED)
    assert driver.client.zcard(driver.keys("ERROR_GROUPS")) == 1_000
    [group] = run_operation(driver.store.broker, read_error_groups(driver.partition, limit=1))
    assert (group.count, group.last_at - group.first_at) == (4, timedelta(seconds=3))
    more = FailedLike("e" * 16, "", "TypeError", "")
    assert more.group not in old


def test_runs_are_found_by_tags(driver: Driver) -> None:
    start(driver, "run1", tags=True, tenant=17, plan="pro")
    start(driver, "run2", tags=True, tenant=17)
    start(driver, "run3", "sell", tags=True, tenant="17", plan="pro")
    start(driver, "run4", tags=True, tenant=None, plan="")
    assert listed(driver, tags=(("tenant", "17"),)) == ["run3", "run2", "run1"]
    assert listed(driver, tags=(("tenant", "17"), ("plan", "pro"))) == ["run3", "run1"]
    assert listed(driver, tags=(("tenant", "17"),), functions=("shop/buy",)) == ["run2", "run1"]
    assert driver.run("run1").tags == {"tenant": "17", "plan": "pro"}
    assert driver.run("run4").tags == {}


@pytest.mark.parametrize(
    "value", ["a=b", "x 8 tag y=1", "tag tenant=18", "12 error 12", "\n\r", "é🦊", "'\"", "*", "{x}"]
)
def test_the_text_of_a_tag_is_only_a_text(driver: Driver, value: str) -> None:
    start(driver, "run1", tags=True, tenant=value)
    start(driver, "run2", tags=True, tenant=18)
    assert driver.run("run1").tags == {"tenant": value}
    assert listed(driver, tags=(("tenant", value),)) == ["run1"]
    assert listed(driver, tags=(("tenant", "18"),)) == ["run2"]
    driver.finish(driver.claim_one(), RunStatus.FAILED)
    assert listed(driver, tags=(("tenant", value),)) == ["run1"]
    assert forget(driver, "run1") == (1, 1)
    assert not driver.client.exists(driver.keys("INDEX", f"tag tenant={value}"))


def forget(driver: Driver, *runs: str) -> tuple[int, int]:
    driver.client.delete(*(driver.keys(kind, run) for run in runs for kind in ("RUN", "RQ_JOB")))
    driver.client.delete(driver.keys("RQ_FAILED", "shop"))
    driver.advance(RETENTION_MS)
    return driver.send(forget_runs(driver.partition, limit=100))


def test_skipped_runs_have_tags_and_are_forgotten(driver: Driver) -> None:
    flow = FlowConfig(rate_limit=RateConfig(1, RETENTION_MS))
    start(driver, "run1", tags=True, flow=flow, tenant=1)
    start(driver, "run2", tags=True, flow=flow, tenant=1)
    assert listed(driver, statuses=frozenset({RunStatus.SKIPPED})) == ["run2"]
    assert listed(driver, tags=(("tenant", "1"),)) == ["run2", "run1"]
    assert forget(driver, "run2") == (1, 1)
    assert listed(driver, tags=(("tenant", "1"),)) == ["run1"]


def test_the_members_of_a_batch_have_their_own_tags_and_the_group_of_its_error(driver: Driver) -> None:
    flow = FlowConfig(batch=BatchConfig(2, 1_000))
    start(driver, "run1", tags=True, flow=flow, tenant=1)
    start(driver, "run2", tags=True, flow=flow, tenant=2)
    batch = driver.claim_one()
    assert driver.run(batch.run_id).tags == {}
    assert listed(driver, tags=(("tenant", "2"),)) == ["run2"]
    driver.finish(batch, RunStatus.FAILED)
    driver.store.broker.execute(end_batch(driver.partition, batch.run_id, limit=10))
    failed = listed(driver, statuses=frozenset({RunStatus.FAILED}), error_group=GROUP_OF_ERRORS)
    assert set(failed) == {"run1", "run2", batch.run_id}
    assert driver.run("run2").tags == {"tenant": "2"}


def test_a_tag_takes_the_place_of_one_of_the_same_name(driver: Driver) -> None:
    start(driver, "run1", tags=True, tenant=1, plan="pro")
    lease = driver.claim_one()
    for plan in ("free", "free", "gone"):
        tags = {"plan": plan, "stage": "one"}
        call = tag_run(driver.partition, run_id="run1", fence=lease.fence, tags=tags)
        assert driver.send(call) is ScriptStatus.DONE
    assert driver.run("run1").tags == {"tenant": "1", "plan": "gone", "stage": "one"}
    assert listed(driver, tags=(("plan", "gone"),)) == ["run1"]
    assert listed(driver, tags=(("plan", "free"),)) == listed(driver, tags=(("plan", "pro"),)) == []
    driver.finish(lease)
    call = tag_run(driver.partition, run_id="run1", fence=lease.fence, tags={"late": "1"})
    assert driver.send(call) is ScriptStatus.NO_RUN


def test_a_worker_without_the_lease_cannot_tag(driver: Driver) -> None:
    lease = driver.started()
    call = tag_run(driver.partition, run_id="run1", fence=lease.fence - 1, tags={"late": "1"})
    assert driver.send(call) is ScriptStatus.STALE_FENCE
    assert driver.run().tags == {}


def test_a_child_is_forgotten_after_its_parent_knows_of_its_end(driver: Driver) -> None:
    driver.invoke(driver.started(), timeout_ms=10 * RETENTION_MS)
    driver.finish(driver.claim_one())
    driver.advance(2 * RETENTION_MS)
    assert driver.send(forget_runs(driver.partition, limit=10)) == (1, 0)
    assert listed(driver, statuses=ENDED) == ["child1"]
    driver.wake()
    assert forget(driver, "child1") == (1, 1)
    assert listed(driver) == ["run1"]


def test_many_runs_are_forgotten_in_parts(driver: Driver) -> None:
    for number in range(5):
        driver.finish(driver.started(f"run{number}"))
    driver.client.delete(*(driver.keys("RUN", f"run{number}") for number in range(5)))
    driver.advance(RETENTION_MS)
    parts = [driver.store.broker.execute(forget_runs(driver.partition, limit=2)) for _ in range(4)]
    assert parts == [(2, 2), (2, 2), (1, 1), (0, 0)]
    assert not driver.client.exists(driver.keys("RUN_FUNCTIONS"), driver.keys("EXPIRY"))


def test_a_page_of_the_read_operation_continues_where_it_ended(driver: Driver) -> None:
    for number in range(7):
        start(driver, f"{number:04d}")
        driver.advance(1)
    found, cursor = [], ""
    while True:
        page = run_operation(driver.store.broker, find_page(driver.partition, ALL, cursor=cursor, limit=3))
        found.append([run.id for run in page.runs])
        cursor = page.next_cursor
        if not cursor:
            break
    assert found == [["0006", "0005", "0004"], ["0003", "0002", "0001"], ["0000"]]


def test_the_doctor_adds_the_runs_of_older_versions_to_the_indexes(driver: Driver) -> None:
    start(driver, "run1", tags=True, tenant=1)
    driver.finish(driver.claim_one(), RunStatus.FAILED)
    driver.finish(driver.started("run2"))
    driver.start("run3")
    wanted = ({}, {"statuses": ENDED}, {"statuses": frozenset({RunStatus.FAILED})}, {"tags": (("tenant", "1"),)})
    before = [listed(driver, **one) for one in wanted]
    for key in driver.client.keys("*index:*"):
        driver.client.delete(key)
    driver.client.delete(driver.keys("EXPIRY"), driver.keys("RUN_FUNCTIONS"))
    found = examine(driver.store.broker, driver.partition)
    missing = {finding.where for finding in found if finding.code == "missing"}
    assert missing == {"index", "run_functions", "expiry"}
    examine(driver.store.broker, driver.partition, repair=True)
    driver.check()
    assert [listed(driver, **one) for one in wanted] == before
