"""`explain`: one reading says why a run is not moving."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading

import pytest

from stepflow import Context, Run, RunNotFoundError, Stepflow, Throttle
from stepflow_broker.views.explain import Reason
from tests.support.processes import until

pytestmark = [
    pytest.mark.roles("producer", "operator"),
    pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"]),
]


def kinds(reason: Reason) -> list[object]:
    """The kinds of a reason and its causes, as a tree."""
    return [reason.kind, *[kinds(cause) for cause in reason.because]]


def stepflow(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepflow_cli.main", *words, "--redis-url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def settled(run: Run[object], kind: str) -> Reason:
    """The reason, when it has become one of a kind."""
    until(lambda: run.explain().kind == kind, what=f"{kind}, not {run.explain()}")
    return run.explain()


def test_a_run_without_a_worker(app: Stepflow) -> None:
    @app.function("lonely")
    async def lonely(ctx: Context) -> None: ...

    runs, keys = [app.start(lonely), app.start(lonely)], app.backend.partition.keys
    reason = runs[1].explain()
    assert kinds(reason) == ["queued", ["queue"]]
    place = "queue shop" if len(keys.all) == 1 else "queue shop of its partition"
    number = len([run for run in runs if keys.of(run.id) is keys.of(runs[1].id)])
    assert reason.because[0].text == f"number {number} on {place}; no live worker serves queue shop: start one"


def test_a_family_that_waits(app: Stepflow, run_worker) -> None:
    @app.function("child")
    async def child(ctx: Context) -> None:
        await asyncio.gather(
            ctx.step.sleep("nap", "1h"),
            ctx.step.wait_for_event("paid", event="order/paid", timeout="2h", match={"data.order": 1}),
            ctx.step.wait_for_event("big", event="order/paid", timeout="2h", if_="event.data.total > 100"),
        )

    @app.function("parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("call", child)

    run_worker(app)
    run = app.start(parent)

    until(lambda: json.dumps(kinds(run.explain())).count("event") == 2 and "sleep" in json.dumps(kinds(run.explain())))
    reason = run.explain()
    (waits_for,) = reason.because
    assert waits_for.kind == "child"
    texts = [cause.text for cause in waits_for.because[0].because]
    assert texts == [
        "step 'big' waits for event order/paid if event.data.total > 100",
        "step 'nap' sleeps",
        "step 'paid' waits for event order/paid with data.order = 1",
    ]


def test_a_run_in_line_names_who_has_the_slots(app: Stepflow, run_worker) -> None:
    gate = threading.Event()

    @app.function("one", concurrency=1)
    async def one(ctx: Context) -> None:
        await ctx.step.run("hold", lambda: gate.wait(30))

    run_worker(app)
    first, second = app.start_many(one, range(2))
    reason = settled(second, "waitlisted")
    assert reason.because[0].text == f"number 1 for shop/one, limit 1, held by {first.id}"
    gate.set()
    second.result(20)
    assert kinds(second.explain()) == ["ended"]


def test_a_run_that_is_put_off_and_one_that_is_tried_again(app: Stepflow, run_worker) -> None:
    @app.function("slow", throttle=Throttle(1, "1h"))
    async def slow(ctx: Context) -> None: ...

    @app.function("broken")
    async def broken(ctx: Context) -> None:
        async def fail() -> None:
            raise ValueError("no luck")

        await ctx.step.run("try", fail)

    run_worker(app, backoff=_slow())
    app.start(slow)
    reason = settled(app.start(slow), "delayed")
    assert (reason.text, reason.until is not None) == ("shop/slow is throttled", True)
    run = app.start(broken)
    until(lambda: "retrying" in json.dumps(kinds(run.explain())))
    (retry,) = run.explain().because
    assert retry.text == "step 'try' failed, and is tried again (retry 1): ValueError: no luck"


def test_a_run_whose_code_is_gone(app: Stepflow, url: str, run_worker) -> None:
    @app.function("gone")
    async def gone(ctx: Context) -> None: ...

    run = app.start(gone)
    other = Stepflow("shop", redis_url=url)

    @other.function("other")
    async def unrelated(ctx: Context) -> None: ...

    run_worker(other)
    assert "a worker that has the code of shop/gone" in settled(run, "code_missing").text


@pytest.mark.slow
def test_the_command_line_says_it_in_words_and_as_json(app: Stepflow, url: str) -> None:
    @app.function("lonely")
    async def lonely(ctx: Context) -> None: ...

    run = app.start(lonely)
    shown = stepflow(url, "explain", run.id)
    assert shown.returncode == 0, shown.stderr
    assert "no live worker serves queue shop" in shown.stdout
    assert json.loads(stepflow(url, "explain", run.id, "-o", "json").stdout)["kind"] == "queued"
    assert stepflow(url, "explain", "nobody").returncode == 4


def test_there_is_nothing_to_explain_of_a_run_that_is_not(app: Stepflow) -> None:
    with pytest.raises(RunNotFoundError):
        app.run("nobody").explain()


def _slow() -> object:
    from stepflow_engine.retry_policy import Backoff

    return Backoff(60_000, 60_000)
