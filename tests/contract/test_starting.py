"""start_run, load_run: a run is created once, and read as it is."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import DEDUPE_MS
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, START_MS, Driver, memo


def test_a_started_run_is_queued_on_the_list_of_new_runs(driver: Driver) -> None:
    assert driver.start() is ScriptStatus.DONE
    run = driver.run()
    assert (run.status, run.continuation, run.attempt) == (RunStatus.QUEUED, "queued", 0)
    assert (run.name, run.queue, run.created_at) == ("shop/buy", "shop", START_MS)
    assert run.event == {"name": "e", "id": "run1", "ts": 1, "data": {}}
    assert driver.queued("shop") == ["run1"]


def test_a_run_that_is_started_twice_is_started_once(driver: Driver) -> None:
    driver.start()
    before = driver.snapshot()
    assert driver.start() is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_run_that_has_ended_is_not_started_again(driver: Driver) -> None:
    driver.finish(driver.started())
    assert driver.start() is ScriptStatus.ALREADY
    assert driver.run().status is RunStatus.COMPLETED


def test_a_run_with_an_id_of_the_senders_is_kept_for_a_day_at_least(driver: Driver) -> None:
    driver.start(dedupe=True)
    lease = driver.claim_one()
    driver.advance(3_600_000)
    driver.finish(lease, retention_ms=1_000)
    kept_ms = driver.client.pttl(driver.keys("RUN", "run1"))
    assert DEDUPE_MS - 3_600_000 - 60_000 < kept_ms <= DEDUPE_MS - 3_600_000


def test_a_run_without_such_an_id_is_kept_for_its_retention(driver: Driver) -> None:
    driver.finish(driver.started())
    assert 0 < driver.client.pttl(driver.keys("RUN", "run1")) <= RETENTION_MS


def test_idle_workers_are_told_of_the_first_job_on_an_empty_list_only(driver: Driver) -> None:
    heard = driver.listen("READY")
    driver.start("run1")
    driver.start("run2")
    assert heard() == ["shop"]


def test_a_run_is_loaded_with_its_memos_in_the_order_of_their_recording(driver: Driver) -> None:
    lease = driver.started()
    for step_id in ("z", "a", "m"):
        driver.commit(lease, step_id, text=memo(step_id))
    record, memos = driver.load()
    assert record == driver.run()
    assert memos == [(step_key(step_id), memo(step_id)) for step_id in ("z", "a", "m")]
    assert driver.memos() == memos


def test_a_run_is_loaded_from_a_position_on(driver: Driver) -> None:
    lease = driver.started()
    for step_id in ("z", "a", "m"):
        driver.commit(lease, step_id)
    assert [key for key, _ in driver.load(applied=2)[1]] == [step_key("m")]
    assert driver.load(applied=3)[1] == []


def test_thousands_of_memos_are_loaded_in_order(driver: Driver) -> None:
    driver.start()
    keys = [step_key(str(n)) for n in range(2_500)]
    driver.client.rpush(driver.keys("MEMO_ORDER", "run1"), *keys)
    driver.client.hset(driver.keys("MEMOS", "run1"), mapping={key: memo(n) for n, key in enumerate(keys)})
    assert driver.memos() == [(key, memo(n)) for n, key in enumerate(keys)]


def test_a_run_that_does_not_exist_is_loaded_as_none(driver: Driver) -> None:
    assert driver.load("nobody") == (None, [])


def test_a_run_that_does_not_exist_cannot_be_cancelled(driver: Driver) -> None:
    assert driver.cancel("nobody") is ScriptStatus.NO_RUN
    assert driver.snapshot() == {}
