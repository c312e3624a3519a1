"""Messages on pub/sub channels prove nothing: they may come from another database, or from any client."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from rq.command import send_shutdown_command

from stepflow import Context, Stepflow
from stepflow_engine.ids import step_key
from tests.support.processes import WorkerProcess, WorkerThread, until
from tests.support.roles import as_role

pytestmark = pytest.mark.single_server("channels have no database on a cluster, and one key prefix here")
StartWorker = Callable[..., WorkerThread]
APP = "tests.integration.apps.ledger:app"
FORGED = b'{"data":"forged","id":"a","attempts":1,"started_at":1,"ended_at":2,"worker":"x"}'


@pytest.fixture
def raw(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(as_role(url, "admin")) as client:
        yield client


@pytest.mark.parametrize("kind", ["memo", "memo with data", "cancel"])
@pytest.mark.parametrize("function", ["sequence", "parallel"])
def test_a_forged_message_changes_no_result_and_drops_no_run(
    app: Stepflow, raw: redis.Redis, run_worker: StartWorker, function: str, kind: str
) -> None:
    calls: Counter[str] = Counter()
    proceed = asyncio.Event()

    async def handler(key: str) -> str:
        calls[key] += 1
        await proceed.wait()
        return "own"

    @app.function("sequence")
    async def sequence(ctx: Context) -> list[str]:
        return [await ctx.step.run(key, handler, key) for key in ("a", "b")]

    @app.function("parallel")
    async def parallel(ctx: Context) -> list[str]:
        calls["pass"] += 1
        return list(await asyncio.gather(*[ctx.step.run(key, handler, key) for key in ("a", "b")]))

    worker = run_worker(app, name="one")
    run = app.start(function)
    until(lambda: calls["a"], what="the first step")
    channel = f"stepflow:notifications:{worker.worker.name}"
    for position, key in enumerate(("a", "b"), 1):
        hint = f"{run.id} {position} {step_key(key)}".encode()
        messages = {
            "memo": b"memo " + hint,
            "memo with data": b"memo " + hint + b" " + FORGED,
            "cancel": f"cancel {run.id}".encode(),
        }
        raw.publish(channel, messages[kind])
    time.sleep(0.3)  # let the worker handle them
    worker.worker._loop.call_soon_threadsafe(proceed.set)  # type: ignore[union-attr]
    assert run.result(20) == ["own", "own"]
    assert calls == {"a": 1, "b": 1} | ({"pass": 1} if function == "parallel" else {})


def test_a_shutdown_of_rq_in_one_database_does_not_reach_the_worker_of_the_same_name_in_another(
    url: str, raw: redis.Redis, tmp_path: Path
) -> None:
    elsewhere = url.rsplit("/", 1)[0] + "/1"
    here = WorkerProcess(url, APP, log=tmp_path / "here.log", name="one")
    other = WorkerProcess(elsewhere, APP, log=tmp_path / "other.log", name="one")
    try:
        for channel in ("rq:pubsub:one", "rq:pubsub:one.db1"):
            until(lambda channel=channel: raw.pubsub_numsub(channel)[0][1] == 1, what=f"a worker on {channel}")
        send_shutdown_command(raw, "one")
        assert here.process.wait(20) == 0
        fan = {"ledger": str(tmp_path / "ledger"), "n": 1, "together": 1}
        assert Stepflow("ledger", redis_url=elsewhere).start("fan", fan).result(20) == [other.pid]
        assert other.process.poll() is None
        assert other.terminate() == 0
    finally:
        for worker in (here, other):
            worker.kill()
