"""Keys that are divided into partitions: what looks at many runs, or changes them, goes over all partitions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from stepflow import ConfigurationError, Context, RunStatus, Stepflow
from stepflow_broker.doctor.examine import examine
from stepflow_broker.doctor.server import examine_server
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.pauses import pause
from stepflow_broker.transitions.runs import bulk_cancel as bulk
from stepflow_broker.views import find_runs as find
from stepflow_broker.views.listings import read_queues
from stepflow_engine.errors import FunctionNotFoundError
from stepflow_engine.ids import run_id_for, with_partition_prefix
from tests.support.command_line import as_json, assert_refused, call, register
from tests.support.found_runs import found_runs
from tests.support.processes import until
from tests.support.roles import as_role

pytestmark = [
    pytest.mark.roles("producer", "operator"),
    pytest.mark.single_server("it looks at the keys of a server as they are"),
    pytest.mark.parametrize("partitions", [4]),
]
COUNT = 4


@pytest.fixture
def partition(app: Stepflow) -> Partition:
    return app.backend.partition


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    broker = Broker(as_role(url, "operator"))
    yield broker
    broker.close()


@pytest.fixture
def plain(url: str) -> Iterator[redis.Redis]:
    """A client that sees the keys as they are."""
    with redis.Redis.from_url(as_role(url, "admin").partition("?")[0], decode_responses=True) as client:
        yield client


@pytest.fixture
def started(app: Stepflow, partition: Partition, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs of a function that nobody serves, oldest first, in all partitions; pages are smaller than they are many."""

    @app.function("order")
    async def order(ctx: Context) -> None: ...

    monkeypatch.setattr(find, "_MOST", 3)
    monkeypatch.setattr(bulk, "_PAGE", 3)
    runs = [app.start(order, {"n": n}, id=f"order-{n}").id for n in range(40)]
    assert set(Counter(partition.of(run) for run in runs)) == set(partition.all)
    return runs


# -- lists ---------------------------------------------------------------------


def test_runs_of_all_partitions_are_listed_newest_first(
    broker: Broker, partition: Partition, started: list[str]
) -> None:
    found = [run.id for run in found_runs(broker, partition, limit=100)]
    assert set(found) == set(started)
    made = [run.created_at for run in found_runs(broker, partition, limit=100)]
    assert made == sorted(made, reverse=True)
    for limit in (1, 2, 5, 17, 39):
        assert [run.id for run in found_runs(broker, partition, limit=limit)] == found[:limit]


def test_a_list_goes_on_until_enough_runs_fit(
    app: Stepflow, broker: Broker, partition: Partition, started: list[str]
) -> None:
    for run in started[:4]:
        app.run(run).cancel()
    cancelled = found_runs(broker, partition, statuses=frozenset({RunStatus.CANCELLED}), limit=3)
    assert len(cancelled) == 3
    assert {run.id for run in cancelled} <= set(started[:4])
    with pytest.raises(FunctionNotFoundError, match="did you mean 'shop/order'"):
        found_runs(broker, partition, functions=("shop/ordr",), limit=3)


def test_queues_are_summed(broker: Broker, partition: Partition, started: list[str], url: str) -> None:
    (queue,) = read_queues(broker, partition)
    assert (queue.name, queue.ready_new) == ("shop", 40)
    assert as_json("queues", "--redis-url", url)[0]["ready_new"] == 40


def test_many_runs_are_cancelled_oldest_first(
    app: Stepflow, broker: Broker, partition: Partition, started: list[str]
) -> None:
    oldest = app.cancel_many(all=True, limit=7, dry_run=True)
    made = {run.id: run.created_at for run in found_runs(broker, partition, limit=100)}
    assert [made[run] for run in oldest] == sorted(made.values())[:7]
    assert app.cancel_many(all=True, limit=7) == oldest
    assert set(app.cancel_many(if_="event.data.n >= 38")) == set(started[38:]) - set(oldest)  # made within one ms
    assert len(app.cancel_many(all=True)) == 40 - 7 - 2
    assert app.cancel_many(all=True) == []


# -- pauses --------------------------------------------------------------------


def test_a_pause_goes_to_every_partition(app: Stepflow, partition: Partition, plain: redis.Redis) -> None:
    assert app.pause(queue="shop", reason="the stock is counted")
    assert {plain.hlen(one.keys("PAUSED")) for one in partition.all} == {1}
    (found,) = app.pauses()
    assert (found.subject, found.reason, found.complete) == ("queue shop", "the stock is counted", True)
    assert not app.pause(queue="shop", reason="still")
    assert app.resume(queue="shop")
    assert not app.resume(queue="shop")
    assert {plain.hlen(one.keys("PAUSED")) for one in partition.all} == {0}


