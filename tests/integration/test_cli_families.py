"""The families of runs on the command line: who invoked whom, and who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import redis

from stepflow import Context, InvokeError, RateLimit, Stepflow
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.transitions.runs.run_state import count_steps
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_broker.views.invoke_view import find_invokes
from stepflow_broker.views.run_tree import read_run_tree
from stepflow_engine.memo import read_memo
from tests.support.command_line import as_json, call, register
from tests.support.processes import WorkerThread, until
from tests.support.roles import as_role

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Family:
    """A run that waits for the children ``slow``, which runs, and ``absent``, which no worker serves."""

    run: str
    slow: str
    absent: str
    gate: threading.Event


@pytest.fixture
def family(app: Stepflow, url: str, run_worker: Callable[..., WorkerThread]) -> Iterator[Family]:
    gate, other = threading.Event(), Stepflow("other", redis_url=url)

    @other.function("absent")
    async def absent(ctx: Context) -> None: ...

    @app.function("leaf")
    async def leaf(ctx: Context) -> str:
        return await ctx.step.run("work", lambda: "leaf")

    @app.function("slow")
    async def slow(ctx: Context) -> str:
        await asyncio.gather(*[ctx.step.invoke(f"leaf {number}", leaf) for number in range(3)])
        return await ctx.step.run("wait", lambda: gate.wait(60) and "slow")

    @app.function("main")
    async def main(ctx: Context) -> None:
        async def nothing() -> None:
            with contextlib.suppress(InvokeError):
                await ctx.step.invoke("nothing", "nothing")

        await asyncio.gather(
            ctx.step.invoke("call slow", slow), ctx.step.invoke("call absent", "other/absent", timeout="2h"), nothing()
        )

    register(url, other)
    run_worker(app)
    run = app.start(main)
    broker, partition = Broker(as_role(app.backend.url, "read-only")), app.backend.partition

    def children() -> dict[str, str]:
        return {step.id: step.child for step in broker.execute(read_steps(partition, run.id))}

    until(lambda: set(children()) == {"call slow", "call absent"}, what="the start of the children")
    found = Family(run.id, children()["call slow"], children()["call absent"], gate)
    until(lambda: broker.execute(count_steps(partition, found.slow)) == 3, what="the end of the leaves")
    yield found
    gate.set()


def test_runs_show_prints_the_tree_and_who_waits_until_when(family: Family, url: str) -> None:
    narrow = call("runs", "show", family.run, STEPFLOW_REDIS_URL=url, COLUMNS="80").stdout
    wide = call("runs", "show", family.run, STEPFLOW_REDIS_URL=url, COLUMNS="140").stdout
    for text in (narrow, wide):
        tree = text[text.rindex("shop/main") :]
        assert re.search(r"├── call absent → other/absent  queued", tree)
        assert re.search(r"└── call slow → shop/slow  (running|waiting)", tree)
        assert re.search(r"its parent waits until 20[-\d]+ [:\d]+ \(in 1h 59m\)", tree)
        assert tree.count("no live worker serves queue other") == 1
        assert re.findall(r"leaf \d → shop/leaf  completed", tree)[2:]
        assert all(run_id in tree for run_id in (family.run, family.slow, family.absent))
    assert max(len(line) for line in narrow.splitlines()) <= 80


def test_runs_show_names_the_parent_and_the_step_there(family: Family, url: str) -> None:
    shown = call("runs", "show", family.slow, "--redis-url", url).stdout
    tree = shown[shown.rindex("shop/main") :]
    assert re.search(rf"^└── call slow → shop/slow .*{family.slow}  ← this run$", tree, re.MULTILINE)
    assert family.absent not in tree


def test_runs_show_in_json_nests_the_children_as_deep_as_is_asked(family: Family, url: str) -> None:
    run = as_json("runs", "show", family.run, "--redis-url", url)
    assert run["parent"] is None
    absent, slow = run["children"]
    assert (absent["step"], absent["status"], absent["outcome"]) == ("call absent", "queued", "waiting")
    assert (absent["run_id"], absent["served"], slow["served"]) == (family.absent, False, True)
    assert slow["waits_until"] > absent["waits_until"] > run["created_at"]
    assert [(leaf["status"], leaf["outcome"]) for leaf in slow["children"]] == [("completed", "completed")] * 3
    steps = {step["id"]: step["invoke"] for step in run["steps"]}
    assert steps["nothing"] == {
        "function": "shop/nothing",
        "run_id": None,
        "outcome": "not_found",
        "waits_until": None,
    }
    assert steps["call slow"]["run_id"] == family.slow

    shallow = as_json("runs", "show", family.run, "--depth", "1", "--redis-url", url)["children"][1]
    assert (shallow["children"], shallow["children_not_shown"]) == ([], 3)
    below = as_json("runs", "show", family.slow, "--redis-url", url)
    assert (below["parent"]["run_id"], below["parent"]["step"]) == (family.run, "call slow")


def test_no_more_runs_of_a_family_are_read_than_asked_in_few_round_trips(
    app: Stepflow, run_worker: Callable[..., WorkerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.function("leaf")
    async def leaf(ctx: Context) -> None: ...

    @app.function("main")
    async def main(ctx: Context) -> None:
        await asyncio.gather(*[ctx.step.invoke("leaf", leaf) for _ in range(30)])

    run_worker(app)
    run = app.start(main)
    run.result(30)
    broker, partition = Broker(as_role(app.backend.url, "read-only")), app.backend.partition
    record = broker.execute(read_run(partition, run.id))
    assert record is not None
    invokes = find_invokes([(key, read_memo(text)) for key, text in broker.execute(read_memos(partition, run.id))], [])
    trips, send = [], broker.execute_all
    monkeypatch.setattr(broker, "execute_all", lambda calls: trips.append(len(calls)) or send(calls))
    found = read_run_tree(broker, partition, record, invokes, limit=20)
    assert (len(found.children), found.hidden) == (20, 10)
    assert len(trips) == 3  # two for the workers, one for the level


def test_a_child_that_is_forgotten_is_known_from_its_parent_s_memo(
    app: Stepflow, run_worker: Callable[..., WorkerThread], client: redis.Redis, url: str
) -> None:
    @app.function("leaf")
    async def leaf(ctx: Context) -> None: ...

    @app.function("main")
    async def main(ctx: Context) -> None:
        await ctx.step.invoke("leaf", leaf)

    run_worker(app)
    run = app.start(main)
    run.result(30)
    [child] = as_json("runs", "show", run.id, "--redis-url", url)["children"]
    client.delete(f"stepflow:run:{child['run_id']}")
    [child] = as_json("runs", "show", run.id, "--redis-url", url)["children"]
    assert (child["app"], child["function"], child["status"]) == ("shop", "leaf", "forgotten")
    assert "leaf → shop/leaf  forgotten" in call("runs", "show", run.id, "--redis-url", url).stdout


def test_a_skipped_run_is_shown_with_its_reason(url: str) -> None:
    app = Stepflow("mail", redis_url=url)

    @app.function("welcome", rate_limit=RateLimit(1, "1h"))
    async def welcome(ctx: Context) -> None: ...

    runs = [app.start(welcome) for _ in range(2)]
    shown = as_json("runs", "show", runs[1].id, "--redis-url", url)
    assert (shown["status"], shown["reason"], shown["served"]) == ("skipped", "rate limited", None)
    text = call("runs", "show", runs[1].id, "--redis-url", url).stdout
    assert re.search(r"^status +skipped", text, re.MULTILINE)
    assert re.search(r"^reason +rate limited", text, re.MULTILINE)
    assert "no live worker serves queue mail" in call("runs", "show", runs[0].id, "--redis-url", url).stdout


@pytest.mark.parametrize(("option", "status"), [([], "cancelled"), (["--leave-children"], "queued")])
def test_runs_cancel_takes_the_children_along_or_leaves_them(
    family: Family, url: str, option: list[str], status: str
) -> None:
    call("runs", "cancel", family.run, *option, "--redis-url", url)
    assert as_json("runs", "show", family.run, "--redis-url", url)["status"] == "cancelled"
    assert as_json("runs", "show", family.absent, "--redis-url", url)["status"] == status
