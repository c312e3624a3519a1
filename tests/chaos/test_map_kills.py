"""Workers that are killed again and again under maps: each item has one result, and none is lost or stored twice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import redis

from stepflow import Stepflow
from stepflow_broker.protocol.keys import Keys
from tests.chaos.health import check_health
from tests.chaos.worker_fleet import Crew
from tests.support.ledgers import EffectLedger
from tests.support.processes import until

KEYS = Keys()


def test_maps_under_kills_have_the_result_of_each_item_in_its_place(
    url: str, client: redis.Redis, tmp_path: Path, long: bool
) -> None:
    count, kills = (1_000, 12) if long else (200, 4)
    effects = EffectLedger(tmp_path / "effects")
    producer = Stepflow("chaos", redis_url=url)
    with Crew(url, "tests.chaos.apps:app", folder=tmp_path, size=2, seed=7, concurrency=4, lease_ms=1_000) as crew:
        until(lambda: client.hexists(KEYS("FUNCTIONS"), "chaos/maps"))
        run = producer.start("maps", {"ledger": str(effects.path), "count": count})
        crew.kill_until(lambda: len(crew.deaths) >= kills and run.status().ended, every_s=0.7, within_s=120, most=kills)
        results, children = run.result(1)
    assert len(crew.deaths) == kills
    assert children == [number * 2 for number in range(count // 10)]
    notes = defaultdict(set)
    for effect in effects.effects():
        notes[effect.step].add(effect.note)
    repeats = sum(len(noted) - 1 for noted in notes.values())
    assert repeats <= kills * 4, "more was repeated than the dead workers had executed"
    assert results == [f"{number} {result.partition(' ')[2]}" for number, result in enumerate(results)]
    assert len(results) == count
    assert all(result.partition(" ")[2] in notes[f"item {number}"] for number, result in enumerate(results))
    check_health(url, client)
