"""send_signal, begin_signal_wait: a signal is received once, in order, and none is lost."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.steps.cancelled_steps import cancel_steps
from stepflow_broker.transitions.steps.signals import begin_signal_wait, read_signals, send_signal
from stepflow_broker.transitions.steps.waits import WaitStart
from stepflow_engine.codec import dumps, loads
from stepflow_engine.ids import step_key
from tests.contract.test_forking import fork
from tests.support.driver import RETENTION_MS, START_MS, Driver

HOUR_MS = 3_600_000
MAX_SIGNALS, MAX_SIGNAL_BYTES = 1_000, 4 * 1024 * 1024


def send(driver: Driver, name: str, data: object = None, *, id: str, run: str = "run1") -> tuple[ScriptStatus, str]:
    return driver.send(send_signal(driver.partition, run_id=run, name=name, signal_id=id, data=dumps(data)))


def wait(driver: Driver, lease: Lease, name: str, step_id: str = "w", *, delay_ms: int = HOUR_MS) -> ScriptStatus:
    detail = dumps({"id": step_id, "kind": "signal", "signal": name})[1:]
    start = WaitStart(step_key(step_id), step_id, detail, delay_ms)
    return driver.send(begin_signal_wait(driver.partition, start, name, run_id=lease.run_id, fence=lease.fence))[0]


def received(driver: Driver, run: str = "run1") -> list[tuple[str, Any]]:
    """The step and the data of each wait that has ended; ``None`` for one that has timed out."""
    memos = [loads(text) for _, text in driver.memos(run)]
    return [(memo["id"], memo["data"] and memo["data"]["data"]) for memo in memos]


def kept(driver: Driver, run: str = "run1") -> list[tuple[str, Any]]:
    return [(one.name, one.data) for one in driver.store.broker.execute(read_signals(driver.partition, run))]


@pytest.mark.parametrize("twice", [False, True])
def test_a_signal_ends_the_wait_that_has_begun_and_wakes_its_run(driver: Driver, twice: bool) -> None:
    lease = driver.started()
    driver.twice = twice
    assert wait(driver, lease, "pause") is ScriptStatus.DONE
    driver.park(lease)
    assert send(driver, "other", 1, id="s1") == (ScriptStatus.DONE, "")
    assert driver.queued("shop:steps") == []
    driver.now_ms += 5
    assert send(driver, "pause", {"by": "ada"}, id="s2") == (ScriptStatus.DONE, "")
    assert driver.queued("shop:steps") == ["run1"]
    ((_, text),) = driver.memos()
    memo = loads(text)
    assert memo["data"] == {"at": START_MS + 5, "id": "s2", "name": "pause", "data": {"by": "ada"}}
    assert (memo["outcome"], memo["ended_at"], memo["id"]) == ("came", START_MS + 5, "w")
    assert kept(driver) == [("other", 1)]


@pytest.mark.parametrize("twice", [False, True])
def test_signals_that_come_early_are_received_in_order_one_by_each_wait(driver: Driver, twice: bool) -> None:
    driver.start()
    driver.twice = twice
    for n in range(3):
        send(driver, "go", n, id=f"s{n}")
        send(driver, "stop", -n, id=f"t{n}")
    lease = driver.claim_one()
    assert [wait(driver, lease, "go", f"w{n}") for n in range(4)] == [*[ScriptStatus.RESOLVED] * 3, ScriptStatus.DONE]
    assert received(driver) == [("w0", 0), ("w1", 1), ("w2", 2)]
    assert kept(driver) == [("stop", 0), ("stop", -1), ("stop", -2)]
    send(driver, "go", 3, id="s3")
    assert received(driver)[-1] == ("w3", 3)


def test_of_several_waits_for_a_name_the_first_gets_the_first_signal(driver: Driver) -> None:
    lease = driver.started()
    for step_id in ("b", "a", "c"):
        wait(driver, lease, "go", step_id)
    for n in range(2):
        send(driver, "go", n, id=f"s{n}")
    assert received(driver) == [("b", 0), ("a", 1)]


def test_an_id_counts_once_whatever_has_become_of_the_first(driver: Driver) -> None:
    lease = driver.started()
    assert send(driver, "go", 1, id="same") == (ScriptStatus.DONE, "")
    assert send(driver, "go", 2, id="same") == (ScriptStatus.ALREADY, "")
    wait(driver, lease, "go")
    assert send(driver, "go", 3, id="same") == (ScriptStatus.ALREADY, "")
    driver.finish(lease)
    assert send(driver, "go", 4, id="same") == (ScriptStatus.ALREADY, "")
    assert received(driver) == [("w", 1)]
    assert kept(driver) == []


def test_an_ended_or_unknown_run_is_sent_no_signal(driver: Driver) -> None:
    lease = driver.started()
    driver.finish(lease)
    before = driver.snapshot()
    assert send(driver, "go", id="s1") == (ScriptStatus.NO_RUN, "completed")
    assert send(driver, "go", id="s1", run="nobody") == (ScriptStatus.NO_RUN, "")
    assert driver.snapshot() == before


def test_a_wait_without_a_signal_ends_by_its_time_and_a_later_signal_is_kept(driver: Driver) -> None:
    lease = driver.started()
    wait(driver, lease, "go", delay_ms=1_000)
    driver.park(lease)
    driver.now_ms += 1_000
    assert driver.fire()[0] == 1
    send(driver, "go", 1, id="s1")
    assert received(driver) == [("w", None)]
    assert loads(driver.memos()[0][1])["outcome"] == "time"
    assert kept(driver) == [("go", 1)]


def test_a_wait_without_time_takes_what_has_come_and_does_not_wait(driver: Driver) -> None:
    lease = driver.started()
    send(driver, "go", 1, id="s1")
    assert [wait(driver, lease, "go", step_id, delay_ms=0) for step_id in "ab"] == [ScriptStatus.RESOLVED] * 2
    assert received(driver) == [("a", 1), ("b", None)]


def test_a_wait_that_is_requested_again_takes_no_second_signal(driver: Driver) -> None:
    lease = driver.started()
    wait(driver, lease, "go", "a")
    send(driver, "stop", 1, id="s1")
    assert wait(driver, lease, "go", "a") is ScriptStatus.ALREADY
    send(driver, "go", 1, id="s2")
    send(driver, "go", 2, id="s3")
    assert wait(driver, lease, "go", "a") is ScriptStatus.ALREADY
    assert kept(driver) == [("stop", 1), ("go", 2)]


def test_a_stale_worker_takes_no_signal(driver: Driver) -> None:
    lease = driver.started()
    send(driver, "go", 1, id="s1")
    driver.yield_run(lease)
    driver.claim_one()
    assert wait(driver, lease, "go") is ScriptStatus.STALE_FENCE
    driver.cancel()
    assert wait(driver, lease, "go") is ScriptStatus.NO_RUN
    assert kept(driver) == [("go", 1)]


def test_a_wait_that_the_code_has_cancelled_takes_no_signal(driver: Driver) -> None:
    lease = driver.started()
    wait(driver, lease, "go", "a")
    key = step_key("a")
    driver.send(cancel_steps(driver.partition, run_id="run1", fence=lease.fence, keys=[key], retention_ms=RETENTION_MS))
    send(driver, "go", 1, id="s1")
    assert kept(driver) == [("go", 1)]
    assert wait(driver, lease, "go", "a") is ScriptStatus.RESOLVED


def test_the_end_of_a_run_keeps_its_signals_as_long_as_the_run(driver: Driver) -> None:
    lease = driver.started()
    send(driver, "go", 1, id="s1")
    wait(driver, lease, "other")
    driver.cancel()
    assert kept(driver) == [("go", 1)]
    for kind in ("SIGNALS", "SIGNAL_IDS"):
        assert 0 < driver.client.pttl(driver.keys(kind, "run1")) <= RETENTION_MS


def test_a_run_keeps_no_more_signals_than_its_limits_allow(driver: Driver) -> None:
    lease = driver.started()
    key = driver.keys("SIGNALS", "run1")
    half = "x" * (MAX_SIGNAL_BYTES // 2)
    assert send(driver, "big", half, id="b1")[0] is ScriptStatus.DONE
    before = driver.snapshot()
    code, text = send(driver, "big", half, id="b2")
    assert code is ScriptStatus.FULL
    assert text.endswith(" of 4194304 bytes of signals")
    assert driver.snapshot() == before
    driver.client.hset(driver.keys("RUN", "run1"), "signals", MAX_SIGNALS)
    call = send_signal(driver.partition, run_id="run1", name="go", signal_id="s1", data=b"1")
    assert driver.store.broker.execute(call) == (ScriptStatus.FULL, "1000 signals")
    driver.client.hset(driver.keys("RUN", "run1"), "signals", 1)
    wait(driver, lease, "big")
    assert int(driver.client.hget(key, "bytes")) == 0
    assert send(driver, "big", half, id="b2")[0] is ScriptStatus.DONE  # the same call can be made again


def test_names_are_told_apart_whatever_is_in_them(driver: Driver) -> None:
    lease = driver.started()
    names = ["go", "go ", "go\n1", "signal\n1\ngo", "1", "count", "queue go", "é", "%d+", "bytes"]
    for n, name in enumerate(names):
        wait(driver, lease, name, f"w{n}")
    for n, name in reversed(list(enumerate(names))):
        send(driver, name, n, id=f"s{n}")
    assert sorted(received(driver)) == sorted((f"w{n}", n) for n in range(len(names)))
    for n, name in enumerate(names):
        send(driver, name, n, id=f"t{n}")
    for n, name in reversed(list(enumerate(names))):
        assert wait(driver, lease, name, f"v{n}") is ScriptStatus.RESOLVED
    assert kept(driver) == []
    assert received(driver)[-1] == ("v0", 0)


def test_a_fork_starts_without_the_signals_of_its_source(driver: Driver) -> None:
    lease = driver.started()
    send(driver, "go", 1, id="s1")
    driver.finish(lease)
    assert fork(driver) is ScriptStatus.DONE
    assert kept(driver, "run2") == []
    assert send(driver, "go", 2, id="s1", run="run2")[0] is ScriptStatus.DONE
