"""What the command line and the log of a worker tell of a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.apps import shop
from tests.support.command_line import SHOP, burst, call, enqueue, register, running
from tests.support.processes import until


@pytest.fixture
def registered(url: str) -> str:
    register(url, shop.app)
    return url


def test_a_failed_run_has_its_traceback_and_the_log_its_error(registered: str) -> None:
    run_id = enqueue(registered, "broken")
    log = burst(registered).stderr
    [ended] = [line for line in log.splitlines() if " run_ended " in line]
    assert f"run_id={run_id}" in ended
    assert ended.endswith('status=failed error="NonRetriableError: the card was declined"')

    shown = call("runs", "show", run_id, STEPFLOW_REDIS_URL=registered).stdout
    assert "error     NonRetriableError: the card was declined" in shown
    traceback = shown[shown.index("Traceback (most recent call last):") :]
    assert 'integration/apps/shop.py", line' in traceback
    assert "raise NonRetriableError(reason)" in traceback
    assert "step_attempt.py" not in traceback
    whole = call("runs", "show", run_id, "--debug", STEPFLOW_REDIS_URL=registered).stdout
    assert "step_attempt.py" in whole

    explained = call("explain", run_id, STEPFLOW_REDIS_URL=registered).stdout
    assert explained.splitlines() == [
        "shop/broken failed: NonRetriableError: the card was declined",
        "  step 'refused' failed: NonRetriableError: the card was declined",
    ]


def test_an_attempt_that_is_tried_again_is_logged(registered: str, tmp_path: Path) -> None:
    run_id, log = enqueue(registered, "stubborn"), tmp_path / "worker.log"
    with running(SHOP, "--redis-url", registered, program="worker", log=log):
        until(lambda: "attempt_failed" in log.read_text(), what="the first attempt")
        until(lambda: 'raise ValueError("not yet")' in _shown(registered, run_id), what="the traceback of a retry")
    line = next(line for line in log.read_text().splitlines() if "attempt_failed" in line)
    assert f"run_id={run_id} function=shop/stubborn step_id=fail attempt=1 retry_in=" in line
    assert line.endswith('error="ValueError: not yet"')


def _shown(url: str, run_id: str) -> str:
    return call("runs", "show", run_id, STEPFLOW_REDIS_URL=url).stdout


def test_a_cancelled_run_has_a_reason_and_no_error(registered: str) -> None:
    run_id = enqueue(registered, "order", {"number": 1})
    call("runs", "cancel", run_id, "--reason", "left the shop", STEPFLOW_REDIS_URL=registered)
    shown = call("runs", "show", run_id, STEPFLOW_REDIS_URL=registered).stdout
    assert "reason    left the shop" in shown
    assert "RunCancelledError" not in shown
    assert call("explain", run_id, STEPFLOW_REDIS_URL=registered).stdout == "shop/order cancelled: left the shop\n"


@pytest.mark.parametrize("columns", ["80", "100"])
def test_a_narrow_list_of_runs_has_the_reasons(registered: str, columns: str) -> None:
    run_id = enqueue(registered, "broken")
    enqueue(registered, "order", {"number": 1})
    burst(registered)
    lines = call("runs", "list", STEPFLOW_REDIS_URL=registered, COLUMNS=columns).stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert [line.split()[0] for line in lines[:1]] == ["RUN"]
    row = next(at for at, line in enumerate(lines) if line.startswith(run_id))
    assert lines[row + 1] == "  NonRetriableError: the card was declined"
    assert len(lines) == 4


def test_a_pause_of_what_no_function_has_says_what_there_is(registered: str) -> None:
    def told(*words: str) -> str:
        done = call(*words, STEPFLOW_REDIS_URL=registered)
        assert done.returncode == 0
        return done.stderr

    assert told("pause", "queue", "nope") == "note: no function has queue nope; queues: shop\n"
    assert told("pause", "queue", "shop") == ""
    assert told("pause", "key", "shop/x:event.data.a=1").startswith("note: no function has key shop/x:event.data.a=1;")
    assert "queue nope" in told("resume", "queue", "other")
    assert told("resume", "queue", "shop") == ""
