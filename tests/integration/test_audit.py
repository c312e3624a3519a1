"""The audit log: what was done by hand, by whom, on what, and why."""

from __future__ import annotations

import asyncio
import getpass
import socket
from datetime import timedelta
from typing import Any

import pytest

from stepflow import Context, FilterError, RunCancelledError, Stepflow, Timeouts
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.audit import AuditEntry
from stepflow_broker.views.audit import find_actions
from tests.integration.apps import shop
from tests.support.command_line import as_json, burst, call, enqueue, register

pytestmark = pytest.mark.roles("producer", "operator")
ME = f"{getpass.getuser()}@{socket.gethostname()}"


def actions(app: Stepflow, **filters: Any) -> list[AuditEntry]:
    """The entries of the log, oldest first."""
    return run_operation(app.backend.broker, find_actions(app.backend.partition, **filters))[::-1]


@pytest.fixture
def shop_app(app: Stepflow) -> Stepflow:
    @app.function("order")
    async def order(ctx: Context) -> None:
        pass

    return app


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_actions_of_python_are_recorded_once_with_the_app(shop_app: Stepflow, partitions: int) -> None:
    app = shop_app
    order = app.functions["order"]
    run = app.start(order)
    assert run.cancel("sold out")
    assert not run.cancel("again"), "it has ended: nothing was done"
    rerun = run.rerun(data={"n": 2}, id="a", reason="by mistake")
    run.rerun(data={"n": 2}, id="a")
    again = run.retry()
    app.pause(order, reason="stock-taking")
    app.pause(order, reason="stock-taking")
    app.pause(order, reason="longer")
    app.resume(order)
    app.resume(order)
    cancelled = app.cancel_many(order, if_="event.data.n == 2", reason="all")
    assert cancelled == [rerun.id]
    app.cancel_many(order, if_="event.data.n == 2")
    app.cancel_many(order, created_before=None, statuses=["queued"], dry_run=True)
    found = actions(app)
    assert {one.who for one in found} == {"shop"}
    assert sorted((one.action, one.subject, one.reason) for one in found) == sorted(
        [
            ("cancel", run.id, "sold out"),
            ("rerun", run.id, "by mistake"),
            ("retry", run.id, ""),
            ("pause", "function shop/order", "stock-taking"),
            ("pause", "function shop/order", "longer"),
            ("resume", "function shop/order", ""),
            ("cancel_many", "function shop/order", "all"),
        ]
    )
    details = {one.action: one.details for one in found}
    assert details["rerun"] == {"run": rerun.id, "data": "other"}
    assert details["retry"] == {"run": again.id}
    assert {"runs": 1, "if": "event.data.n == 2"}.items() <= details["cancel_many"].items()
    assert [one.action for one in actions(app, subject=run.id, action="retry")] == ["retry"]
    assert len(actions(app, limit=2)) == 2
    assert app.audit() == found[::-1]
    assert app.audit(subject=run, action="retry", since="1h") == actions(app, subject=run.id, action="retry")
    assert app.audit(since=found[-1].at + timedelta(seconds=1)) == []
    assert asyncio.run(app.aaudit(limit=2)) == app.audit(limit=2)


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"action": "delete_all"}, "action must be one of fork, retry"),
        ({"subject": ""}, "subject"),
        ({"subject": 7}, "subject"),
        ({"since": "soon"}, "since must be a datetime with a time zone, or how long ago"),
        ({"limit": 0}, "limit must be an integer >= 1, got 0"),
        ({"limit": None}, "limit must be an integer >= 1, got None"),
    ],
)
def test_a_wrong_filter_is_refused(app: Stepflow, filters: dict[str, Any], text: str) -> None:
    with pytest.raises(FilterError, match=text):
        app.audit(**filters)


def test_what_rules_do_is_not_recorded(app: Stepflow, run_worker: Any) -> None:
    @app.function("slow", timeouts=Timeouts(start="10ms"))
    async def slow(ctx: Context) -> None:
        pass

    app.pause(slow)
    run = app.start(slow)
    run_worker(app)
    with pytest.raises(RunCancelledError, match="did not start within"):
        run.result(30)
    assert [one.action for one in actions(app)] == ["pause"]


@pytest.mark.slow
def test_actions_of_the_command_line_are_recorded_with_the_user(url: str) -> None:
    register(url, shop.app)
    failed = enqueue(url, "broken")
    burst(url)
    server = ("--redis-url", url)
    call("runs", "retry", failed, "--reason", "card", *server)
    waiting = enqueue(url, "broken")
    call("runs", "cancel", waiting, "--reason", "too late", *server)
    call("runs", "cancel", "--all", "--yes", *server)
    call("pause", "queue", "shop", "--reason", "night", *server)
    call("resume", "queue", "shop", *server)
    lines = as_json("audit", *server)
    assert [line["who"] for line in lines] == [ME] * 5
    assert [(line["action"], line["subject"], line["reason"]) for line in lines] == [
        ("resume", "queue shop", ""),
        ("pause", "queue shop", "night"),
        ("cancel_many", "runs", ""),
        ("cancel", waiting, "too late"),
        ("retry", failed, "card"),
    ]
    text = call("audit", "--action", "pause", *server).stdout
    assert "queue shop" in text
    assert "night" in text
    assert call("audit", "--subject", "nobody", *server).stdout == "no actions\n"
    assert [line["action"] for line in as_json("audit", "--limit", "1", *server)] == ["resume"]
