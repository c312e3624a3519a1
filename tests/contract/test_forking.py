"""fork_run: a new run with memos of another, once and completely."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.flow_control import FlowConfig, SingletonConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.transitions.runs.run_starts import start_runs
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, Driver, memo

A, B, C = (step_key(name) for name in "abc")
EVENT = dumps({"name": "e", "id": "run1", "ts": 1, "data": {}})


def ended(driver: Driver, status: RunStatus = RunStatus.FAILED) -> None:
    """A run that has ended after three steps."""
    lease = driver.started()
    for number, name in enumerate("abc"):
        driver.commit(lease, name, text=memo(number))
    driver.finish(lease, status)


def fork(driver: Driver, run: str = "run2", **more: object) -> ScriptStatus:
    config = FunctionConfig("shop", "buy", "shop", retention_ms=RETENTION_MS)
    start = ForkStart(run, "run1", EVENT, **more)  # type: ignore[arg-type]
    return driver.send(fork_run(driver.partition, config, start))


def memos(driver: Driver, run: str = "run2") -> list[tuple[str, bytes]]:
    return driver.send(read_memos(driver.partition, run))


def test_a_fork_has_the_memos_that_were_named_in_their_order(driver: Driver) -> None:
    ended(driver)
    assert fork(driver, memos=[(C, b""), (A, memo("other"))]) is ScriptStatus.DONE
    assert memos(driver) == [(C, memo(2)), (A, memo("other"))]
    lease = driver.claim_one()
    assert (lease.run_id, lease.applied, lease.event) == ("run2", 2, None), "the worker loads the memos"
    assert driver.commit(lease, "b")[0] is ScriptStatus.DONE
    assert driver.finish(lease, RunStatus.COMPLETED) is ScriptStatus.DONE
    assert memos(driver, "run1") == [(A, memo(0)), (B, memo(1)), (C, memo(2))]


def test_a_fork_without_memos_is_loaded_too_for_the_run_whose_keys_it_uses(driver: Driver) -> None:
    ended(driver)
    fork(driver, keys_of="run0", forked_at="a", forked_by="me: why")
    assert driver.claim_one().event is None
    record = driver.send(read_run(driver.partition, "run2"))
    assert record is not None
    assert (record.forked_from, record.forked_at, record.forked_by, record.keys_of) == ("run1", "a", "me: why", "run0")


def test_a_source_names_its_latest_forks(driver: Driver) -> None:
    ended(driver)
    for number in range(25):
        fork(driver, f"fork{number}")
    record = driver.send(read_run(driver.partition, "run1"))
    assert record is not None
    assert record.forks == tuple(f"fork{number}" for number in range(24, 4, -1))


def test_a_source_that_the_fork_cancels_and_that_is_not_kept_leaves_nothing(driver: Driver) -> None:
    single = FlowConfig(singleton=SingletonConfig("cancel"))
    config = FunctionConfig("shop", "buy", "shop", flow=single, retention_ms=0)
    driver.send(start_runs(driver.partition, config, [("run1", EVENT)]))
    lease = driver.claim_one()
    driver.commit(lease, "a")
    assert driver.send(fork_run(driver.partition, config, ForkStart("run2", "run1", EVENT, memos=[(A, b"")])))
    assert driver.client.keys("*run1") == []
    assert memos(driver) == [(A, memo())]


def test_a_fork_is_created_once(driver: Driver) -> None:
    ended(driver)
    assert fork(driver, memos=[(A, b"")]) is ScriptStatus.DONE
    before = driver.snapshot()
    assert fork(driver, memos=[(B, b"")]) is ScriptStatus.ALREADY
    assert driver.snapshot() == before


def test_a_source_or_a_memo_that_has_been_forgotten_is_refused_before_anything_is_written(driver: Driver) -> None:
    before = driver.snapshot()
    assert fork(driver) is ScriptStatus.NO_RUN
    assert driver.snapshot() == before
    ended(driver)
    before = driver.snapshot()
    assert fork(driver, memos=[(A, b""), (step_key("gone"), b"")]) is ScriptStatus.NO_RUN
    assert driver.snapshot() == before


def test_a_fork_is_executed_on_the_present_queue_with_another_event(driver: Driver) -> None:
    ended(driver)
    other = dumps({"name": "e", "id": "run1", "ts": 1, "data": {"n": 2}})
    config = FunctionConfig("shop", "buy", "new", retention_ms=RETENTION_MS)
    start = ForkStart("run2", "run1", other, replaces_event=True)
    driver.send(fork_run(driver.partition, config, start))
    assert driver.queued("new") == ["run2"]
    record = driver.send(read_run(driver.partition, "run2"))
    assert record is not None
    assert record.event["data"] == {"n": 2}


def test_a_copied_memo_gets_what_the_caller_adds(driver: Driver) -> None:
    ended(driver)
    fork(driver, memos=[(A, b',"version":"1.4"'), (B, b"")])
    (_, first), (_, second) = memos(driver)
    assert first == memo(0)[:-1] + b',"version":"1.4"}'
    assert second == memo(1)
    before = driver.snapshot()
    assert fork(driver, "run3", memos=[(step_key("gone"), b',"version":"1.4"')]) is ScriptStatus.NO_RUN
    assert driver.snapshot() == before


def test_a_source_is_kept_for_as_long_as_a_run_that_ends_with_its_fork(driver: Driver) -> None:
    ended(driver)
    for name in ("RUN", "MEMOS", "MEMO_ORDER"):
        driver.client.pexpire(driver.keys(name, "run1"), RETENTION_MS // 2)
    fork(driver)
    for name in ("RUN", "MEMOS", "MEMO_ORDER"):
        assert RETENTION_MS // 2 < driver.client.pttl(driver.keys(name, "run1")) <= RETENTION_MS
    driver.client.pexpire(driver.keys("RUN", "run1"), 2 * RETENTION_MS)
    fork(driver, "run3")
    assert driver.client.pttl(driver.keys("RUN", "run1")) > RETENTION_MS, "it is never kept for a shorter time"


def test_a_source_that_lives_gets_no_expiry(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "a")
    assert fork(driver, memos=[(A, b"")]) is ScriptStatus.DONE
    assert driver.client.pttl(driver.keys("RUN", "run1")) == -1
    assert driver.finish(lease, RunStatus.COMPLETED) is ScriptStatus.DONE


def test_a_fork_that_must_be_the_first_is_refused_if_there_is_another(driver: Driver) -> None:
    ended(driver)
    assert fork(driver, only_first=True) is ScriptStatus.DONE
    before = driver.snapshot()
    assert fork(driver, only_first=True) is ScriptStatus.ALREADY
    assert fork(driver, "run3", only_first=True) is ScriptStatus.FORKED
    assert driver.snapshot() == before
    assert fork(driver, "run3") is ScriptStatus.DONE
