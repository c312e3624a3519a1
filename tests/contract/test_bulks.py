"""Bulks: selected once, started once, held by one worker at a time, each run taken at the rate and settled once."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.runs.bulks import (
    BulkRecord,
    BulkStart,
    Outcome,
    TakenRuns,
    add_bulk_runs,
    read_bulk,
    read_bulk_ids,
    read_live_bulks,
    settle_bulk_runs,
    start_bulk,
    stop_bulk,
    take_bulk_runs,
)
from stepflow_engine.codec import dumps
from tests.support.driver import Driver

HOLD_MS = 5_000
DAY_MS = 86_400_000


def selected(driver: Driver, count: int) -> None:
    """Runs of a bulk, in the order in which they were found: the newest first."""
    driver.send(add_bulk_runs(driver.partition, "b1", 0, [f"run{number}" for number in range(count, 0, -1)]))


def start(driver: Driver, count: int, per_second: float = 10.0) -> ScriptStatus:
    request = BulkStart("b1", count, "shop/buy", dumps({"failed": True}), per_second, "me", "why", b'{"runs": 1}')
    return driver.send(start_bulk(driver.partition, request))


def started(driver: Driver, count: int, per_second: float = 10.0) -> None:
    selected(driver, count)
    assert start(driver, count, per_second) is ScriptStatus.DONE


def take(driver: Driver, worker: str = "w1") -> TakenRuns:
    return driver.send(take_bulk_runs(driver.partition, "b1", worker=worker, hold_ms=HOLD_MS))


def settle(
    driver: Driver, taken: TakenRuns, *outcomes: Outcome, worker: str = "w1", hold_ms: int = HOLD_MS
) -> ScriptStatus:
    found = outcomes or [Outcome("done")] * len(taken.runs)
    call = settle_bulk_runs(driver.partition, "b1", found, worker=worker, hold_ms=hold_ms, settled=taken.settled)
    return driver.send(call)


def record(driver: Driver) -> BulkRecord:
    found = driver.send(read_bulk(driver.partition, "b1"))
    assert found is not None
    return found


def live(driver: Driver) -> list[str]:
    return driver.send(read_live_bulks(driver.partition))


def test_a_page_of_selected_runs_is_added_once_and_expires_if_the_bulk_never_starts(driver: Driver) -> None:
    selected(driver, 3)
    selected(driver, 3)
    key = driver.keys("BULK_RUNS", "b1")
    assert driver.client.lrange(key, 0, -1) == ["run3", "run2", "run1"]
    assert driver.client.pttl(key) > 0
    assert driver.send(add_bulk_runs(driver.partition, "b1", 3, ["run0"]))
    assert driver.client.llen(key) == 4


def test_a_bulk_starts_once_and_is_kept_while_it_lives(driver: Driver) -> None:
    started(driver, 2)
    before = driver.snapshot()
    assert start(driver, 2) is ScriptStatus.ALREADY
    assert driver.snapshot() == before
    assert live(driver) == ["b1"]
    assert driver.client.pttl(driver.keys("BULK_RUNS", "b1")) == -1
    assert driver.client.pttl(driver.keys("BULK", "b1")) == -1
    ((_, entry),) = driver.client.xrange(driver.keys("AUDIT"))
    assert (entry["who"], entry["action"], entry["subject"]) == ("me", "fork_many", "function shop/buy")


def test_a_bulk_whose_selected_runs_are_lost_does_not_start(driver: Driver) -> None:
    selected(driver, 2)
    driver.client.delete(driver.keys("BULK_RUNS", "b1"))
    before = driver.snapshot()
    assert start(driver, 2) is ScriptStatus.NO_RUN
    assert driver.snapshot() == before


def test_a_bulk_without_runs_has_ended_when_it_starts(driver: Driver) -> None:
    assert start(driver, 0) is ScriptStatus.DONE
    assert (record(driver).state, live(driver)) == ("completed", [])


def test_runs_are_taken_at_the_rate_the_oldest_first_and_again_until_they_are_settled(driver: Driver) -> None:
    started(driver, 10)
    first = take(driver)
    assert (first.status, first.runs, first.settled, first.is_first) == (ScriptStatus.DONE, ("run1",), 0, True)
    before = driver.snapshot()
    assert take(driver).runs == ("run1",)
    assert driver.snapshot() == before
    assert settle(driver, first) is ScriptStatus.DONE
    assert take(driver).runs == (), "the rate allows one in 100 ms"
    driver.advance(210)
    assert take(driver).runs == ("run2", "run3")


def taken_within(driver: Driver, seconds: float, worker: str = "w1") -> int:
    """How many runs a worker takes in some time, of a bulk that it may take runs of now."""
    count = 0
    for _ in range(round(seconds * 5)):
        driver.advance(200)
        count += len((taken := take(driver, worker)).runs)
        settle(driver, taken, worker=worker)
    return count


def test_the_rate_is_kept_and_time_without_takes_is_made_up_for_at_one_and_a_half_times_the_rate(
    driver: Driver,
) -> None:
    started(driver, 1_000)
    settle(driver, take(driver))
    assert taken_within(driver, 2) == 20
    driver.advance(4_000)
    assert taken_within(driver, 4) == pytest.approx(60, abs=4)
    assert taken_within(driver, 4) == pytest.approx(60, abs=4)
    assert taken_within(driver, 4) == pytest.approx(40, abs=1)


def test_no_more_than_five_seconds_are_made_up_for(driver: Driver) -> None:
    started(driver, 1_000)
    settle(driver, take(driver))
    driver.advance(60_000)
    assert taken_within(driver, 20) == pytest.approx(250, abs=2)


def test_a_worker_may_take_fewer_or_only_hold_the_bulk(driver: Driver) -> None:
    started(driver, 50, per_second=100)
    held = driver.send(take_bulk_runs(driver.partition, "b1", worker="w1", hold_ms=HOLD_MS, most=0))
    assert (held.status, held.runs) == (ScriptStatus.DONE, ())
    assert take(driver, "w2").status is ScriptStatus.ALREADY
    driver.advance(100)
    taken = driver.send(take_bulk_runs(driver.partition, "b1", worker="w1", hold_ms=HOLD_MS, most=2))
    assert len(taken.runs) == 2
    assert settle(driver, taken) is ScriptStatus.DONE
    assert len(take(driver).runs) == 9, "the rest of what the rate allows"


def test_another_worker_takes_a_bulk_over_with_what_was_taken_and_makes_up_for_the_time_between(
    driver: Driver,
) -> None:
    started(driver, 500)
    taken = take(driver)
    other = take(driver, "w2")
    assert (other.status, other.runs) == (ScriptStatus.ALREADY, ())
    assert 0 < other.wait_ms <= HOLD_MS
    driver.advance(HOLD_MS + 1)
    other = take(driver, "w2")
    assert (other.status, other.runs, other.is_first) == (ScriptStatus.DONE, taken.runs, False)
    assert settle(driver, taken) is ScriptStatus.ALREADY, "the worker that was thought dead"
    assert settle(driver, other, worker="w2") is ScriptStatus.DONE
    assert record(driver).done == 1
    assert taken_within(driver, 10, "w2") == pytest.approx(150, abs=2), "5 s of the time between, and 10 s"


def test_a_worker_that_leaves_lets_another_begin_at_once(driver: Driver) -> None:
    started(driver, 50)
    settle(driver, take(driver))
    driver.advance(1_000)
    taken = take(driver)
    assert settle(driver, taken, hold_ms=0) is ScriptStatus.DONE
    other = take(driver, "w2")
    assert other.status is ScriptStatus.DONE
    assert other.runs == ()


def test_runs_are_settled_once_with_counted_reasons(driver: Driver) -> None:
    started(driver, 50, per_second=1_000)
    settle(driver, take(driver))
    driver.advance(2)
    taken = take(driver)
    assert len(taken.runs) == 2
    refused = [Outcome("refused", "no step", run) for run in taken.runs]
    assert settle(driver, taken, *refused) is ScriptStatus.DONE
    before = driver.snapshot()
    assert settle(driver, taken, *refused) is ScriptStatus.ALREADY
    assert driver.snapshot() == before
    found = record(driver)
    assert (found.done, found.skipped, found.refused) == (1, 0, 2)
    assert found.reasons == {("refused", "no step"): (2, "run2")}


def test_reasons_are_bounded(driver: Driver) -> None:
    started(driver, 200, per_second=1_000)
    total = 0
    while (taken := take(driver)).status is ScriptStatus.DONE and total < 60:
        outcomes = [Outcome("refused", f"reason {run}", run) for run in taken.runs]
        settle(driver, taken, *outcomes)
        total += len(outcomes)
        driver.advance(5)
    found = record(driver)
    assert len(found.reasons) == 21
    assert sum(count for count, _ in found.reasons.values()) == found.refused == total
    assert found.reasons["refused", "other reasons"][0] == total - 20


def test_the_last_runs_end_the_bulk_which_is_forgotten_later(driver: Driver) -> None:
    started(driver, 1)
    assert settle(driver, take(driver)) is ScriptStatus.MORE
    found = record(driver)
    assert (found.state, found.done, found.ended_at) == ("completed", 1, driver.now_ms)
    assert live(driver) == []
    assert driver.send(read_bulk_ids(driver.partition)) == ["b1"]
    assert 6 * DAY_MS < driver.client.pttl(driver.keys("BULK", "b1")) <= 7 * DAY_MS
    assert not driver.client.exists(driver.keys("BULK_RUNS", "b1"))
    assert take(driver).status is ScriptStatus.NO_RUN
    driver.advance(7 * DAY_MS)
    driver.send(start_bulk(driver.partition, BulkStart("b2", 0, "shop/buy", b"{}", 1.0, "me")))
    assert driver.send(read_bulk_ids(driver.partition)) == ["b2"]


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_stopped_bulk_settles_what_was_taken_and_leaves_the_rest_alone(driver: Driver, is_taken: bool) -> None:
    started(driver, 5)
    taken = take(driver)
    if not is_taken:
        settle(driver, taken)
    stop = stop_bulk(driver.partition, "b1", who="ann", reason="enough")
    assert driver.send(stop) is ScriptStatus.DONE
    assert driver.send(stop) is ScriptStatus.ALREADY
    assert record(driver).state == ("stopping" if is_taken else "stopped")
    driver.advance(HOLD_MS + 1)
    if is_taken:
        again = take(driver, "w2")
        assert again.runs == taken.runs
        assert settle(driver, again, worker="w2") is ScriptStatus.MORE
    found = record(driver)
    assert (found.state, found.done, found.stopped_by) == ("stopped", 1, "ann")
    assert live(driver) == []
    assert [entry["action"] for _, entry in driver.client.xrange(driver.keys("AUDIT"))] == ["fork_many", "stop_bulk"]


def test_a_bulk_that_does_not_exist_cannot_be_stopped_or_taken(driver: Driver) -> None:
    assert driver.send(stop_bulk(driver.partition, "b1", who="ann")) is ScriptStatus.NO_RUN
    assert take(driver).status is ScriptStatus.NO_RUN
    assert driver.send(read_bulk(driver.partition, "b1")) is None


def test_a_clock_that_was_ahead_does_not_delay_a_bulk(driver: Driver) -> None:
    driver.advance(DAY_MS)
    started(driver, 5)
    settle(driver, take(driver))
    driver.advance(-DAY_MS)
    assert take(driver, "w2").status is ScriptStatus.DONE
    driver.advance(100)
    assert len(take(driver, "w2").runs) == 1
