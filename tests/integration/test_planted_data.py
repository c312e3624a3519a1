"""A stranger's data in every key and field that is read: nothing is unpickled, and no worker dies of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stepflow import Stepflow, StepflowError
from stepflow_broker.protocol.keys import KEYS
from stepflow_broker.redis_client.partitions import keys_for
from stepflow_cli.exit_codes import ExitCode, exit_code
from stepflow_cli.main import stepflow
from tests.integration.apps.planted import app as planted
from tests.support.partition_merging_client import whole_client
from tests.support.processes import WorkerProcess, until

pytestmark = pytest.mark.slow

APP = "tests.integration.apps.planted:app"
QUEUE = "planted"


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


@pytest.fixture
def fuse(tmp_path: Path) -> Path:
    """The file that nobody may make."""
    return tmp_path / "unpickled"


@pytest.fixture
def bomb(fuse: Path) -> bytes:
    """A pickle that makes the file; that it does is seen here."""
    packed = pickle.dumps(Bomb(fuse))
    os.close(pickle.loads(packed))
    fuse.unlink()
    return packed


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A client that shows every byte as a character."""
    with whole_client(url, encoding="latin-1") as client:
        yield client


def plants(raw: Any, run_id: str, bomb: bytes) -> Iterator[Callable[[str], object]]:
    """All ways to plant the bomb in what belongs to a run: each takes the id of another run that is like this one."""
    for kind in ("run", "steps", "memos"):
        for field in raw.hkeys(f"stepflow:{kind}:{run_id}"):
            yield lambda run, kind=kind, field=field: raw.hset(f"stepflow:{kind}:{run}", field, bomb)
        yield lambda run, kind=kind: raw.hset(f"stepflow:{kind}:{run}", bomb, bomb)
        yield lambda run, kind=kind: raw.set(f"stepflow:{kind}:{run}", bomb)
    yield lambda run: raw.rpush(f"stepflow:memo-order:{run}", bomb)
    yield lambda run: raw.set(f"stepflow:memo-order:{run}", bomb)
    for step in [key.rpartition(":")[2] for key in raw.keys(f"stepflow:timeout:{run_id}:*")]:
        yield lambda run, step=step: raw.set(f"stepflow:timeout:{run}:{step}", bomb)


def add(raw: Any, key: str, bomb: bytes) -> None:
    """Put the bomb beside what a key has."""
    match raw.type(key):
        case "hash":
            raw.hset(key, bomb, bomb)
        case "list":
            raw.lpush(key, bomb)
        case "set":
            raw.sadd(key, bomb)
        case "zset":
            for prefix in (b"", b"job:", b"wait:", b"wait:x:", b"resume:", b"start:", b"finish:"):
                raw.zadd(key, {prefix + bomb: 1})
        case "stream":
            for fields in (
                {"event": bomb, "id": bomb, "dedupe": bomb},
                {bomb: bomb},
                {"run": bomb},
                {"batch": bomb},
            ):
                raw.xadd(key, fields)


def plant_jobs(raw: Any, bomb: bytes) -> None:
    """Jobs as RQ would have them with its own serializer, and as ours might be changed into."""
    for number, data in enumerate((bomb, zlib.compress(bomb))):
        job = f"stranger-{number}"
        fields = dict.fromkeys(("data", "meta", "result", "exc_info", "description", "args", "dependency_ids"), data)
        raw.hset(f"rq:job:{job}", mapping={**fields, "origin": QUEUE, "status": "queued", "created_at": "x"})
        raw.lpush(f"rq:queue:{QUEUE}", job)
        raw.zadd(f"rq:wip:{QUEUE}", {f"{job}:1": 1, job: 1})
        raw.zadd(f"rq:failed:{QUEUE}", {job: 2**40})
    for job in raw.keys("rq:job:*"):
        if "stranger" not in job:
            raw.hset(job, mapping={"data": zlib.compress(bomb), "meta": bomb})


def channels(url: str, worker: str) -> list[str]:
    subjects, names = {"NOTIFICATIONS": worker, "RUN_ENDED": "run"}, [key.name for key in KEYS if key.type == "channel"]
    ours = [keys(name, subjects.get(name, "")) for keys in keys_for(url).all for name in names]
    return [*ours, f"rq:pubsub:{worker}"]


