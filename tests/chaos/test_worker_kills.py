"""Workers that are killed again and again under runs with invokes and sleeps: nothing is lost, nothing stored twice."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stepflow import RunStatus, Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_engine.ids import step_key
from stepflow_engine.memo import read_memo
from tests.chaos.apps import STEPS
from tests.chaos.health import check_health
from tests.chaos.worker_fleet import Crew
from tests.support.ledgers import BEGIN, END, EffectLedger, StartLedger
from tests.support.plain import PLAIN
from tests.support.processes import until

APP = "tests.chaos.apps:app"
KEYS = Keys()
BATCH = 100
DETOURS = ("", "", "fan", "invoke", "sleep")
LATE_S = 20.0


def start_journeys(producer: Stepflow, starts: StartLedger, count: int, ledger: Path) -> Iterator[int]:
    """Start runs in batches, and write down what the server has acknowledged; the number started so far."""
    for first in range(0, count, BATCH):
        data = [
            {"ledger": str(ledger), "seconds": 0.03, "detour": DETOURS[n % len(DETOURS)]}
            for n in range(first, min(first + BATCH, count))
        ]
        starts.acknowledge(*[run.id for run in producer.start_many("journey", data)])
        yield first + len(data)


def check_journeys(producer: Stepflow, runs: list[str], effects: EffectLedger) -> None:
    """Each run has completed, with a memo for each step, whose data one of the step's executions wrote."""
    tokens: dict[tuple[str, str], list[str]] = defaultdict(list)
    for effect in effects.effects(END):
        tokens[effect.run_id, effect.step].append(effect.note)
    broker = producer.backend.broker
    for first in range(0, len(runs), BATCH):
        part = runs[first : first + BATCH]
        records = broker.execute_all([read_run(PLAIN, run) for run in part])
        memos = broker.execute_all([read_memos(PLAIN, run) for run in part])
        for run, record, stored in zip(part, records, memos, strict=True):
            check_journey(run, record, stored, tokens)


def check_journey(
    run: str, record: RunRecord | None, stored: list[tuple[str, bytes]], tokens: dict[tuple[str, str], list[str]]
) -> None:
    assert record is not None, f"run {run} is lost"
    assert record.status is RunStatus.COMPLETED, f"run {run} is {record.status}: {record.failure}"
    memos = {key: read_memo(text) for key, text in stored}
    assert len(memos) == len(stored), f"a step of {run} has two memos"
    data = [memos[step_key(f"s{n}")].data for n in range(1, STEPS + 1)]
    assert record.output == data
    for n, token in enumerate(data, 1):
        assert token in tokens[run, f"s{n}"], f"nobody executed s{n} of {run} with the result of its memo"


def restart_delays(effects: EffectLedger, crew: Crew) -> list[float]:
    """How long after its worker's death each step that was being executed began again, in seconds, sorted."""
    deaths = {death.pid: death.at_ns for death in crew.deaths}
    interrupted: dict[tuple[str, str], int] = {}
    delays = []
    for effect in effects.effects():
        step = (effect.run_id, effect.step)
        if effect.mark == BEGIN and step in interrupted:
            delays.append((effect.at_ns - interrupted.pop(step)) / 1e9)
        if effect.mark == BEGIN and effect.pid in deaths:
            interrupted[step] = deaths[effect.pid]
        elif effect.mark == END:
            interrupted.pop(step, None)
    assert not interrupted, f"steps that a death interrupted were not executed again: {interrupted}"
    return sorted(delays)


@pytest.mark.timeout(1800)
def test_workers_that_are_killed_again_and_again_lose_no_run_and_store_each_memo_once(
    url: str, client: redis.Redis, tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1_000_000)
    count, every_s, size, most = (10_000, 2.0, 3, 1_000) if long else (400, 0.8, 2, 8)
    starts, effects = StartLedger(tmp_path / "starts"), EffectLedger(tmp_path / "effects")
    producer = Stepflow("chaos", redis_url=url)
    with Crew(url, APP, folder=tmp_path, size=size, seed=seed, concurrency=16) as crew:
        until(lambda: client.hexists(KEYS("FUNCTIONS"), "chaos/journey"))
        producing = start_journeys(producer, starts, count, effects.path)

        def done() -> bool:
            return next(producing, count) == count and not client.exists(KEYS("LIVE"))

        crew.kill_until(done, every_s=every_s, within_s=1500 if long else 60, most=most)
    check_health(url, client)
    runs, repeats, reclaimed = starts.runs(), effects.repeats(), crew.reclaimed()
    delays = restart_delays(effects, crew)
    late = sum(delay > LATE_S for delay in delays)
    with capsys.disabled():
        print(
            f"\n{len(runs)} runs, {len(crew.deaths)} kills (seed {seed}): {effects.count()} executions of "
            f"{len(effects.executions())} steps, {reclaimed} leases ran out, {len(delays)} steps were interrupted; "
            f"restarted after p50 {delays[len(delays) // 2]:.1f} s, p99 {delays[len(delays) * 99 // 100]:.1f} s, "
            f"at most {delays[-1]:.1f} s"
        )
    check_journeys(producer, runs, effects)
    assert len(runs) == count
    assert delays, "no kill interrupted a step"
    assert repeats.total() <= len(crew.deaths) + reclaimed
    assert late <= len(delays) // 100, f"{late} of {len(delays)} steps began again after more than {LATE_S} s"
    assert Counter(run for run, _ in effects.executions()).keys() >= set(runs)
