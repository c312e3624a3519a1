"""Workers that a new process replaces: after a number of jobs, and above a size of memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import redis

from stepflow import Stepflow
from tests.integration.apps.ledger import count
from tests.support.command_line import call, running
from tests.support.processes import until

LEDGER = "tests.integration.apps.ledger:app"
LEAKING = "tests.integration.apps.leaking:app"


def test_a_process_that_has_done_its_jobs_is_replaced_and_loses_none(
    url: str, client: redis.Redis, tmp_path: Path
) -> None:
    log, ledger = tmp_path / "pool.log", tmp_path / "ledger"
    with running(LEDGER, "--max-jobs", "10", "--redis-url", url, program="worker", log=log) as pool:
        until(lambda: client.hexists("stepflow:functions", "ledger/five"))
        producer, processes = Stepflow("ledger", redis_url=url), set()
        while len(processes) < 3:
            processes |= set(producer.start("five", {"ledger": str(ledger), "gate": ""}).result(60))
        producer.close()
        pool.send_signal(signal.SIGTERM)
        assert pool.wait(30) == 0
    text = log.read_text()
    assert text.count("worker_recycled") >= 2
    assert "reason=jobs" in text
    assert len(set(count(ledger).values())) == 1  # no step was executed more often than another
    assert client.scard("rq:workers") == 0


def test_a_process_that_uses_too_much_memory_is_replaced(url: str, client: redis.Redis, tmp_path: Path) -> None:
    log = tmp_path / "pool.log"
    with running(LEAKING, "--max-memory", "300M", "--redis-url", url, program="worker", log=log) as pool:
        until(lambda: client.hexists("stepflow:functions", "leaking/leak"))
        producer = Stepflow("leaking", redis_url=url)
        first = producer.start("leak", 300).result(60)
        until(lambda: log.read_text().count("worker_started") == 2, what="the new process")
        assert producer.start("leak", 1).result(60) != first
        producer.close()
        pool.send_signal(signal.SIGTERM)
        assert pool.wait(30) == 0
    assert "reason=memory" in log.read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--max-memory", "1M"], 3, "max_memory must be more than a process uses at its start"),
        (["--max-memory", "lots"], 2, "size must be a number with a unit, as in 500M or 2G, got 'lots'"),
        (["--max-jobs", "0"], 2, "0 is not in the range x>=1"),
    ],
)
def test_a_limit_that_cannot_work_is_refused_at_the_start(url: str, words: list[str], code: int, message: str) -> None:
    done = call(LEDGER, "--redis-url", url, *words, program="worker")
    assert done.returncode == code
    assert message in done.stderr
