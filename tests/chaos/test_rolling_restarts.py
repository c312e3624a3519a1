"""Workers that are told to stop, one after the other, and are replaced: by the same code, and by another edition."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from stepflow import Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_engine.memo import read_memo
from tests.chaos.code_versions import STEPS
from tests.chaos.health import check_health
from tests.chaos.test_worker_kills import DETOURS, check_journeys
from tests.chaos.worker_fleet import Crew
from tests.support.ledgers import EffectLedger, StartLedger
from tests.support.plain import PLAIN
from tests.support.processes import WorkerProcess, until

APP = "tests.chaos.apps:app"
KEYS = Keys()
BATCH = 10
MOST_LIVE = 20
RESTARTS = 5


@contextmanager
def load(url: str, client: redis.Redis, starts: StartLedger, ledger: Path) -> Iterator[None]:
    """Meanwhile, keep a number of runs alive."""
    producer = Stepflow("chaos", redis_url=url)
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(0.02):
            if client.zcard(KEYS("LIVE")) < MOST_LIVE:
                data = [{"ledger": str(ledger), "seconds": 0.05, "detour": DETOURS[n % 5]} for n in range(BATCH)]
                starts.acknowledge(*[run.id for run in producer.start_many("journey", data)])

    producing = threading.Thread(target=produce)
    producing.start()
    try:
        yield
    finally:
        stop.set()
        producing.join(30)
    assert not producing.is_alive(), "the producer did not stop"


@pytest.mark.timeout(900)
def test_rolling_restarts_under_load_fail_no_run_and_execute_no_step_twice(
    url: str, client: redis.Redis, tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1_000_000)
    starts, effects = StartLedger(tmp_path / "starts"), EffectLedger(tmp_path / "effects")
    with Crew(url, APP, folder=tmp_path, size=2, seed=seed, concurrency=16) as crew:
        until(lambda: client.hexists(KEYS("FUNCTIONS"), "chaos/journey"))
        with load(url, client, starts, effects.path):
            until_s = time.monotonic() + (300 if long else 0)
            while crew.restarts < RESTARTS or time.monotonic() < until_s:
                crew.restart_one()
        until(lambda: not client.exists(KEYS("LIVE")), seconds=60, what="the end of all runs")
    with capsys.disabled():
        print(
            f"\n{len(starts.runs())} runs, {crew.restarts} restarts (seed {seed}): {effects.count()} executions of "
            f"{len(effects.executions())} steps, {crew.reclaimed()} leases ran out"
        )
    check_journeys(Stepflow("chaos", redis_url=url), starts.runs(), effects)
    assert not effects.repeats()
    check_health(url, client)


# -- new code ----------------------------------------------------------------------------


@pytest.fixture
def producer(url: str) -> Stepflow:
    return Stepflow("editions", redis_url=url)


def replace(old: list[WorkerProcess], gate: Path, start: Callable[[], WorkerProcess]) -> WorkerProcess:
    """Deploy: stop all workers of the old code, let them finish the steps at hand, and start one of the new."""
    until(lambda: all(" worker_started " in worker.log.read_text() for worker in old))
    for worker in old:
        worker.send(signal.SIGTERM)
    until(lambda: all(" worker_stopping " in worker.log.read_text() for worker in old))
    new = start()
    gate.touch()
    for worker in old:
        assert worker.process.wait(30) == 0
    return new


def test_runs_go_on_under_code_with_steps_inserted_removed_and_moved(
    producer: Stepflow, url: str, client: redis.Redis, start_worker, tmp_path: Path
) -> None:
    effects, gate = EffectLedger(tmp_path / "effects"), tmp_path / "gate"
    old = [start_worker("tests.chaos.code_versions:first") for _ in range(2)]
    until(lambda: client.hexists(KEYS("FUNCTIONS"), "editions/serial"))
    held_at = STEPS["first"] * 4
    data = [{"ledger": str(effects.path), "gates": {step: str(gate)}} for step in held_at]
    runs = producer.start_many("serial", data)
    until(lambda: all(effects.count(run.id, step) for run, step in zip(runs, held_at, strict=True)))
    replace(old, gate, lambda: start_worker("tests.chaos.code_versions:second"))
    for run, step in zip(runs, held_at, strict=True):
        done = STEPS["first"][: STEPS["first"].index(step) + 1]
        edition = {name: "first" if name in done else "second" for name in STEPS["second"]}
        if step == "five":
            continue
        assert run.result(30) == [f"{name} of the {edition[name]}" for name in STEPS["second"]]
        executed = [(effect.step, effect.note) for effect in effects.effects() if effect.run_id == run.id]
        rest = [name for name in STEPS["second"] if name not in done]
        assert executed == [(name, "first") for name in done] + [(name, "second") for name in rest]
    assert not effects.repeats()
    check_health(url, client)


def test_a_planned_step_that_new_code_does_not_have_fails_by_its_name_and_nothing_is_executed_in_its_place(
    producer: Stepflow, url: str, client: redis.Redis, start_worker, tmp_path: Path
) -> None:
    effects, gates = EffectLedger(tmp_path / "effects"), {"kept": tmp_path / "kept", "added": tmp_path / "added"}
    old = start_worker("tests.chaos.code_versions:first", concurrency=1)
    until(lambda: client.hexists(KEYS("FUNCTIONS"), "editions/parallel"))
    run = producer.start(
        "parallel", {"ledger": str(effects.path), "gates": {name: str(path) for name, path in gates.items()}}
    )
    until(lambda: effects.count(run.id, "kept"))
    replace([old], gates["kept"], lambda: start_worker("tests.chaos.code_versions:second"))

    def memos() -> dict[str, object]:
        stored = producer.backend.broker.execute(read_memos(PLAIN, run.id))
        return {memo.id: memo.failure for memo in (read_memo(text) for _, text in stored)}

    until(lambda: "removed" in memos(), what="the memo of the step that was removed")
    failure = memos()["removed"]
    assert "step 'removed' was planned, but the code of editions/parallel does not wait for it" in str(failure)
    assert "'added'" in str(failure), "the steps found"
    gates["added"].touch()
    assert run.result(30) == ["kept of the first", "added of the second"]
    assert effects.executions() == {(run.id, "kept"): 1, (run.id, "added"): 1}
    check_health(url, client)
