"""step.invoke between worker processes: apps that do not have each other's code, kills, and parents that are parked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from stepflow import Run, RunFailedError, RunStatus, Stepflow
from stepflow_broker.protocol.keys import GROUP, Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.functions import register_functions
from stepflow_broker.transitions.invokes.outbox import read_finished
from stepflow_broker.transitions.jobs.job_claims import claim_jobs, queue_lists
from stepflow_broker.transitions.runs.run_ends import finish_run
from tests.integration.apps.invoker_b import app as south
from tests.integration.apps.ledger import count
from tests.support.processes import WorkerProcess, until
from tests.support.roles import as_role

NORTH, SOUTH = "tests.integration.apps.invoker_a:app", "tests.integration.apps.invoker_b:app"
KEYS = Keys()
StartWorker = Callable[..., WorkerProcess]


@dataclass(frozen=True, slots=True)
class Scene:
    """A producer, and what children write and wait for."""

    app: Stepflow
    client: redis.Redis
    ledger: Path
    gate: Path

    def start(self, function: str) -> Run[Any]:
        until(lambda: self.client.hexists(KEYS("FUNCTIONS"), f"north/{function}"), what="the function's registration")
        until(lambda: self.client.hexists(KEYS("FUNCTIONS"), "south/gated"), what="the child's registration")
        return self.app.start(function, {"ledger": str(self.ledger), "gate": str(self.gate)})

    def begun(self, children: int) -> None:
        """Wait until children wait for the gate."""
        until(lambda: sum(count(self.ledger).values()) == children, what="the children's start")

    def parked(self, run: Run[Any]) -> int:
        """Wait until nobody holds a run: its last fence."""
        until(lambda: run.status() is RunStatus.WAITING, what="the parent's parking")
        return self.fence(run)

    def fence(self, run: Run[Any]) -> int:
        """How often a run was claimed."""
        return int(self.client.hget(KEYS("RUN", run.id), "fence"))


@pytest.fixture
def scene(url: str, client: redis.Redis, tmp_path: Path) -> Scene:
    return Scene(Stepflow("north", redis_url=url), client, tmp_path / "ledger", tmp_path / "gate")


def test_apps_that_do_not_have_each_others_code_invoke_in_both_directions(
    scene: Scene, start_worker: StartWorker
) -> None:
    north, other = start_worker(NORTH), start_worker(SOUTH)
    places = scene.start("there-and-back").result(30)
    assert [place["pid"] for place in places] == [north.pid, other.pid, north.pid]
    assert not any(place["other_is_here"] for place in places)


@pytest.mark.slow
def test_the_only_worker_is_killed_while_a_parent_waits_and_its_child_runs(
    scene: Scene, start_worker: StartWorker
) -> None:
    first = start_worker(NORTH, SOUTH)
    run = scene.start("parent")
    scene.begun(1)
    first.kill()
    scene.gate.touch()
    start_worker(NORTH, SOUTH)
    assert run.result(30) == "child came"
    assert count(scene.ledger) == {"child": 2}


@pytest.mark.slow
@pytest.mark.parametrize("sticky", [0, 100])
def test_a_chain_of_invokes_whose_last_link_fails_runs_that_link_three_times(
    scene: Scene, start_worker: StartWorker, sticky: int
) -> None:
    """Source: the worked example of reference/step-invoke; 27 times would be each link's retries multiplied."""
    start_worker(NORTH, sticky=sticky)
    start_worker(SOUTH, sticky=sticky)
    with pytest.raises(RunFailedError, match="D always fails"):
        scene.start("A").result(30)
    written = count(scene.ledger)
    assert written["D"] == 3
    assert all(written[name] <= 2 for name in "ABC"), f"a pass before the invoke and one after it: {written}"


@pytest.mark.slow
def test_ten_children_that_end_together_cost_a_parked_parent_one_continuation(
    scene: Scene, start_worker: StartWorker
) -> None:
    north = start_worker(NORTH, sticky=0)
    start_worker(SOUTH)
    run = scene.start("many")
    scene.begun(10)
    claims = scene.parked(run)
    north.terminate()
    scene.gate.touch()
    until(lambda: scene.client.llen(KEYS("MEMO_ORDER", run.id)) == 10, what="the end of all children")
    assert scene.client.lrange(KEYS("RQ_QUEUE", "north:steps"), 0, -1) == [run.id]
    start_worker(NORTH, sticky=0)
    assert run.result(30) == [f"child-{n} came" for n in range(10)]
    assert scene.fence(run) > claims


@pytest.mark.parametrize("sticky", [pytest.param(0, marks=pytest.mark.slow), 100])
def test_a_parked_parent_is_woken_by_a_child_that_ends_on_another_worker(
    scene: Scene, start_worker: StartWorker, sticky: int
) -> None:
    """With sticky runs the holder gives the parent up when nothing has come for some seconds."""
    start_worker(NORTH, sticky=sticky)
    start_worker(SOUTH, sticky=sticky)
    run = scene.start("parent")
    scene.begun(1)
    claims = scene.parked(run)
    scene.gate.touch()
    assert run.result(30) == "child came"
    assert scene.fence(run) > claims


@pytest.mark.slow
@pytest.mark.parametrize("taken", [False, True], ids=["not-seen-to", "taken-by-a-worker-that-died"])
def test_a_worker_that_died_after_it_ended_a_child_still_wakes_the_parent(
    scene: Scene, start_worker: StartWorker, taken: bool
) -> None:
    broker, partition = Broker(as_role(scene.app.backend.url, "worker")), scene.app.backend.partition
    broker.execute_all([register_functions(one.keys, [south.functions["gated"].config]) for one in partition.all])
    north = start_worker(NORTH, sticky=0)
    run = scene.start("parent")
    scene.parked(run)
    if taken:
        north.terminate()
    partition = partition.of(run.id)
    claimed = broker.execute(
        claim_jobs(partition, lists=queue_lists(["south"]), worker="dead", limit=9, lease_ms=9_000)
    )
    assert claimed
    (lease,) = claimed.leases
    broker.execute(
        finish_run(
            partition,
            run_id=lease.run_id,
            fence=lease.fence,
            status=RunStatus.COMPLETED,
            payload=b'"all the same"',
            retention_ms=60_000,
        )
    )
    if taken:
        assert [one.run_id for one in broker.execute(read_finished(partition, "dead"))] == [lease.run_id]
        assert scene.client.xlen(KEYS("FINISHED")) == 1
        age(scene.client, partition.keys("FINISHED"))
        start_worker(NORTH, sticky=0)
    assert run.result(30) == "all the same"
    until(lambda: scene.client.xlen(KEYS("FINISHED")) == 0, what="the end of the finished event")
    assert scene.client.xpending(KEYS("FINISHED"), GROUP)["pending"] == 0


def age(client: redis.Redis, finished: str) -> None:
    """Let the finished events look as if they had been taken a minute ago."""
    entries = [entry["message_id"] for entry in client.xpending_range(finished, GROUP, "-", "+", 10)]
    client.xclaim(finished, GROUP, "dead", 0, entries, idle=60_000, justid=True)
