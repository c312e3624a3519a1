"""Workers that are killed again and again under invokes of children in another partition: each child runs once."""

from __future__ import annotations

import random
from pathlib import Path

import redis

from stepflow import Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.partitions import keys_for
from tests.chaos.worker_fleet import Crew
from tests.integration.apps.ledger import count
from tests.support.processes import until

APP = "tests.chaos.remote_app:app"
PARTITIONS = 4


def test_children_elsewhere_end_once_whichever_worker_is_killed(
    url: str, client: redis.Redis, tmp_path: Path, long: bool
) -> None:
    url, ledger, runs = f"{url}?partitions={PARTITIONS}", tmp_path / "ledger", 2_000 if long else 150
    keys, seed = keys_for(url), random.randrange(1_000_000)
    producer = Stepflow("away", redis_url=url)
    with Crew(url, APP, folder=tmp_path / "logs", size=2, seed=seed, concurrency=8) as crew:
        until(lambda: all(client.hexists(one("FUNCTIONS"), "away/parent") for one in keys.all), what="the registration")
        started = [producer.start("away/parent", {"n": n, "ledger": str(ledger)}) for n in range(runs)]
        most = 100 if long else 2  # a run that is hit by three kills is taken for their cause
        crew.kill_until(
            lambda: is_over(client, keys), every_s=6 if long else 1, within_s=900 if long else 90, most=most
        )
        assert crew.deaths, "nobody was killed: it was over before"
        assert [run.result(10) for run in started] == [4 * n + 2 for n in range(runs)], f"seed {seed}"
    assert len(count(ledger)) == 2 * runs, f"a child was started as two runs, or as none (seed {seed})"


def is_over(client: redis.Redis, keys: Keys) -> bool:
    """Whether nothing lives, and no message is left."""
    return not any(client.exists(one("LIVE")) or client.xlen(one("FINISHED")) for one in keys.all)
