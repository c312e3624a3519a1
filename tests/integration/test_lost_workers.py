"""A worker that died is not shown as live, though its record is still there."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.support.command_line import SHOP, as_json, call, enqueue, running
from tests.support.processes import until


def test_a_worker_without_heartbeat_is_lost_and_serves_nothing(url: str, client: redis.Redis, tmp_path: Path) -> None:
    file, log = tmp_path / "go", tmp_path / "worker.log"
    with running(SHOP, "--redis-url", url, "--name", "anna", "--lease", "1h", program="worker", log=log) as worker:
        until(lambda: as_json("workers", "--redis-url", url), what="the worker's start")
        run_id = enqueue(url, "slow", {"path": str(file)})
        until(Path(f"{file}.begun").exists, what="the step's start")
        waiting = enqueue(url, "order", {"number": 1})
        until(lambda: as_json("runs", "show", waiting, "--redis-url", url)["status"] == "completed", what="the order")
        [shown] = as_json("workers", "--redis-url", url)
        assert shown["live"]
        worker.kill()
        worker.wait()
    client.pexpire("rq:worker:anna", 14_000)  # as 16 seconds after its last heartbeat
    waiting = enqueue(url, "order", {"number": 2})
    [shown] = as_json("workers", "--redis-url", url)
    assert not shown["live"]
    assert "lost" in call("workers", "--redis-url", url).stdout
    explained = call("explain", run_id, "--redis-url", url).stdout
    assert "is executed by worker anna, which sends no heartbeat" in explained
    assert "no live worker serves queue shop" in call("explain", waiting, "--redis-url", url).stdout
    assert "no live worker serves queue shop" in call("functions", "--redis-url", url).stdout
    assert "no live worker serves queue shop" in call("doctor", "--redis-url", url).stdout
