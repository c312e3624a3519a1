"""Runs with options of their own: queue, priority, retention and deadlines."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.transitions.runs.run_starts import start_run, start_runs_later
from stepflow_engine.codec import dumps
from stepflow_engine.run_overrides import RunOverrides
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import RETENTION_MS, Driver

PLAIN = FunctionConfig("shop", "buy", "shop", retention_ms=RETENTION_MS)
LONG_MS = 9 * RETENTION_MS


def text(run: str) -> bytes:
    return dumps({"name": "e", "id": run, "ts": 1, "data": {}})


def start(driver: Driver, run: str, options: RunOverrides | None = None, *, delay_ms: int = 0) -> None:
    config = PLAIN.with_options(options)
    if delay_ms:
        runs = [(run, text(run))]
        driver.send(start_runs_later(driver.partition, config, runs, due_ms=0, delay_ms=delay_ms, dedupe_ms=0))
    else:
        call = start_run(driver.partition, config, run_id=run, event=text(run), dedupe=False)
        assert driver.send(call) is ScriptStatus.DONE
    driver.advance(1)


def claimed(driver: Driver, *queues: str) -> list[str]:
    return [lease.job for lease in driver.claim(queues=queues) or ()]


@pytest.mark.parametrize("delay_ms", [0, 5_000])
def test_a_run_is_executed_on_the_queue_of_its_start_and_continues_there(driver: Driver, delay_ms: int) -> None:
    start(driver, "run1", RunOverrides(queue="gpu"), delay_ms=delay_ms)
    driver.advance(delay_ms)
    driver.fire()
    assert claimed(driver, "shop") == []
    [lease] = driver.claim(queues=("gpu",)) or []
    driver.commit(lease, "a", keep=False)
    assert claimed(driver, "shop") == []
    assert claimed(driver, "gpu") == ["run1"]


def test_the_priority_of_a_start_counts_among_runs_without_one(driver: Driver) -> None:
    start(driver, "usual")
    start(driver, "urgent", RunOverrides(priority_ms=5_000))
    start(driver, "late", RunOverrides(priority_ms=-5_000))
    assert claimed(driver, "shop") == ["urgent", "usual", "late"]


@pytest.mark.parametrize("ends_as", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
@pytest.mark.parametrize("retention_ms", [LONG_MS, 1_000])
def test_an_ended_run_is_kept_for_the_retention_of_its_start(
    driver: Driver, ends_as: RunStatus, retention_ms: int
) -> None:
    start(driver, "run1", RunOverrides(retention_ms=retention_ms))
    lease = driver.claim_one()
    if ends_as is RunStatus.CANCELLED:
        driver.cancel("run1")
    else:
        driver.finish(lease, ends_as)
    assert retention_ms - 1_000 <= driver.client.pttl(driver.partition.run_key("RUN", "run1")) <= retention_ms


def test_a_run_that_misses_the_deadlines_of_its_start_is_cancelled(driver: Driver) -> None:
    start(driver, "unclaimed", RunOverrides(start_ms=1_000, queue="gpu"))
    start(driver, "slow", RunOverrides(finish_ms=1_000))
    driver.claim(queues=("shop",))
    driver.advance(1_001)
    driver.fire()
    for run in ("unclaimed", "slow"):
        record = driver.store.broker.execute(read_run(driver.partition, run))
        assert record is not None
        assert record.status is RunStatus.CANCELLED
