"""Steps that take their worker with them fail after three deaths, and nobody else does."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import redis

from stepflow import RunFailedError, Stepflow
from stepflow_broker.protocol.keys import Keys
from tests.chaos.health import check_health
from tests.chaos.worker_fleet import Crew
from tests.support.command_line import call
from tests.support.ledgers import EffectLedger
from tests.support.processes import until

APP = "tests.chaos.apps:app"
KEYS = Keys()
DEATHS = 3


@pytest.mark.parametrize(("how", "size", "killers"), [("exit", 1, 1), ("memory", 2, 2)])
def test_steps_that_kill_their_worker_fail_after_three_deaths_and_their_neighbours_finish(
    url: str, client: redis.Redis, tmp_path: Path, how: str, size: int, killers: int
) -> None:
    effects = EffectLedger(tmp_path / "effects")
    producer = Stepflow("chaos", redis_url=url)
    with Crew(url, APP, folder=tmp_path, size=size, seed=0, concurrency=16, lease_ms=1_000) as crew:
        until(lambda: client.hexists(KEYS("FUNCTIONS"), "chaos/deadly"))
        data = {"ledger": str(effects.path), "how": how, "seconds": 0.2, "detour": ""}
        neighbours = producer.start_many("journey", [data] * 6)
        deadly = producer.start_many("deadly", [data] * killers)

        def done() -> bool:
            crew.replace_dead()
            return not client.exists(KEYS("LIVE"))

        until(done, seconds=100, what="the end of all runs")
    assert len(crew.deaths) >= DEATHS, "the workers did not die"
    for run in deadly:
        with pytest.raises(RunFailedError, match=f"{DEATHS} workers died while they executed this step") as failed:
            run.result(1)
        assert failed.value.name == "PoisonError"
        shown = call("runs", "show", run.id, "--redis-url", url).stdout
        assert f"{DEATHS} workers died while they executed this step" in shown
        assert effects.count(run.id, "before") == 1
        assert 1 <= effects.count(run.id, "die") <= DEATHS, "it failed for a death that was not its own"
    assert [len(run.result(1)) for run in neighbours] == [5] * 6
    check_health(url, client)


def test_a_step_that_finds_no_memory_fails_alone_and_its_worker_lives(
    url: str, client: redis.Redis, tmp_path: Path
) -> None:
    effects = EffectLedger(tmp_path / "effects")
    producer = Stepflow("chaos", redis_url=url)
    with Crew(url, APP, folder=tmp_path, size=1, seed=0) as crew:
        until(lambda: client.hexists(KEYS("FUNCTIONS"), "chaos/hungry"))
        (pid,) = crew.pids
        limit = address_space(pid) + 200 * 1024 * 1024
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        data = {"ledger": str(effects.path), "seconds": 0.1, "detour": ""}
        neighbours = producer.start_many("journey", [data] * 6)
        with pytest.raises(RunFailedError) as failed:
            producer.start("hungry", data).result(60)
        assert failed.value.name == "MemoryError"
        assert [len(run.result(30)) for run in neighbours] == [5] * 6
        assert crew.pids == {pid}
        crew.replace_dead()
        assert not crew.deaths
    check_health(url, client)


def address_space(pid: int) -> int:
    """How much a process has, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize()
