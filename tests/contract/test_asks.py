"""begin_ask, answer_ask: one answer counts."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.audit import read_audit_page
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.asks import AnswerStart, answer_ask, begin_ask
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_broker.transitions.steps.waits import WaitStart
from stepflow_broker.views.asks import AskView, find_asks
from stepflow_engine.codec import dumps, loads
from stepflow_engine.ids import step_key
from tests.support.driver import RETENTION_MS, START_MS, Driver

HOUR_MS = 3_600_000


def detail_of(step_id: str = "approve", to: str = "ops", schema: object = True) -> bytes:
    return dumps({"id": step_id, "kind": "ask", "to": to, "schema": schema})[1:]


def ask(
    driver: Driver, lease: Lease, step_id: str = "approve", *, repeat: int = 0, to: str = "ops", delay_ms: int = HOUR_MS
) -> ScriptStatus:
    start = WaitStart(step_key(step_id, repeat), step_id, detail_of(step_id, to), delay_ms)
    return driver.send(begin_ask(driver.partition, start, run_id=lease.run_id, fence=lease.fence))


def answer(
    driver: Driver, data: object = 1, *, id: str = "a1", by: str = "ada", run: str = "run1", **more: Any
) -> ScriptStatus:
    known = {"key": step_key("approve"), "detail": detail_of(), **more}
    start = AnswerStart(data=dumps(data), answer_id=id, by=by, who="shop", details=b'{"step":"approve"}', **known)
    return driver.send(answer_ask(driver.partition, start, run_id=run))


def asks(driver: Driver, **filters: object) -> list[AskView]:
    return run_operation(driver.store.broker, find_asks(driver.partition, limit=10, **filters))


@pytest.mark.parametrize("twice", [False, True])
def test_an_answer_ends_the_wait_and_wakes_the_run_with_who_and_when(driver: Driver, twice: bool) -> None:
    lease = driver.started()
    driver.twice = twice
    assert ask(driver, lease) is ScriptStatus.DONE
    driver.park(lease)
    driver.now_ms += 5
    assert answer(driver, {"ok": True}) is ScriptStatus.DONE
    assert driver.queued("shop:steps") == ["run1"]
    ((_, text),) = driver.memos()
    memo = loads(text)
    assert (memo["data"], memo["outcome"], memo["answered_by"]) == ({"ok": True}, "answered", "ada")
    assert (memo["ended_at"], memo["to"], memo["schema"]) == (START_MS + 5, "ops", True)
    (entry,) = driver.store.broker.execute(read_audit_page(driver.partition, before="", limit=10))
    assert (entry.who, entry.action, entry.subject, entry.details) == ("shop", "answer", "run1", {"step": "approve"})


def test_the_second_answer_changes_nothing(driver: Driver) -> None:
    lease = driver.started()
    ask(driver, lease)
    assert answer(driver, 1, id="a1") is ScriptStatus.DONE
    before = driver.snapshot()
    assert answer(driver, 2, id="a2", by="bob") is ScriptStatus.ALREADY
    assert answer(driver, 1, id="a2") is ScriptStatus.ALREADY
    assert answer(driver, 1, id="a1") is ScriptStatus.DONE  # the first, sent again
    assert driver.snapshot() == before


def test_an_answer_to_another_question_than_was_checked_is_refused(driver: Driver) -> None:
    lease = driver.started()
    ask(driver, lease)
    before = driver.snapshot()
    assert answer(driver, detail=detail_of(schema={"type": "string"})) is ScriptStatus.ALREADY
    assert answer(driver, key=step_key("other")) is ScriptStatus.ALREADY
    assert answer(driver, run="nobody") is ScriptStatus.NO_RUN
    assert driver.snapshot() == before


def test_the_time_or_the_answer_ends_an_ask_whichever_is_first(driver: Driver) -> None:
    lease = driver.started()
    ask(driver, lease, delay_ms=1_000)
    driver.now_ms += 1_000
    assert driver.fire()[0] == 1
    assert answer(driver) is ScriptStatus.ALREADY
    assert loads(driver.memos()[0][1])["outcome"] == "time"
    assert asks(driver) == []
    ask(driver, lease, repeat=1, delay_ms=1_000)
    assert answer(driver, key=step_key("approve", 1)) is ScriptStatus.DONE
    driver.now_ms += 1_000
    assert driver.fire()[0] == 0


def test_open_asks_are_listed_the_oldest_first_and_those_of_ended_runs_are_not(driver: Driver) -> None:
    first, second = driver.started("run1"), driver.started("run2")
    ask(driver, second, "pay", to="bank")
    driver.now_ms += 5
    ask(driver, first)
    ask(driver, first, repeat=1)
    listed = asks(driver)
    assert [(one.run_id, one.step, one.to, one.since) for one in listed] == [
        ("run2", "pay", "bank", START_MS),
        ("run1", "approve", "ops", START_MS + 5),
        ("run1", "approve#2", "ops", START_MS + 5),
    ]
    assert (listed[0].function, listed[0].until, listed[0].schema) == ("shop/buy", START_MS + HOUR_MS, True)
    assert [one.step for one in asks(driver, to="bank")] == ["pay"]
    assert asks(driver, functions=["shop/other"]) == asks(driver, app="other") == []
    driver.cancel("run1")
    assert [one.step for one in asks(driver)] == ["pay"]
    driver.finish(second)
    assert asks(driver) == []
    assert not driver.client.exists(driver.keys("ASKS"))


def test_an_ask_that_the_code_has_cancelled_takes_no_answer(driver: Driver) -> None:
    lease = driver.started()
    ask(driver, lease)
    key = step_key("approve")
    driver.send(cancel_steps(driver.partition, run_id="run1", fence=lease.fence, keys=[key], retention_ms=RETENTION_MS))
    assert asks(driver) == []
    assert answer(driver) is ScriptStatus.ALREADY
    assert ask(driver, lease) is ScriptStatus.DONE
    assert ask(driver, lease) is ScriptStatus.ALREADY
    assert answer(driver) is ScriptStatus.DONE


def test_a_stale_worker_asks_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.yield_run(lease)
    driver.claim_one()
    assert ask(driver, lease) is ScriptStatus.STALE_FENCE
    driver.cancel()
    assert ask(driver, lease) is ScriptStatus.NO_RUN
