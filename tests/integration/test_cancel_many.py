"""Many runs are cancelled at once by what they have in common, with real workers beside it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from stepflow import (
    ConfigurationError,
    Context,
    Function,
    InvokeCancelledError,
    RunCancelledError,
    RunStatus,
    Stepflow,
    SyncContext,
)
from tests.support.command_line import register
from tests.support.processes import WorkerThread, until

pytestmark = [
    pytest.mark.roles("producer", "operator"),
    pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"]),
]


@pytest.fixture
def order(app: Stepflow) -> Function[Any, Any]:
    @app.function("order")
    async def order(ctx: Context) -> None:
        await ctx.step.sleep("until it is called for", "1h")

    return order


@pytest.fixture
def mail(app: Stepflow) -> Function[Any, Any]:
    @app.function("mail")
    async def mail(ctx: Context) -> None: ...

    return mail


def live(client: redis.Redis) -> set[str]:
    return set(client.zrange("stepflow:live", 0, -1))


def test_runs_of_a_function_are_cancelled_and_others_are_left(app, order, mail, client) -> None:
    orders = [app.start(order, {"n": n}).id for n in range(3)]
    mails = [app.start(mail).id for _ in range(2)]
    assert set(app.cancel_many(order, reason="sold out")) == set(orders)
    assert live(client) == set(mails)
    with pytest.raises(RunCancelledError, match="was cancelled: sold out"):
        app.run(orders[0]).result(5)


def test_a_function_is_named_by_itself_by_its_id_or_by_app_and_id(app, order, mail, url) -> None:
    other = Stepflow("other", redis_url=url)
    for by, canceller in ((order, app), ("order", app), ("shop/order", app), (order, other), ("shop/order", other)):
        runs = [app.start(order).id, app.start(mail).id]
        assert canceller.cancel_many(by) == runs[:1]
    assert other.cancel_many("order") == []


def test_without_a_function_all_runs_of_this_app_are_cancelled_and_of_no_other(app, order, mail, url, client) -> None:
    other = Stepflow("other", redis_url=url)

    @other.function("order")
    async def theirs(ctx: Context) -> None: ...

    left = other.start(theirs).id
    runs = {app.start(order).id, app.start(mail).id}
    assert set(app.cancel_many(all=True)) == runs
    assert live(client) == {left}


def test_a_dry_run_names_what_would_be_cancelled_and_cancels_nothing(app, order, client) -> None:
    runs = {app.start(order).id for _ in range(120)}
    assert set(app.cancel_many(order, dry_run=True)) == runs == live(client)
    assert set(app.cancel_many(order)) == runs
    assert app.cancel_many(order) == []


def test_runs_are_cancelled_by_their_event_and_up_to_a_limit(app, order, client) -> None:
    runs = [app.start(order, {"tenant": n % 4}).id for n in range(80)]
    assert set(app.cancel_many(if_="event.data.tenant == 1")) == set(runs[1::4])
    few = app.cancel_many(order, if_="event.data.tenant == 2", limit=7)
    assert len(few) == 7
    assert set(few) < set(runs[2::4])
    assert len(live(client)) == 80 - 20 - 7


def test_runs_are_cancelled_by_the_time_at_which_they_were_made(app, order, client) -> None:
    def start() -> tuple[str, datetime]:
        before = client.time()
        until(lambda: client.time() > (before[0], before[1] + 2_000), what="another millisecond")
        run = app.start(order).id
        made_at = float(client.hget(f"stepflow:run:{run}", "created_at"))
        return run, datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=made_at)

    (first, _), (second, at), (third, _) = start(), start(), start()
    assert app.cancel_many(created_after=at + timedelta(hours=1)) == []
    assert app.cancel_many(created_before=at - timedelta(hours=1)) == []
    assert app.cancel_many(created_after=at, created_before=at) == []
    assert app.cancel_many(created_before=at, dry_run=True) == [first]
    assert app.cancel_many(created_before=at + timedelta(microseconds=1), dry_run=True) == [first, second]
    assert app.cancel_many(created_after=at, dry_run=True) == [second, third]
    assert app.cancel_many(created_after=at - timedelta(microseconds=1), limit=1) == [second]


def test_runs_are_cancelled_by_their_status(app, order, mail, client, run_worker) -> None:
    asleep = app.start(order)
    worker: WorkerThread = run_worker(app)
    until(lambda: asleep.status() is RunStatus.WAITING, what="the sleep")
    worker.stop()
    queued = app.start(mail)
    assert app.cancel_many(statuses=["running"]) == []
    assert app.cancel_many(statuses=RunStatus.QUEUED) == [queued.id]
    assert app.cancel_many(statuses={RunStatus.QUEUED, "waiting"}) == [asleep.id]
    assert live(client) == set()


def test_a_handler_that_is_executed_ends_and_its_result_is_dropped(app, client, run_worker) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(30)
        ended.set()

    @app.function("ship")
    def ship(ctx: SyncContext) -> None:
        ctx.step.run("slow", slow)

    run_worker(app)
    run = app.start(ship)
    assert begun.wait(30)
    assert app.cancel_many(ship, statuses=["running"]) == [run.id]
    assert not ended.is_set()
    go.set()
    assert ended.wait(30)
    until(lambda: not client.zcard("stepflow:leases"), what="the end of the lease")
    assert run.status() is RunStatus.CANCELLED
    assert not client.exists(f"stepflow:memos:{run.id}")


@pytest.mark.parametrize("children", [True, False])
def test_children_are_cancelled_with_their_parents_or_left(app, order, client, run_worker, children: bool) -> None:
    @app.function("main")
    async def main(ctx: Context) -> None:
        await ctx.step.invoke("call", order)

    run_worker(app)
    runs = [app.start(main).id for _ in range(3)]
    until(lambda: client.zcard("stepflow:live") == 6, what="the children")
    assert set(app.cancel_many(main, children=children)) == set(runs)
    assert len(live(client)) == (0 if children else 3)


def test_all_of_a_family_are_named_when_all_fit(app, order, client, run_worker) -> None:
    @app.function("main")
    async def main(ctx: Context) -> None:
        await ctx.step.invoke("call", order)

    run_worker(app)
    app.start_many(main, [None] * 40)
    until(lambda: client.zcard("stepflow:live") == 80, what="the children")
    would = app.cancel_many(all=True, dry_run=True)
    assert len(would) == 80
    assert app.cancel_many(all=True) == would
    assert live(client) == set()


def test_a_parent_that_does_not_fit_is_told(app, order, run_worker) -> None:
    @app.function("main")
    async def main(ctx: Context) -> str:
        try:
            await ctx.step.invoke("call", order)
        except InvokeCancelledError as error:
            return error.message
        return "not cancelled"

    run_worker(app)
    run = app.start(main)
    until(lambda: app.cancel_many(order, reason="sold out"), what="the child")
    assert run.result(30) == "sold out"


def test_runs_that_end_meanwhile_are_not_named(app, mail, run_worker) -> None:
    run_worker(app)
    runs = [run for _ in range(4) for run in app.start_many(mail, [None] * 500)]
    until(lambda: runs[0].status() is RunStatus.COMPLETED, what="the end of a run")
    named = set(app.cancel_many(mail))
    until(lambda: not app.cancel_many(all=True, dry_run=True), what="the end of all runs")
    assert named == {run.id for run in runs if run.status() is RunStatus.CANCELLED}
    assert {run.status() for run in runs if run.id not in named} <= {RunStatus.COMPLETED}


async def test_the_same_without_blocking_the_event_loop(app, order, url) -> None:
    register(url, app)
    runs = await app.astart_many(order, [{"tenant": n % 2} for n in range(120)])
    ones = {run.id for run in runs[1::2]}
    assert set(await app.acancel_many(order, if_="event.data.tenant == 1", dry_run=True)) == ones
    assert set(await app.acancel_many("order", if_="event.data.tenant == 1", reason="sold out")) == ones
    with pytest.raises(RunCancelledError, match="sold out"):
        await runs[1].aresult(5)
    assert await runs[0].astatus() is RunStatus.QUEUED
    with pytest.raises(ConfigurationError, match="limit must be an integer"):
        await app.acancel_many(limit=0)
    await app.aclose()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"if_": "event.data.tenant ="}, "is not CEL"),
        ({"if_": ""}, "expression must be non-empty text"),
        ({"statuses": ["queued", "completed"]}, "statuses must be of live runs: queued, running"),
        ({"statuses": "asleep"}, "got 'asleep'"),
        ({"created_before": datetime(2026, 1, 1)}, "created_before must be a datetime with a time zone"),
        ({"created_after": "2h"}, "created_after must be a datetime with a time zone"),
        ({"reason": "\udcff"}, "reason must be valid Unicode"),
        ({"reason": "no" * 10_000}, "reason must be at most 10,240 bytes, got 20,000"),
        ({"limit": 0}, "limit must be an integer >= 1"),
        ({"limit": True}, "got True"),
        ({"function": ""}, "function id must be non-empty text"),
        ({"function": "shop/"}, "function id must be non-empty text"),
        ({"function": "/order"}, "app id must be non-empty text"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_cancelled(app, order, options: dict[str, Any], part: str) -> None:
    run = app.start(order)
    with pytest.raises(ConfigurationError) as caught:
        app.cancel_many(**options)
    assert part in str(caught.value)
    assert run.status() is RunStatus.QUEUED


def test_something_that_is_no_function_is_refused(app: Stepflow) -> None:
    with pytest.raises(ConfigurationError, match="function must be a function or an id, got int"):
        app.cancel_many(17)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"statuses": []}, {"dry_run": True}])
async def test_a_call_without_a_filter_is_refused_and_says_what_to_write(
    app: Stepflow, order, options: dict[str, Any]
) -> None:
    run = app.start(order)
    with pytest.raises(ConfigurationError, match=r"a filter is missing: .* or all=True"):
        app.cancel_many(**options)
    with pytest.raises(ConfigurationError, match=r"a filter is missing: .* or all=True"):
        await app.acancel_many(**options)
    assert run.status() is RunStatus.QUEUED


def test_all_and_a_filter_exclude_each_other(app: Stepflow, order) -> None:
    run = app.start(order)
    with pytest.raises(ConfigurationError, match="all=True cannot be combined with a filter"):
        app.cancel_many(order, all=True)
    assert run.status() is RunStatus.QUEUED
