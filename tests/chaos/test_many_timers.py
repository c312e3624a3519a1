"""Sleeps that are over within the same second: none ends early, all end, and other work goes on meanwhile."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import redis

from stepflow import Run, Stepflow
from stepflow_broker.protocol.keys import Keys
from tests.chaos.apps import SECOND_QUEUE
from tests.chaos.health import check_health
from tests.chaos.worker_fleet import Crew
from tests.support.ledgers import EffectLedger, StartLedger
from tests.support.processes import until

APP = "tests.chaos.apps:app"
KEYS = Keys()
BATCH = 500


def server_s(client: redis.Redis) -> float:
    """The time by the server's clock, in seconds since 1970."""
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def serve_aside(producer: Stepflow, client: redis.Redis, effects: Path, *, within_s: float) -> list[float]:
    """Start runs on the other queue, one after the other, until all alarms have ended; how long each took."""
    took: list[float] = []
    deadline = time.monotonic() + within_s
    while client.exists(KEYS("LIVE")):
        assert time.monotonic() < deadline, f"the alarms have not ended after {within_s} s"
        began = time.monotonic()
        run: Run[object] = producer.start("aside", {"ledger": str(effects)})
        run.result(30)
        took.append(time.monotonic() - began)
    return sorted(took)


@pytest.mark.timeout(1800)
def test_sleeps_that_end_in_the_same_second_end_late_at_most_and_other_work_is_served(
    url: str, client: redis.Redis, tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    count, lead_s = (100_000, 120) if long else (3_000, 8)
    starts, effects = StartLedger(tmp_path / "starts"), EffectLedger(tmp_path / "effects")
    producer = Stepflow("chaos", redis_url=url)
    with (
        Crew(url, APP, folder=tmp_path, size=2 if long else 1, seed=seed, queues=("chaos",)),
        Crew(url, APP, folder=tmp_path / "aside", size=1, seed=seed, queues=(SECOND_QUEUE,)),
    ):
        until(lambda: client.scard(KEYS("RQ_WORKERS")) >= (3 if long else 2), what="all workers")
        due = round(server_s(client)) + lead_s
        dues: dict[str, float] = {}
        for _ in range(0, count, BATCH):
            data = [{"ledger": str(effects.path), "due": due + chance.randrange(1000) / 1000} for _ in range(BATCH)]
            runs = [run.id for run in producer.start_many("alarm", data)]
            starts.acknowledge(*runs)
            dues |= zip(runs, [one["due"] for one in data], strict=True)
        until(lambda: client.zcard(KEYS("TIMEOUTS")) == count, seconds=lead_s, what="the beginning of all sleeps")
        assert server_s(client) < due, "the sleeps did not begin in time"
        until(lambda: server_s(client) > due, seconds=lead_s + 1)
        took = serve_aside(producer, client, effects.path, within_s=900 if long else 60)
    fired = {effect.run_id: float(effect.note) for effect in effects.effects() if effect.step == "fired"}
    late = sorted(fired[run] - dues[run] for run in fired)
    with capsys.disabled():
        print(
            f"\n{count} sleeps that end in one second (seed {seed}): late by p50 {late[len(late) // 2]:.2f} s, "
            f"p99 {late[len(late) * 99 // 100]:.2f} s, at most {late[-1]:.2f} s; {len(took)} runs on another queue "
            f"meanwhile, which took p50 {took[len(took) // 2]:.3f} s, at most {took[-1]:.3f} s"
        )
    assert late[0] >= 0, f"a sleep ended {-late[0]:.3f} s early"
    assert fired.keys() == set(starts.runs())
    assert set(effects.executions().values()) == {1}
    assert took, "no other work was done meanwhile"
    check_health(url, client)
