"""Runs are found by function, status, tags, time, error, event, parent, batch and id; and are read by their handles."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepflow import (
    Batch,
    Context,
    DecryptionError,
    Encryption,
    EventError,
    FilterError,
    FunctionNotFoundError,
    NonRetriableError,
    RunNotFoundError,
    RunStatus,
    Stepflow,
    StepUsageError,
    SyncContext,
)
from stepflow_broker.views import find_runs
from tests.support.command_line import call
from tests.support.processes import until

pytestmark = [
    pytest.mark.roles("producer", "operator"),
    pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"]),
]
FOREVER = "z" * 129


def shop(app: Stepflow) -> None:
    """Functions that complete, that fail, and that invoke."""

    @app.function(
        "order", event="shop/order", retries=0, tags={"tenant": "event.data.tenant", "rush": "event.data.rush"}
    )
    async def order(ctx: Context) -> int:
        if ctx.event.data.get("bad"):
            await ctx.step.run(f"charge-{ctx.event.data['bad']}", refuse, ctx.event.data["bad"])
        ctx.tag("stage", "done")
        return int(ctx.event.data.get("n", 0))

    @app.function("parent")
    async def parent(ctx: Context) -> int:
        return await ctx.step.invoke("call", "order", {"n": 5, "tenant": "child"})


async def refuse(number: int) -> None:
    raise NonRetriableError(f"card {number} of 'bob' is not valid")


def ids(found: Any) -> list[str]:
    return [run.id for run in found]


def ended(app: Stepflow, count: int) -> None:
    """Wait for the end of so many runs."""
    until(lambda: len(list(app.runs(status=["completed", "failed"]))) == count, what=f"{count} runs to end")


def test_the_newest_runs_come_first_page_by_page(app: Stepflow) -> None:
    @app.function("order")
    async def order(ctx: Context) -> None: ...

    started = {run.id for run in app.start_many(order, range(23))}
    assert {run.id for run in app.runs(limit=None)} == started
    found, cursor = [], None
    while True:
        page = app.runs("order", limit=5, cursor=cursor)
        assert page.next_cursor is None
        found += [run.listed for run in page]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert {info.id for info in found if info} == started
    assert len(found) == 23
    order_of = [(info.created_at, info.id) for info in found if info]
    assert order_of == sorted(order_of, reverse=True)


def test_runs_are_found_by_their_properties(app: Stepflow, run_worker) -> None:
    shop(app)
    began = datetime.now(UTC) - timedelta(seconds=1)
    fine = app.start("order", {"n": 1, "tenant": 17, "rush": True})
    bad = [app.start("order", {"n": 2, "tenant": "acme", "bad": n}) for n in (101, 202)]
    parent = app.start("parent", id="import-1")
    run_worker(app)
    ended(app, 5)
    [child] = parent.children()
    assert ids(app.runs(tags={"tenant": 17})) == ids(app.runs(tags={"rush": True, "tenant": "17"})) == [fine.id]
    assert ids(app.runs(tags={"stage": "done", "tenant": 17})) == [fine.id]
    assert set(ids(app.runs("order", status="failed"))) == set(ids(bad))
    assert set(ids(app.runs(status=[RunStatus.FAILED]))) == set(ids(bad))
    assert ids(app.runs(parent=parent)) == ids(app.runs(parent=parent.id)) == [child.id]
    assert ids(app.runs(parent=child)) == []
    assert ids(app.runs(if_="event.data.n == 1")) == [fine.id]
    assert set(ids(app.runs(error="NonRetriableError"))) == set(ids(app.runs(error="is not valid"))) == set(ids(bad))
    assert ids(app.runs(error="card 101")) == [bad[0].id]
    assert len(ids(app.runs(since=began))) == len(ids(app.runs(since="1h"))) == 5
    assert ids(app.runs(until=began)) == ids(app.runs(until=timedelta(hours=1))) == []
    assert ids(app.runs(id=fine.id[:20])) == [fine.id]
    assert app.run(function="parent", id="import-1").id == parent.id
    assert ids(app.runs(event="import-1")) == [parent.id]
    group = bad[0].info().error_group
    assert group == bad[1].info().error_group
    assert set(ids(app.runs(error=group))) == set(ids(bad))
    assert ids(app.runs(error=group, if_="event.data.bad == 202")) == [bad[1].id]


def test_errors_that_are_alike_are_counted(app: Stepflow, run_worker) -> None:
    shop(app)
    for number in (1, 22, 333):
        app.start("order", {"bad": number})
    run_worker(app)
    ended(app, 3)
    [group] = app.error_groups()
    assert [run.id for run in app.runs(error=group)] == [run.id for run in app.runs(error=group.id)] != []
    assert (group.function, group.name, group.count) == ("shop/order", "NonRetriableError", 3)
    assert group.step.startswith("charge-")
    assert "of 'bob' is not valid" in group.message
    assert asyncio.run(app.aerror_groups("order")) == [group]
    assert app.error_groups(since=timedelta(seconds=0)) == []


def test_a_run_and_its_steps_are_read_by_its_handle(app: Stepflow, run_worker) -> None:
    shop(app)
    run = app.start("parent")
    run_worker(app)
    assert run.result(timeout="30s") == run.output == 5
    info = run.info()
    assert (info.id, info.function, info.status, info.error) == (run.id, "shop/parent", "completed", None)
    assert info.created_at <= info.started_at <= info.ended_at  # type: ignore[operator]
    assert info.created_at.tzinfo is UTC
    [step] = run.steps()
    [child] = run.children()
    assert (step.id, step.kind, step.state, step.output, step.run_id) == ("call", "invoke", "done", 5, child.id)
    assert child.listed is not None
    assert (child.listed.parent, child.listed.tags) == (run.id, {"tenant": "child", "stage": "done"})
    assert child.event.data == {"n": 5, "tenant": "child"}


def test_children_that_outlive_their_parent_are_found(app: Stepflow, url: str, run_worker) -> None:
    @app.function("child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("call", child)

    @app.function("grandparent")
    async def grandparent(ctx: Context) -> None:
        await ctx.step.invoke("call", parent)

    run = app.start(grandparent)
    run_worker(app)
    until(lambda: [one.status() for one in app.runs(child)] == ["waiting"])
    [middle], [last] = app.runs(parent), app.runs(child)
    middle.cancel(children=False)
    until(lambda: run.status().ended)
    assert ids(middle.children()) == ids(app.runs(parent=middle)) == [last.id]
    tree = call("runs", "show", run.id, "-o", "json", "--redis-url", url)
    assert last.id in tree.stdout, tree.stderr


def test_the_twins_read_the_same(app: Stepflow, run_worker) -> None:
    shop(app)
    run = app.start("parent", id="import-1")
    run_worker(app)
    run.result(timeout="30s")

    async def read() -> tuple[Any, ...]:
        found = [one.id async for one in app.aruns(limit=1)]
        same = await app.arun(function="parent", id="import-1")
        reads = (run.ainfo(), run.asteps(), run.aevent(), run.aoutput(), run.aexplain())
        children = [one.id for one in await run.achildren()]
        return found, same.id, children, *[await one for one in reads]

    found, same, children, *reads = asyncio.run(read())
    assert (found, same, children) == (ids(app.runs(limit=1)), run.id, ids(run.children()))
    assert reads == [run.info(), run.steps(), run.event, run.output, run.explain()]


def test_runs_by_an_event_are_found_by_its_id(app: Stepflow, run_worker) -> None:
    shop(app)
    app.send("shop/order", {"n": 7, "tenant": 1}, id="order-17")
    run_worker(app)
    ended(app, 1)
    [run] = app.runs(event="order-17")
    assert run.event.id == "order-17"
    assert run.listed is not None
    assert run.listed.tags["tenant"] == "1"
    assert app.run(function="order", event="order-17").id == run.id
    assert list(app.runs(event="order-18")) == []


def test_what_is_mistyped_is_an_error_that_names_what_is_close(app: Stepflow, run_worker) -> None:
    shop(app)
    app.start("order", {"tenant": 1}).cancel()
    run_worker(app)
    until(lambda: list(app.runs()), what="a worker")
    with pytest.raises(FunctionNotFoundError, match=r"shop/ordr: did you mean 'shop/order'\?"):
        list(app.runs("ordr"))
    with pytest.raises(FilterError, match=r"'tennant': did you mean 'tenant'\?") as refused:
        list(app.runs(tags={"tennant": 1}))
    assert refused.value.parameter == "tags"
    assert list(app.runs(tags={"tenant": 2})) == []
    assert list(app.runs("parent")) == []
    with pytest.raises(FilterError, match="there is no group of errors '0123456789abcdef'"):
        list(app.runs(error="0123456789abcdef"))
    with pytest.raises(RunNotFoundError, match="there is no run 'nobody'"):
        list(app.runs(parent="nobody"))
    with pytest.raises(RunNotFoundError, match="there is no run 'nobody'"):
        list(app.runs(batch="nobody"))
    with pytest.raises(FilterError, match=r"batch must be a run of a batch: run \w+ is of none"):
        list(app.runs(batch=next(app.runs())))


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"status": "done"}, "status must be one or several of queued, running"),
        ({"tags": ["tenant"]}, "tags must be a mapping"),
        ({"tags": {"a b": 1}}, "the name of a tag must have"),
        ({"tags": {"a": 1.5}}, "must be text, an integer or a boolean, got float"),
        ({"tags": {"a": FOREVER}}, "must have 1 to 128 bytes, got 129 bytes"),
        ({"tags": {"a": ""}}, "must have 1 to 128 bytes, got 0 bytes"),
        ({"since": datetime(2026, 1, 1)}, "since must have a time zone"),
        ({"since": 17}, "since must be a datetime with a time zone, or how long ago it is"),
        ({"until": "soon"}, "until must be a datetime with a time zone, or how long ago it is"),
        ({"since": "1h", "until": "2h"}, "since must be earlier than until"),
        ({"if_": "event.data ="}, "is not CEL"),
        ({"id": "xyz1"}, "id must be the beginning of a run id"),
        ({"id": "abcd", "parent": "e"}, "cannot be combined"),
        ({"id": "abcd", "batch": "e"}, "cannot be combined"),
        ({"parent": ""}, "parent must be non-empty text"),
        (
            {"error": "E", "status": "completed"},
            "status must be failed or left out, got completed",
        ),
        ({"limit": 0}, "limit must be an integer >= 1"),
        ({"cursor": "abc"}, "cursor must be one that a page has ended with"),
        ({"cursor": "é" * 9}, "cursor must be one that a page has ended with"),
        (
            {"cursor": "MSBlbmRlZCAxIGFiYw"},
            "in the order of the ends of the runs, and this list is in the order of creation",
        ),
        ({"function": ""}, "function must be non-empty text"),
    ],
)
def test_a_wrong_filter_is_refused_at_once(app: Stepflow, filters: dict[str, Any], text: str) -> None:
    for find in (app.runs, app.aruns):
        with pytest.raises(FilterError, match=text) as refused:
            find(**filters)
        assert refused.value.parameter in filters


def test_a_handle_takes_one_name(app: Stepflow) -> None:
    for names in (
        {},
        {"function": "f"},
        {"id": "x"},
        {"run_id": "r", "id": "x"},
        {"function": "f", "id": "x", "event": "y"},
    ):
        with pytest.raises(Exception, match="run: pass the id of a run, or function= with"):
            app.run(**names)


def test_a_search_that_is_too_long_ends_early_and_is_continued(app: Stepflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_runs, "BUDGET", 10)
    monkeypatch.setattr(find_runs, "_MOST", 4)

    @app.function("order")
    async def order(ctx: Context) -> None: ...

    app.start_many(order, range(40))
    found, calls, cursor = [], 0, None
    while True:
        page = app.runs(if_="event.data == 3", cursor=cursor)
        found += list(page)
        calls, cursor = calls + 1, page.next_cursor
        assert page.is_cut == (cursor is not None)
        if cursor is None:
            break
    assert len(found) == 1
    assert calls > 2
    assert len(list(app.runs(if_="event.data >= 20", limit=None))) == 20


def test_tags_are_checked_where_somebody_can_mend_them(app: Stepflow, run_worker, caplog) -> None:
    shop(app)
    with pytest.raises(EventError, match="tag tenant: the value must have 1 to 128 bytes"):
        app.start("order", {"tenant": FOREVER})
    with pytest.raises(EventError, match="tag tenant: the value must be text, an integer or a boolean, got list"):
        app.start("order", {"tenant": [1]})
    app.send("shop/order", {"tenant": FOREVER, "rush": False}, id="order-1")
    run_worker(app)
    ended(app, 1)
    [run] = app.runs(event="order-1")
    assert run.listed is not None
    assert run.listed.tags == {"rush": "false", "stage": "done"}
    assert "tag_left_out" in [record.message for record in caplog.records]


def test_code_gives_tags_once_and_not_in_a_handler(app: Stepflow, run_worker) -> None:
    @app.function("plain", tags={"one": "1", "two": "2"})
    def plain(ctx: SyncContext) -> list[str]:
        ctx.tag("state", "begun")
        ctx.step.run("first", int)
        ctx.tag("state", "ended")
        refused = []
        for name, value in (("a b", 1), ("ok", 1.5), ("ok", FOREVER)):
            try:
                ctx.tag(name, value)  # type: ignore[arg-type]
            except StepUsageError as error:
                refused.append(str(error))

        def inside() -> str:
            try:
                ctx.tag("inside", 1)
            except StepUsageError as error:
                return str(error)
            return ""

        refused.append(ctx.step.run("inside", inside))
        for number in range(7):
            ctx.tag(f"t{number}", number)
        try:
            ctx.tag("more", 1)
        except Exception as error:
            refused.append(type(error).__name__)
        return refused

    run = app.start(plain)
    run_worker(app)
    refused = run.result(timeout="30s")
    assert [len(text) > 0 for text in refused] == [True] * 5
    assert "is in the handler of a step" in refused[3]
    assert refused[4] == "LimitError"
    tags = run.info().tags
    assert tags == {"one": "1", "two": "2", "state": "ended", **{f"t{n}": str(n) for n in range(7)}}
    assert ids(app.runs(tags={"state": "ended"})) == [run.id]
    assert ids(app.runs(tags={"state": "begun"})) == []


def test_an_encrypted_app_has_tags_and_groups_of_errors_without_messages(url: str, run_worker) -> None:
    key = Encryption.generate_key()
    app = Stepflow("shop", redis_url=url, encryption=Encryption([key]))
    shop(app)
    runs = [app.start("order", {"bad": number, "tenant": 1}) for number in (1, 2)]
    run_worker(app)
    ended(app, 2)
    [group] = app.error_groups()
    assert (group.count, group.name, group.message) == (2, "NonRetriableError", "")
    assert set(ids(app.runs(tags={"tenant": 1}, if_="event.data.bad > 0"))) == set(ids(runs))
    assert ids(app.runs(error="card 2")) == [runs[1].id]
    assert runs[0].event.data["bad"] == 1
    stranger = Stepflow("shop", redis_url=url)
    assert set(ids(stranger.runs(tags={"tenant": 1}))) == set(ids(runs))
    left_out = [
        stranger.runs(error="card 2"),
        stranger.runs(if_="event.data.bad > 0"),
        stranger.runs(parent=None, id=runs[0].id[:30], error="card 2"),
    ]
    assert [(ids(found), found.unreadable) for found in left_out] == [([], 2), ([], 2), ([], 1)]
    assert (by_name := stranger.runs(error="NonRetriableError")).unreadable == 0
    assert len(ids(by_name)) == 2
    bulk = stranger.fork_many("order", if_="event.data.bad > 0", dry_run=True)
    assert (bulk.matched, bulk.unreadable) == (0, 2)
    note = "note: 2 runs were left out, because this process does not have the keys to compare: set STEPFLOW_ENCRYPTION"
    for words in (["runs", "list", "--app", "shop"], ["runs", "retry", "--function", "order", "--dry-run"]):
        assert note in call(*words, "--if", "event.data.bad > 0", "--redis-url", url).stderr
    with pytest.raises(DecryptionError):
        _ = stranger.run(runs[0].id).event


def test_runs_of_a_forgotten_function_are_found(app: Stepflow, url: str) -> None:
    gone = Stepflow("shop", redis_url=url)

    @gone.function("gone")
    async def old(ctx: Context) -> None: ...

    run = gone.start(old)
    run.cancel()
    assert ids(app.runs("gone")) == ids(app.runs()) == ids(app.runs(status="cancelled")) == [run.id]
    assert app.run(run.id).info().function == "shop/gone"


def test_runs_of_other_apps_are_not_listed(app: Stepflow, url: str) -> None:
    other = Stepflow("other", redis_url=url)
    for one in (app, other):

        @one.function("order", tags={"tenant": "'1'"})
        async def order(ctx: Context) -> None: ...

    mine, theirs = app.start("order"), other.start("order")
    assert ids(app.runs()) == ids(app.runs(tags={"tenant": 1})) == [mine.id]
    assert ids(app.runs("other/order")) == ids(other.runs()) == [theirs.id]


def test_the_members_of_a_batch_are_found_by_their_own_tags(app: Stepflow, run_worker) -> None:
    @app.function("sync", batch=Batch(2, "1h"), tags={"n": "event.data.n"})
    async def sync(ctx: Context) -> int:
        ctx.tag("size", len(ctx.events))
        return len(ctx.events)

    runs = [app.start(sync, {"n": n}) for n in (1, 2)]
    run_worker(app)
    assert [run.result(timeout="30s") for run in runs] == [2, 2]
    assert ids(app.runs(tags={"n": 2})) == [runs[1].id]
    [batch] = app.runs(tags={"size": 2})
    assert batch.id not in ids(runs)
    for of in (batch, *runs):
        assert sorted(ids(app.runs(batch=of))) == sorted(ids(runs))
    assert ids(app.runs(batch=batch.id, tags={"n": 2})) == [runs[1].id]
    assert list(app.runs(batch=batch, status="failed")) == []
