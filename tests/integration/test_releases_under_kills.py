"""Pins, patches and options of one start, while workers are killed in the middle of a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from stepflow import Stepflow
from tests.integration.apps.released import app as released
from tests.support.processes import WorkerProcess, until

RELEASED = "tests.integration.apps.released:app"
HOUR_MS = 3_600_000
StartRelease = Callable[..., WorkerProcess]
pytestmark = [pytest.mark.slow, pytest.mark.roles("producer", "operator")]


@pytest.fixture
def producer(url: str) -> Stepflow:
    """The app, without a version: a worker has its code."""
    return Stepflow(released.id, redis_url=url, retention="2h")


@pytest.fixture
def start_release(start_worker: StartRelease) -> StartRelease:
    """Start a worker of a release."""

    def start(name: str, **settings: object) -> WorkerProcess:
        return start_worker(RELEASED, env={"STEPFLOW_VERSION": name}, lease_ms=1_000, **settings)

    return start


def begun(path: Path, release: str) -> Callable[[], bool]:
    return Path(f"{path}.{release}").exists


def test_a_pinned_run_whose_worker_is_killed_waits_for_its_release_and_keeps_its_options(
    producer: Stepflow, start_release: StartRelease, client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "go"
    old = start_release("1.4", queues=("gpu",))
    until(lambda: client.hexists("stepflow:functions", "released/contract"), what="the registration")
    run = producer.start("contract", {"path": str(path)}, queue="gpu", retention="1h", priority=60, timeout="30m")
    until(begun(path, "1.4"), what="the handler")
    old.kill()
    start_release("1.5", queues=("gpu",))
    until(lambda: "1.4" in str(run.explain().to_json()), what="the run to wait for its release")
    path.touch()
    assert not begun(path, "1.5")()
    start_release("1.4", queues=("gpu",))
    assert run.result(30) == "1.4"
    assert 0 < client.pttl(f"stepflow:run:{run.id}") <= HOUR_MS


def test_a_decision_at_a_patch_holds_after_the_death_of_the_worker_that_made_it(
    producer: Stepflow, start_release: StartRelease, client: redis.Redis, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    old = start_release("1.4")
    until(lambda: client.hexists("stepflow:functions", "released/order"), what="the registration")
    passed = producer.start("order", {"path": str(before)})
    until(begun(before, "1.4"), what="the step after the patch")
    old.kill()
    new = start_release("1.5")
    fresh = producer.start("order", {"path": str(after)})
    for path in (before, after):
        until(begun(path, "1.5"), what="the new code")
    new.kill()
    before.touch()
    after.touch()
    start_release("1.5")
    assert passed.result(30) == ["old way", "1.4", "1.5"]
    assert fresh.result(30) == ["new way", "1.5", "1.5"]
    assert [fresh.info().patches, passed.info().patches] == [{"another way": True}, {"another way": False}]
