"""Rounds while workers are killed: each round happens once, with steps and children of its own."""

from __future__ import annotations

import pytest

from tests.integration.apps.ledger import count
from tests.integration.apps.loops import ROUNDS
from tests.integration.apps.loops import app as loops
from tests.support.processes import until

LOOPS = "tests.integration.apps.loops:app"
RUNS, KILLS = 6, 4

pytestmark = [pytest.mark.slow, pytest.mark.roles("producer", "operator")]


def test_killed_workers_lose_no_round_and_repeat_none(url: str, start_worker, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("STEPFLOW_REDIS_URL", url)
    loops.close()
    ledger = tmp_path / "ledger"
    runs = [loops.start("loop", {"path": str(ledger)}) for _ in range(RUNS)]
    workers = [start_worker(LOOPS, lease_ms=1_000, sticky=sticky) for sticky in (0, 100)]
    for kill in range(KILLS):
        until(lambda: sum(run.info().round for run in runs) > kill * RUNS, what="some rounds")  # noqa: B023
        workers.pop(0).kill()
        workers.append(start_worker(LOOPS, lease_ms=1_000))
    assert [run.result(60) for run in runs] == [2 * ROUNDS] * RUNS
    assert [run.info().round for run in runs] == [ROUNDS - 1] * RUNS
    assert len(count(ledger)) == 2 * ROUNDS * RUNS, "each step of each round has its own key, however often it ran"
    loops.close()