def test_a_pause_that_was_cut_short_is_shown_and_completed_by_saying_it_again(
    app: Stepflow, broker: Broker, partition: Partition, url: str, plain: redis.Redis
) -> None:
    for one in partition.all[:2]:
        broker.execute(pause(one, "queue", "shop", reason="first"))
    assert [found.complete for found in app.pauses()] == [False]
    shown = call("pauses", "--redis-url", url)
    assert "queue shop is not paused in every partition" in shown.stderr
    assert as_json("pauses", "--redis-url", url)[0]["complete"] is False
    assert app.pause(queue="shop", reason="first")
    assert [found.complete for found in app.pauses()] == [True]
    broker.execute(pause(partition.all[3], "queue", "shop", reason="second"))
    assert [found.complete for found in app.pauses()] == [False]
    plain.delete(partition.all[1].keys("PAUSED"))
    assert app.resume(queue="shop")
    assert app.pauses() == []


# -- explain -------------------------------------------------------------------


def test_explain_follows_a_child_into_its_partition(app: Stepflow, partition: Partition, run_worker) -> None:
    @app.function("child", concurrency=1)
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("call", child)

    home = partition.of(child.config.pinned_partition + "0" * 28)
    ids = (f"run-{n}" for n in range(100))
    name = next(one for one in ids if partition.of(run_id_for(one, parent.name)) is not home)
    run_worker(app)
    run = app.start(parent, id=name)
    assert partition.of(run.id) is not home
    until(lambda: "step 'nap' sleeps" in str(run.explain()), what=f"the child's sleep, not {run.explain()}")
    (waits_for,) = run.explain().because
    (of_child,) = waits_for.because
    assert partition.of(of_child.subject) is home
    app.pause(child, reason="too fast")
    assert "too fast" in str(run.explain())


def test_a_place_on_a_queue_is_that_in_its_partition(
    app: Stepflow, broker: Broker, partition: Partition, started
) -> None:
    alone = with_partition_prefix("ffff", run_id_for("x"))
    places = {app.run(run).explain().because[0].text for run in started}
    ahead = sum(partition.of(run) is partition.of(alone) for run in started)
    assert any(text.startswith(f"number {ahead} on queue shop of its partition; no live worker") for text in places)


# -- doctor --------------------------------------------------------------------


def test_every_partition_is_examined_and_mended(
    app: Stepflow, broker: Broker, partition: Partition, started: list[str], plain: redis.Redis
) -> None:
    [no_worker] = examine(broker, partition)
    assert no_worker.code == "queue_unserved"
    lost = [next(run for run in started if partition.of(run) is one) for one in partition.all]
    for run in lost:
        plain.lrem(partition.of(run).keys("RQ_QUEUE", "shop"), 0, run)
    found = [finding for finding in examine(broker, partition, repair=True) if finding != no_worker]
    assert sorted(finding.subject for finding in found) == sorted(lost)
    assert {(finding.code, finding.repaired) for finding in found} == {("missing", True)}
    assert examine(broker, partition) == [no_worker]


def test_what_is_shared_is_found_once_and_what_is_of_a_partition_names_it(
    app: Stepflow, url: str, broker: Broker, partition: Partition, started: list[str], plain: redis.Redis
) -> None:
    register(url, app)
    plain.set(partition.all[2].keys("RQ_SUSPENDED"), 1)
    found = {finding.code: finding for finding in examine(broker, partition)}
    assert set(found) == {"queue_unserved", "suspended"}
    assert partition.all[2].tag[:-1] in found["suspended"].text
    codes = Counter(finding.code for finding in examine_server(broker, partition.keys))
    assert set(codes.values()) == {1}
    assert call("doctor", "--redis-url", url).returncode == 0


def test_a_wait_for_a_child_elsewhere_that_is_lost_is_found_and_ended(
    app: Stepflow, broker: Broker, partition: Partition, plain: redis.Redis, run_worker
) -> None:
    @app.function("child", concurrency=1)
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("call", child)
        except Exception as error:
            return type(error).__name__
        return "completed"

    home = partition.of(child.config.pinned_partition + "0" * 28)
    ids = (f"run-{n}" for n in range(100))
    name = next(one for one in ids if partition.of(run_id_for(one, parent.name)) is not home)
    run_worker(app)
    run = app.start(parent, id=name)
    until(lambda: "step 'nap' sleeps" in str(run.explain()), what="the child's sleep")
    until(lambda: not examine(broker, partition), what="rest")
    plain.delete(*plain.scan_iter(f"{home.tag}stepflow:*"))
    found = {finding.code for finding in examine(broker, partition, repair=True)}
    assert "child_missing" in found
    assert run.result(20) == "InvokeTimeoutError"


# -- the number ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_url_that_divides_the_keys_otherwise_is_refused(url: str, started: list[str], count: int) -> None:
    wrong = url.replace(f"partitions={COUNT}", f"partitions={count}")
    for words in (["runs", "list"], ["queues"], ["pauses"], ["doctor"], ["start", "shop/order"], ["runs", "show", "x"]):
        assert_refused(call(*words, "--redis-url", wrong), 3, f"divided into {COUNT} partitions", f"partitions={COUNT}")


def test_who_looks_first_decides_nothing(url: str, plain: redis.Redis) -> None:
    assert json.loads(call("runs", "list", "-o", "json", "--redis-url", url).stdout) == []
    assert plain.keys("*") == []
    with pytest.raises(ConfigurationError, match="is no number from 1 to 256"):
        Stepflow("shop", redis_url=url.replace("=4", "=0")).pauses()
