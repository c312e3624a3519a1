"""Many runs are run again by a bulk, which the workers execute: each once, at a rate, whichever workers die."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepflow import (
    Bulk,
    BulkNotFoundError,
    ConfigurationError,
    Context,
    Encryption,
    FilterError,
    ForkError,
    FunctionNotFoundError,
    RateLimit,
    Run,
    RunStatus,
    Stepflow,
)
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.views.audit import find_actions
from stepflow_broker.views.listings import read_workers
from tests.support.processes import WorkerProcess, until

pytestmark = pytest.mark.roles("producer", "operator")
both_layouts = pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
BANK = "tests.integration.apps.bank:app"


class Orders:
    """A function that fails as long as it is broken."""

    def __init__(self, app: Stepflow, **options: Any) -> None:
        self.app, self.broken = app, True

        @app.function("order", retries=0, **options)
        async def order(ctx: Context) -> str:
            price = await ctx.step.run("price", int, 12)
            if ctx.event.data.get("gift"):
                await ctx.step.run("wrap", str, "wrapped")
            return await ctx.step.with_options(retries=0).run("charge", self.charge, price)

        self.function = order

    def charge(self, price: int) -> str:
        if self.broken:
            raise ValueError("the bank is closed")
        return f"charged {price}"

    def failed(self, count: int, **data: object) -> list[Run[Any]]:
        """Runs that have failed."""
        runs = self.app.start_many(self.function, [data] * count)
        until(lambda: all(run.status() is RunStatus.FAILED for run in runs), what="the failures")
        return runs

    def forks(self) -> Counter[str]:
        """How many forks each run has that has any."""
        return Counter(run.listed.forked_from for run in self.app.runs(limit=None) if run.listed.forked_from)


# -- what is forked ------------------------------------------------------------


@both_layouts
@pytest.mark.parametrize("encryption", [None, Encryption(keys=[b"k" * 32])], ids=["plain", "encrypted"])
def test_failed_runs_are_retried_once_and_a_second_bulk_leaves_them_alone(
    url: str, run_worker: Callable[..., Any], encryption: Encryption | None
) -> None:
    orders = Orders(Stepflow("shop", redis_url=url, encryption=encryption))
    app = orders.app
    run_worker(app)
    run_worker(app)
    runs = orders.failed(12)
    orders.broken = False
    dry = app.fork_many(orders.function, dry_run=True)
    assert (dry.matched, dry.id, len(dry.sample)) == (12, "", 10)
    assert app.bulks() == []
    bulk = app.fork_many("order", per_second=500, reason="the bank is open")
    info = bulk.wait("30s")
    assert (info.state, info.matched, info.done, info.skipped, info.refused) == ("completed", 12, 12, 0, 0)
    assert (info.who, info.reason, info.per_second) == ("shop", "the bank is open", 500)
    assert orders.forks() == dict.fromkeys((run.id for run in runs), 1)
    forks = [run for run in app.runs(limit=None) if run.listed.forked_from]
    assert [run.result(30) for run in forks] == ["charged 12"] * 12
    again = app.fork_many("order", per_second=500).wait("30s")
    assert (again.done, again.skipped) == (0, 12)
    (reason,) = again.reasons
    assert (reason.outcome, reason.text, reason.count) == ("skipped", "the run was run again already", 12)
    assert sum(orders.forks().values()) == 12
    assert [one.id for one in app.bulks()] == [again.id, bulk.id]


def test_a_fork_names_its_bulk_and_the_audit_log_has_one_entry_for_all(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    orders = Orders(app)
    run_worker(app)
    (run, *_) = orders.failed(3)
    bulk = app.fork_many("order", per_second=500, reason="why")
    bulk.wait("30s")
    (fork,) = [one for one in app.runs(limit=None) if one.listed.forked_from == run.id]
    backend = app.backend
    record = backend.broker.execute(read_run(backend.partition, fork.id))
    assert record is not None
    assert record.forked_by == f"shop, bulk {bulk.id}: why"
    (action,) = run_operation(backend.broker, find_actions(backend.partition))
    assert (action.action, action.subject, action.details["bulk"]) == ("fork_many", "function shop/order", bulk.id)


def test_filters_a_limit_and_a_cut_select_and_shape_the_forks(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    orders = Orders(app)
    run_worker(app)
    plain, gifts = orders.failed(2), orders.failed(3, gift=True)
    assert app.fork_many("order", if_="event.data.gift == true", dry_run=True).matched == 3
    assert app.fork_many("order", error="the bank", limit=4, dry_run=True).matched == 4
    assert app.fork_many("order", error="KeyError", dry_run=True).matched == 0
    bulk = app.fork_many("order", before="wrap", per_second=500)
    info = bulk.wait("30s")
    assert (info.done, info.refused) == (3, 2)
    (reason,) = info.reasons
    assert reason.text == "fork_many: run … of shop/order has no step 'wrap'; its steps: 'price', 'charge'"
    assert (reason.outcome, reason.count, reason.run in {run.id for run in plain}) == ("refused", 2, True)
    assert set(orders.forks()) == {run.id for run in gifts}
    (fork, *_) = [run for run in app.runs(limit=None) if run.listed.forked_from]
    until(lambda: fork.status().ended)
    assert [step.id for step in fork.steps()] == ["price", "wrap", "charge"]


def test_completed_runs_are_run_again_from_the_start_or_from_a_step(
    app: Stepflow, run_worker: Callable[..., Any]
) -> None:
    orders = Orders(app)
    orders.broken = False
    run_worker(app)
    runs = app.start_many(orders.function, [{}] * 2)
    until(lambda: all(run.status().ended for run in runs))
    info = app.fork_many("order", status="completed", failed=False, per_second=500).wait("30s")
    assert (info.matched, info.done) == (2, 2)


def test_runs_that_are_forgotten_or_that_flow_control_skips_are_counted_as_skipped(
    app: Stepflow, run_worker: Callable[..., Any], client: Any
) -> None:
    orders = Orders(app, rate_limit=RateLimit(5, period="1h"))
    worker = run_worker(app)
    runs = orders.failed(4)
    worker.stop()
    bulk = app.fork_many("order", per_second=500)
    client.delete(app.backend.partition.run_key("RUN", runs[0].id))
    run_worker(app)
    info = bulk.wait("30s")
    assert (info.done, info.skipped, info.refused) == (1, 3, 0)
    texts = {reason.text: reason.count for reason in info.reasons}
    assert texts == {"the flow control of the function has skipped the new run": 2, "the run was forgotten": 1}


# -- how it goes on ------------------------------------------------------------


def test_a_bulk_without_workers_waits_for_one_that_has_the_function(
    app: Stepflow, url: str, run_worker: Callable[..., Any]
) -> None:
    orders, other = Orders(app), Orders(Stepflow("other", redis_url=url))
    worker = run_worker(app)
    orders.failed(2)
    worker.stop()
    bulk = app.fork_many("order")
    run_worker(other.app)
    other.failed(1)
    assert other.app.fork_many("order").wait("30s").done == 1
    assert (bulk.info().state, bulk.info().started_at, bulk.wait(0.01).ended) == ("running", None, False)
    run_worker(app)
    assert app.bulk(bulk.id).wait("30s").done == 2


def test_a_bulk_makes_no_backlog(app: Stepflow, run_worker: Callable[..., Any], client: Any) -> None:
    orders = Orders(app)
    serving = run_worker(app)
    orders.failed(60)
    serving.stop()
    run_worker(app, queues=("elsewhere",))
    bulk = app.fork_many("order", per_second=200)
    until(lambda: bulk.info().done == 50)
    until(lambda: client.llen(app.backend.partition.keys("RQ_QUEUE", "shop")) == 50)
    assert not bulk.wait("1s").ended
    assert bulk.info().done == 50
    run_worker(app)
    assert bulk.wait("30s").done == 60


def test_a_damaged_bulk_keeps_no_other_from_being_executed(
    app: Stepflow, run_worker: Callable[..., Any], client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    orders = Orders(app)
    worker = run_worker(app)
    orders.failed(2)
    worker.stop()
    damaged, unread, good = (app.fork_many("order") for _ in range(3))
    keys = app.backend.partition.all[0].keys
    client.hset(keys("BULK", damaged.id), "request", "[]")
    client.hset(keys("BULK", unread.id), "per_second", "fast")
    run_worker(app)
    assert good.wait("30s").done == 2
    until(lambda: caplog.text.count("bulk_interrupted") == 2)


def test_a_stopped_bulk_leaves_the_rest_alone(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    orders = Orders(app)
    run_worker(app)
    orders.failed(5)
    bulk = app.fork_many("order", per_second=0.1)
    until(lambda: bulk.info().done == 1)
    assert bulk.stop("enough")
    info = bulk.wait("5s")
    assert (info.state, info.done, info.stopped_by) == ("stopped", 1, "shop")
    assert not bulk.stop()
    assert sum(orders.forks().values()) == 1


def test_a_worker_that_stops_leaves_its_bulk_to_another(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    orders = Orders(app)
    worker = run_worker(app)
    runs = orders.failed(10)
    bulk = app.fork_many("order", per_second=5)
    until(lambda: bulk.info().done >= 1)
    worker.stop()
    assert bulk.info().worker == ""
    run_worker(app)
    assert bulk.wait("30s").done == 10
    assert orders.forks() == dict.fromkeys((run.id for run in runs), 1)


def test_the_asyncio_twins_do_the_same(app: Stepflow, run_worker: Callable[..., Any]) -> None:
    orders = Orders(app)
    run_worker(app)
    orders.failed(2)

    async def fork() -> None:
        bulk = await app.afork_many("order", per_second=500)
        assert (await bulk.await_end("30s")).done == 2
        assert (await (await app.abulk(bulk.id)).ainfo()).state == "completed"
        assert [one.id for one in await app.abulks()] == [bulk.id]
        assert not await bulk.astop()
        await app.aclose()

    asyncio.run(fork())


# -- bad input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"before": "charge", "failed": True}, ForkError, "contradict"),
        ({"failed": "no"}, ForkError, "failed must be True or False, got 'no'"),
        ({"dry_run": "no"}, ForkError, "dry_run must be True or False, got 'no'"),
        ({"before": ""}, ForkError, "before must be non-empty text"),
        ({"status": "completed"}, FilterError, "pass before="),
        ({"status": "running", "before": "charge"}, FilterError, "status must be one or several of completed"),
        ({"status": []}, FilterError, "status must be"),
        ({"per_second": 0}, ForkError, "per_second must be a number from 0.01 to 1,000, got 0"),
        ({"per_second": "many"}, ForkError, "got 'many'"),
        ({"limit": 0}, ForkError, "limit must be an integer >= 1"),
        ({"keys": "old"}, ForkError, "keys must be"),
        ({"children": "none"}, ForkError, "children must be"),
        ({"since": "soon"}, FilterError, "since must be"),
        ({"tags": {"tenant": 17}}, FilterError, "tenant"),
        ({"reason": 7}, ConfigurationError, "reason"),
    ],
)
def test_a_wrong_argument_starts_nothing(
    app: Stepflow, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    orders = Orders(app)
    with pytest.raises(error, match=text):
        app.fork_many(orders.function, **arguments)
    assert app.bulks() == []


def test_a_function_or_a_bulk_that_does_not_exist_is_an_error(app: Stepflow) -> None:
    with pytest.raises(FunctionNotFoundError):
        app.fork_many("nobody")
    for call in (lambda: app.bulk("b1"), Bulk(app.backend, "b1", matched=1).stop):
        with pytest.raises(BulkNotFoundError, match="b1"):
            call()
    orders = Orders(app)
    with pytest.raises(ForkError, match="dry run"):
        app.fork_many(orders.function, dry_run=True).info()


# -- deaths --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "per_second", "kill_every_s"),
    [
        pytest.param(600, 300, 0.0, id="the-holder-once", marks=pytest.mark.slow),
        pytest.param(3_000, 300, 3.0, id="one-every-3-s", marks=pytest.mark.slow),
    ],
)
def test_each_run_is_forked_once_and_none_is_lost_while_workers_are_killed(
    url: str,
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Path,
    count: int,
    per_second: int,
    kill_every_s: float,
) -> None:
    app, closed = Stepflow("bank", redis_url=url), tmp_path / "closed"
    closed.touch()
    names = (f"bank-{number}" for number in itertools.count())
    workers = {name: start_worker(BANK, name=name) for name in itertools.islice(names, 3)}
    backend = app.backend
    until(lambda: len(read_workers(backend.broker, backend.partition)) == 3, what="the workers' start")
    for first in range(0, count, 1_000):
        app.start_many("order", [{"closed": str(closed)}] * min(1_000, count - first))
    until(lambda: app.fork_many("order", dry_run=True).matched == count, seconds=240, what="the failures")
    closed.unlink()

    bulk = app.fork_many("order", per_second=per_second)
    kills = 0
    while not (info := bulk.wait(kill_every_s or 0.05)).ended:
        victim = info.worker if not kill_every_s else next(iter(workers))
        if victim in workers and info.done and (kill_every_s or not kills):
            workers.pop(victim).kill()
            name = next(names)
            workers[name] = start_worker(BANK, name=name)
            kills += 1
    assert kills >= (3 if kill_every_s else 1)
    assert (info.state, info.matched, info.done, info.skipped, info.refused) == ("completed", count, count, 0, 0)

    until(lambda: len(list(app.runs("order", status="completed", limit=None))) == count, seconds=240, what="the forks")
    every = list(app.runs("order", limit=None))
    assert len(every) == 2 * count
    forks = Counter(run.listed.forked_from for run in every if run.listed.forked_from)
    assert forks == Counter(run.id for run in every if run.listed.status is RunStatus.FAILED)