def commands(url: str, *words: str) -> str:
    """What a command says; it ends with a known error or none."""
    done = CliRunner().invoke(stepflow, [*words], env={"STEPFLOW_REDIS_URL": url}, standalone_mode=False)
    if isinstance(done.exception, Exception):
        assert exit_code(done.exception) is not ExitCode.INTERNAL, (words, repr(done.exception))
        return str(done.exception)
    return done.output


def test_a_pickle_in_every_place_is_data_and_no_worker_dies_of_it(
    url: str, raw: Any, bomb: bytes, fuse: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    app = Stepflow("planted", redis_url=url)
    app.functions.update(planted.functions)
    numbers = itertools.count()
    first = start_worker(APP, name="first", backoff=(600_000, 600_000))

    def parked(count: int) -> list[str]:
        runs = [run.id for run in app.start_many("main", [{"n": next(numbers)} for _ in range(count)])]
        until(lambda: all(raw.hlen(f"stepflow:steps:{run}") >= 20 for run in runs), what="the runs to be parked")
        until(lambda: all(raw.hget(f"stepflow:run:{run}", "status") == "waiting" for run in runs), what="the waits")
        return runs

    (sample,) = parked(1)
    ways = list(plants(raw, sample, bomb))
    runs = parked(len(ways))
    for function in ("alone", "batched"):
        app.start(function, {"n": 1})
    until(lambda: raw.keys("stepflow:singleton:*") and raw.keys("stepflow:batch:*"), what="the other runs")
    until(lambda: raw.exists("stepflow:cron"), what="the schedule")
    first.kill()
    queued = [app.start("main", {"n": next(numbers)}).id for _ in range(3)]
    for way, run in zip(ways, runs, strict=True):
        way(run)
    raw.hset("stepflow:functions", "planted/child", bomb)
    plant_jobs(raw, bomb)
    shared = [key for key in raw.keys("*") if not any(kind in key for kind in (":run:", ":memos:", ":steps:"))]
    for key in shared:
        add(raw, key, bomb)
    for key in ("stepflow:idempotency:x", "stepflow:singleton:x", "stepflow:throttle:x"):
        raw.set(key, bomb)
    raw.hset("stepflow:paused", "queue elsewhere", bomb)
    for kind in ("debounce", "batch"):
        for key in raw.keys(f"stepflow:{kind}:*"):
            raw.hset(key, mapping=dict.fromkeys(raw.hkeys(key), bomb))

    for words in (["doctor"], ["runs", "list", "--limit", "500"], ["functions"], ["workers"], ["queues"], ["pauses"]):
        commands(url, *words)
    worker = start_worker(APP, name="second", backoff=(20, 100))
    until(lambda: raw.hget("rq:worker:second", "state"), what="the worker")
    for channel in channels(url, "second"):
        for text in (bomb, b"memo " + bomb, b"cancel " + bomb, b"memo r 1 " + bomb):
            raw.publish(channel, text)
    raw.set("stepflow:functions:version", bomb)  # nothing is routed meanwhile, and the worker says so
    app.send("go", {"n": 2})
    until(lambda: b"routing_interrupted" in worker.log.read_bytes(), what="the version that is none")
    raw.delete("stepflow:functions:version")
    app.send("go", {"n": 1})
    for run in runs[::8]:
        with contextlib.suppress(StepflowError):
            app.run(run).cancel()
    lives = app.start("echo", "I live")
    assert lives.result(60) == "I live"
    until(lambda: b"event_dropped" in worker.log.read_bytes(), what="the strange events")
    for run in (*runs[::3], *queued, bomb.decode("latin-1")):
        commands(url, "runs", "show", run)
        commands(url, "explain", run)
    for words in (["doctor", "-o", "json"], ["doctor", "--repair"], ["runs", "list", "-o", "json"], ["workers"]):
        commands(url, *words)
    assert worker.process.poll() is None
    assert app.start("echo", "still").result(60) == "still"
    raw.flushall()
    assert app.start("echo", "and afterwards").result(60) == "and afterwards"
    assert worker.process.poll() is None, "the worker died"
    assert not fuse.exists(), "something was unpickled"
