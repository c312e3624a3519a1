"""Limits of flow control that are changed at run time, with real workers, from Python and the command line."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from stepflow import (
    Concurrency,
    ConfigurationError,
    Context,
    FunctionNotFoundError,
    RateLimit,
    RunStatus,
    Stepflow,
    Throttle,
)
from tests.support.command_line import as_json, assert_refused, call, register
from tests.support.processes import until

pytestmark = pytest.mark.roles("producer", "operator")
KEY = "event.data.shop"


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_a_changed_concurrency_holds_at_once_is_shown_and_ends_with_a_reset(
    app: Stepflow, run_worker, url, client
) -> None:
    gate, inside = threading.Event(), list[int]()

    def work(number: int) -> int:
        inside.append(number)
        gate.wait(30)
        return number

    @app.function("sync", concurrency=1)
    async def sync(ctx: Context) -> int:
        return await ctx.step.run("work", work, ctx.event.data)

    run_worker(app)
    runs = app.start_many(sync, range(4))
    until(lambda: len(inside) == 1)
    [changed] = app.flow_limits.set(sync, concurrency=3, for_="2h", reason="catch up")
    assert (changed.declared, changed.limit, changed.changed, changed.reason) == (1, 3, True, "catch up")
    until(lambda: len(inside) == 3)
    waiting = next(run for run in runs if run.status() is RunStatus.QUEUED)
    assert ", limit 3 (set in place of 1 until 2" in waiting.explain().because[0].text
    environment = {"STEPFLOW_REDIS_URL": url}
    shown = call("functions", **environment).stdout
    assert "shop/sync: concurrency of steps is 3 in place of 1, until " in shown
    [listed] = as_json("functions", **environment)
    assert [one["limit"] for one in listed["changed_limits"]] == [3]
    table = call("flow-limits", "list", "shop/sync", **environment).stdout
    assert ("catch up" in table, "concurrency of steps" in table) == (True, True)
    [ended] = as_json("flow-limits", "reset", "shop/sync", **environment)
    assert (ended["limit"], ended["changed"]) == (1, False)
    assert asyncio.run(app.flow_limits.alist(sync))[0].limit == 1
    assert app.flow_limits.reset(sync) == []
    gate.set()
    assert [run.result(30) for run in runs] == [0, 1, 2, 3]
    actions = [(entry["action"], entry["subject"]) for entry in as_json("audit", **environment)]
    assert actions == [("reset_limit", "concurrency shop/sync"), ("set_limit", "concurrency shop/sync")]


def test_a_limit_is_named_by_its_kind_its_key_and_what_it_counts(app: Stepflow, url) -> None:
    limits = [Concurrency(1, KEY), Concurrency(50), Concurrency(9, of="runs")]

    @app.function("many", concurrency=limits, rate_limit=RateLimit(5, "1h", KEY), throttle=Throttle(6, "1m"))
    async def many(ctx: Context) -> None: ...

    @app.function("none")
    async def none(ctx: Context) -> None: ...

    register(url, app)
    app.flow_limits.set("many", concurrency=2, key=KEY)
    app.flow_limits.set("shop/many", concurrency=3, of="runs", rate_limit=7, throttle=8)
    words = ["--concurrency", "4", "--key", "", "--of", "steps", "--for", "2h"]
    assert as_json("flow-limits", "set", "shop/many", *words, STEPFLOW_REDIS_URL=url)[0]["limit"] == 4
    found = {(one.kind, one.of, one.key): one.limit for one in app.flow_limits.list()}
    assert found == {
        ("concurrency", "steps", KEY): 2,
        ("concurrency", "steps", ""): 4,
        ("concurrency", "runs", ""): 3,
        ("rate_limit", "starts", KEY): 7,
        ("throttle", "starts", ""): 8,
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"function": many}, "takes at least one of concurrency, rate_limit and throttle, got none"),
        ({"function": many, "concurrency": 0}, "concurrency must be an integer >= 1, got 0: to stop a function, pause"),
        ({"function": many, "concurrency": 10**30}, "concurrency must be at most 1,000,000,000, got 1000"),
        ({"function": many, "throttle": True}, "throttle must be an integer >= 1, got True"),
        ({"function": many, "concurrency": 1}, "has several such limits: name one with key= and of="),
        ({"function": many, "concurrency": 1, "key": "event.id"}, "declares no such concurrency, and a limit can be"),
        ({"function": none, "rate_limit": 1}, "a limit can be changed, not added: it has no limits"),
        ({"function": many, "throttle": 1, "for_": 0}, "for_ must be longer than 0, got 0"),
        ({"function": many, "throttle": 1, "for_": "soon"}, "for_ must be a duration, got 'soon'"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ConfigurationError) as refused:
            app.flow_limits.set(**arguments)
        assert message in str(refused.value)
    with pytest.raises(FunctionNotFoundError):
        app.flow_limits.set("other", concurrency=1)
    done = call("flow-limits", "set", "many", "--concurrency", "1", STEPFLOW_REDIS_URL=url)
    assert_refused(done, 2, "function must be APP/FUNCTION, got 'many'")
