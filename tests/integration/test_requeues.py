"""Failed runs that RQ's own tools requeue are retried, once for each requeue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from rq.cli import main as rq_command
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from stepflow import BackendUnavailableError, Batch, Context, Encryption, Run, RunFailedError, RunStatus, Stepflow
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.transitions.runs.run_record import read_run
from tests.support.processes import until
from tests.support.roles import as_role

pytestmark = pytest.mark.single_server("RQ's own tools know nothing of partitions")


Requeue = Callable[..., None]


class Orders:
    """A function that fails as long as it is broken, and how often its steps were executed."""

    def __init__(self, app: Stepflow) -> None:
        self.app, self.broken, self.done = app, True, list[str]()

        @app.function("order", retries=0)
        async def order(ctx: Context) -> str:
            await ctx.step.run("price", self.note, "price")
            return await ctx.step.with_options(retries=0).run("charge", self.charge)

        self.function = order

    def note(self, name: str) -> None:
        self.done.append(name)

    def charge(self) -> str:
        self.note("charge")
        if self.broken:
            raise ValueError("the bank is closed")
        return "charged"

    def failed(self) -> Run[Any]:
        run = self.app.start(self.function)
        with pytest.raises(RunFailedError):
            run.result(30)
        return run

    def forks(self, run: Run[Any]) -> tuple[str, ...]:
        backend = self.app.backend
        record = backend.broker.execute(read_run(backend.partition, run.id))
        assert record is not None
        return record.forks


@pytest.fixture
def connection(url: str) -> Iterator[redis.Redis]:
    """A connection as RQ has them."""
    with redis.Redis.from_url(as_role(url, "admin")) as found:
        yield found


def requeue(connection: redis.Redis, *run_ids: str) -> None:
    """What ``rq requeue`` and the buttons of dashboards do."""
    for run_id in run_ids:
        job = Job.fetch(run_id, connection=connection, serializer=JSONSerializer)
        FailedJobRegistry(job.origin, connection=connection, serializer=JSONSerializer).requeue(job)


def requeue_by_command(connection: redis.Redis, *run_ids: str) -> None:
    """The command itself."""
    where = connection.get_connection_kwargs()
    user = f"{where['username']}:{where['password']}@" if where.get("username") else ""
    server = ("--url", f"redis://{user}{where['host']}:{where['port']}")
    done = CliRunner().invoke(rq_command, ["requeue", "--queue", "shop", "--serializer", "json", *server, *run_ids])
    assert done.exit_code == 0, done.output


def failed_jobs(connection: redis.Redis) -> list[str]:
    return FailedJobRegistry("shop", connection=connection, serializer=JSONSerializer).get_job_ids()


@pytest.mark.parametrize(
    ("encryption", "requeue"),
    [(None, requeue_by_command), (Encryption(keys=[b"k" * 32]), requeue)],
    ids=["plain", "encrypted"],
)
def test_a_requeued_run_is_retried_once_for_each_requeue(
    url: str, run_worker: Callable[..., Any], connection: redis.Redis, encryption: Encryption | None, requeue: Requeue
) -> None:
    orders = Orders(Stepflow("shop", redis_url=url, encryption=encryption))
    run_worker(orders.app)
    run_worker(orders.app)
    run = orders.failed()
    assert failed_jobs(connection) == [run.id]
    orders.broken = False
    requeue(connection, run.id)
    until(lambda: orders.forks(run))
    (again,) = orders.forks(run)
    assert orders.app.run(again).result(30) == "charged"
    assert orders.done == ["price", "charge", "charge"]
    assert run.status() is RunStatus.FAILED
    until(lambda: not connection.exists(orders.app.backend.partition.keys("REQUEUED")))
    assert failed_jobs(connection) == []
    assert not Job.exists(run.id, connection=connection)


def test_a_retry_that_fails_can_be_requeued_as_well(
    app: Stepflow, run_worker: Callable[..., Any], connection: redis.Redis
) -> None:
    orders = Orders(app)
    run_worker(app)
    run = orders.failed()
    requeue(connection, run.id)
    until(lambda: len(failed_jobs(connection)) == 1 and failed_jobs(connection) != [run.id])
    (second,) = failed_jobs(connection)
    assert orders.forks(run) == (second,)
    orders.broken = False
    requeue(connection, second)
    until(lambda: orders.forks(app.run(second)))
    assert app.run(orders.forks(app.run(second))[0]).result(30) == "charged"


def test_failed_runs_of_a_batch_are_requeued_with_all_others(
    app: Stepflow, run_worker: Callable[..., Any], connection: redis.Redis
) -> None:
    orders = Orders(app)

    @app.function("store", batch=Batch(2, "1m"), retries=0)
    async def store(ctx: Context) -> int:
        if orders.broken:
            raise ValueError("the store is closed")
        return len(ctx.events)

    run_worker(app)
    members = app.start_many(store, [1, 2])
    for run in members:
        with pytest.raises(RunFailedError):
            run.result(30)
    alone = orders.failed()
    orders.broken = False
    requeue_by_command(connection, "--all")
    until(lambda: all(orders.forks(run) for run in (*members, alone)))
    assert [app.run(orders.forks(run)[0]).result(30) for run in (*members, alone)] == [2, 2, "charged"]


def test_a_run_that_cannot_be_retried_is_a_failed_job_again(
    app: Stepflow, run_worker: Callable[..., Any], connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    orders = Orders(app)
    run_worker(app)
    run = orders.failed()
    memos = app.backend.partition.run_key("MEMOS", run.id)
    for key in connection.hkeys(memos):
        connection.hset(memos, key, b"not a memo")
    requeue(connection, run.id)
    until(lambda: "requeue_refused" in caplog.text)
    assert failed_jobs(connection) == [run.id]
    job = Job.fetch(run.id, connection=connection, serializer=JSONSerializer)
    assert job.get_status() is JobStatus.FAILED
    assert connection.ttl(job.key) > 0
    assert orders.forks(run) == ()


def test_a_worker_without_the_function_leaves_a_requeue_to_one_that_has_it(
    app: Stepflow, url: str, run_worker: Callable[..., Any], connection: redis.Redis
) -> None:
    orders = Orders(app)
    first = run_worker(app)
    run = orders.failed()
    first.stop()
    other = Stepflow("post", redis_url=url)

    @other.function("mail", queue="shop")
    async def mail(ctx: Context) -> None:
        pass

    run_worker(other)
    requeue(connection, run.id)
    requeued = app.backend.partition.keys("REQUEUED")
    until(lambda: connection.hexists(requeued, run.id))
    other.start(mail).result(30)
    assert orders.forks(run) == ()
    orders.broken = False
    run_worker(app)
    until(lambda: not connection.exists(requeued))
    assert app.run(orders.forks(run)[0]).result(30) == "charged"


@pytest.mark.slow
@pytest.mark.parametrize("settled", [False, True], ids=["before", "after"])
def test_a_worker_that_dies_with_a_requeue_leaves_it_to_another(
    app: Stepflow,
    run_worker: Callable[..., Any],
    connection: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    settled: bool,
) -> None:
    orders = Orders(app)
    run_worker(app)
    run = orders.failed()
    orders.broken = False
    lost: list[str] = []
    execute = AsyncBroker.execute

    async def dying(self: AsyncBroker, call: Any) -> Any:
        if call.script is not None and call.script.name == "settle_requeue" and len(lost) < 2:
            if settled:
                await execute(self, call)
            lost.append(run.id)
            raise BackendUnavailableError("the server does not answer")
        return await execute(self, call)

    monkeypatch.setattr(AsyncBroker, "execute", dying)
    requeue(connection, run.id)
    until(lambda: len(lost) == (1 if settled else 2) and not connection.exists(app.backend.partition.keys("REQUEUED")))
    assert len(orders.forks(run)) == 1
    assert app.run(orders.forks(run)[0]).result(30) == "charged"
