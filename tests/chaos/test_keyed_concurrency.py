"""One at a time for each key, however often the workers are killed; the handlers themselves write who overlaps."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import redis

from stepflow import RunStatus, Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.transitions.runs.run_state import read_status
from tests.chaos.health import check_health
from tests.chaos.worker_fleet import Crew
from tests.support.ledgers import BEGIN, END, Effect, EffectLedger, StartLedger
from tests.support.plain import PLAIN
from tests.support.processes import until

APP = "tests.chaos.apps:app"
KEYS = Keys()
TENANTS = 50


def overlaps(effects: list[Effect], killed: set[int]) -> tuple[list[tuple[Effect, Effect]], int]:
    """Executions of one key that began before another had ended, and how many a kill had cut off before."""
    inside: dict[str, Effect] = {}
    found, cut_off = [], 0
    for effect in sorted(effects, key=lambda effect: effect.at_ns):
        before = inside.get(effect.note)
        if effect.mark == END:
            if before is not None and (before.run_id, before.pid) == (effect.run_id, effect.pid):
                del inside[effect.note]
            continue
        if before is not None:
            if before.pid in killed:
                cut_off += 1
            else:
                found.append((before, effect))
        inside[effect.note] = effect
    return found, cut_off


@pytest.mark.timeout(1800)
def test_two_of_a_key_never_overlap_and_all_are_done_while_workers_are_killed(
    url: str, client: redis.Redis, tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1_000_000)
    count, seconds, size, slots = (5_000, 0.05, 3, 4) if long else (600, 0.25, 2, 16)
    every_s, within_s, most = (2.0, 1500, 1_000) if long else (0.4, 60, 4)
    starts, effects = StartLedger(tmp_path / "starts"), EffectLedger(tmp_path / "effects")
    producer = Stepflow("chaos", redis_url=url)
    with Crew(url, APP, folder=tmp_path, size=size, seed=seed, concurrency=slots) as crew:
        until(lambda: client.hexists(KEYS("FUNCTIONS"), "chaos/keyed"))
        ledger = str(effects.path)
        data = [{"ledger": ledger, "key": f"tenant-{n % TENANTS}", "seconds": seconds} for n in range(count)]
        starts.acknowledge(*[run.id for run in producer.start_many("keyed", data)])
        crew.kill_until(lambda: not client.exists(KEYS("LIVE")), every_s=every_s, within_s=within_s, most=most)
    found, cut_off = overlaps(effects.effects(), crew.killed)
    with capsys.disabled():
        print(
            f"\n{count} runs of {TENANTS} keys, {len(crew.deaths)} kills (seed {seed}): {effects.count()} executions, "
            f"{cut_off} were cut off, {crew.reclaimed()} leases ran out, {len(found)} overlaps"
        )
    assert not found, f"two of a key at once: {found[:3]}"
    assert crew.deaths, "no worker was killed"
    assert cut_off or not long, "no kill interrupted an execution"
    ended = {effect.run_id for effect in effects.effects(END)}
    assert ended == set(starts.runs())
    statuses = producer.backend.broker.execute_all([read_status(PLAIN, run) for run in starts.runs()])
    assert set(statuses) == {RunStatus.COMPLETED}
    assert {effect.note for effect in effects.effects(BEGIN)} == {f"tenant-{n}" for n in range(TENANTS)}
    assert not [
        name for kind in ("CONCURRENCY_SLOTS", "WAIT_LIST") for name in client.scan_iter(f"{KEYS(kind)}*", count=1000)
    ]
    check_health(url, client)
