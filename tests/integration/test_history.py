"""The history of a run: its attempts, the step that executes, how its waits ended, and the versions of its code."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepflow import Batch, Context, Encryption, Run, RunFailedError, RunNotFoundError, Stepflow, SyncContext
from stepflow.event import Event
from stepflow_broker.views.run_details import RunDetails, read_run_details
from stepflow_broker.views.step_view import StepView
from stepflow_engine.times import utc_time
from tests.integration.apps import history
from tests.support.command_line import as_json, call
from tests.support.processes import WorkerProcess, until

pytestmark = pytest.mark.roles("producer", "operator")
HISTORY = "tests.integration.apps.history:app"
KEY = Encryption.generate_key()


def details(run: Run[Any]) -> RunDetails:
    backend = run._backend
    return read_run_details(backend.broker, backend.partition, run.id, depth=1)


def step(run: Run[Any], step_id: str) -> StepView | None:
    return next((one for one in details(run).steps if one.id == step_id), None)


def outcomes(view: StepView | RunDetails | None) -> list[tuple[int, str]]:
    assert view is not None
    return [(attempt.number, attempt.outcome) for attempt in view.history]


class Failing:
    """A handler that fails a number of times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise ValueError(f"{self.left} left")
        return "done"


# -- attempts ------------------------------------------------------------------------


def test_each_attempt_of_a_step_is_kept_with_its_error(app: Stepflow, run_worker) -> None:
    @app.function("flaky")
    async def flaky(ctx: Context) -> str:
        return await ctx.step.run("charge", Failing(2))

    worker = run_worker(app)
    run = app.start(flaky)
    assert run.result(20) == "done"
    charge = step(run, "charge")
    assert charge is not None
    assert outcomes(charge) == [(1, "failed"), (2, "failed"), (3, "done")]
    assert [one.failure and one.failure.message for one in charge.history] == ["1 left", "0 left", None]
    for attempt in charge.history:
        assert attempt.worker == worker.worker.name
        assert attempt.started_at is not None
        assert attempt.ended_at is not None
        assert attempt.started_at <= attempt.ended_at
    assert charge.history[0].failure is not None
    assert "raise ValueError" in charge.history[0].failure.traceback
    assert charge.attempts == 3


def test_each_attempt_of_a_parallel_step_and_of_a_sync_function_is_kept(app: Stepflow, run_worker) -> None:
    @app.function("wide", retries=1)
    def wide(ctx: SyncContext) -> list[Any]:
        left, right = Failing(1), Failing(0)
        return ctx.step.parallel(lambda: ctx.step.run("left", left), lambda: ctx.step.run("right", right))

    run_worker(app)
    run = app.start(wide)
    run.result(20)
    assert outcomes(step(run, "left")) == [(1, "failed"), (2, "done")]
    assert outcomes(step(run, "right")) == [(1, "done")]


def test_each_attempt_of_the_code_is_kept_and_the_last_is_the_end_of_the_run(app: Stepflow, run_worker) -> None:
    @app.function("fragile", retries=2)
    async def fragile(ctx: Context) -> None:
        await ctx.step.run("fine", lambda: 1)
        raise KeyError(f"attempt {ctx.attempt}")

    worker = run_worker(app)
    run = app.start(fragile)
    with pytest.raises(RunFailedError):
        run.result(20)
    found = details(run)
    assert outcomes(found) == [(1, "failed"), (2, "failed"), (3, "failed")]
    assert [one.failure and one.failure.message for one in found.history] == [f"'attempt {n}'" for n in range(3)]
    assert {one.worker for one in found.history} == {worker.worker.name}
    times = [(one.started_at, one.ended_at) for one in found.history]
    assert all(start is not None and end is not None and start <= end for start, end in times)
    read = run.attempts()
    assert read == asyncio.run(run.aattempts())
    assert [(one.number, one.outcome, one.error) for one in read] == [
        (one.number, one.outcome, one.failure) for one in found.history
    ]
    with pytest.raises(RunNotFoundError):
        app.run("nobody").attempts()
    assert times[0][0] == found.run.started_at
    assert times[2][1] == found.run.ended_at
    assert outcomes(step(run, "fine")) == [(1, "done")]


def test_a_batch_keeps_the_attempts_of_its_code(app: Stepflow, run_worker) -> None:
    @app.function("pair", retries=1, batch=Batch(2, timeout="10s"))
    async def pair(ctx: Context) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    run_worker(app)
    for run in app.start_many(pair, range(2)):
        with pytest.raises(RunFailedError):
            run.result(20)
    batch = app.run(details(run).run.batch)
    assert outcomes(details(batch)) == [(1, "failed"), (2, "failed")]


def test_the_errors_of_an_encrypted_app_are_sealed(url: str, client: Any, run_worker) -> None:
    app = Stepflow("vault", redis_url=url, encryption=Encryption(keys=[KEY]))
    failing = Failing(1)

    @app.function("secret", retries=1)
    async def secret(ctx: Context) -> None:
        await ctx.step.run("charge", failing)
        wait = ctx.step.wait_for_event("paid", event="paid", timeout="1h", match={"data.card": "swordfish"})
        if ctx.attempt:
            await wait
        wait.close()
        raise ValueError("swordfish")

    run_worker(app)
    run = app.start(secret)
    until(lambda: (paid := step(run, "paid")) and paid.wait, what="the wait")
    found = details(run)
    assert [one.failure and one.failure.message for one in found.history][:1] == ["swordfish"]
    charge, paid = step(run, "charge"), step(run, "paid")
    assert charge is not None
    assert charge.history[0].failure is not None
    assert charge.history[0].failure.message == "0 left"
    assert paid is not None
    assert paid.wait is not None
    assert paid.wait.values == {"data.card": "swordfish"}
    stored = [client.hgetall(key) for kind in ("attempts", "steps", "run") for key in client.keys(f"*{kind}:{run.id}")]
    assert "swordfish" not in str(stored)
    assert "0 left" not in str(stored)
    assert '"swordfish"' in json.dumps(run.explain().to_json()).replace("\\", "")
    blind = details(Stepflow("vault", redis_url=url).run(run.id))
    assert {one.failure.message for one in blind.history if one.failure} == {"encrypted"}
    assert [one.wait.values for one in blind.steps if one.wait] == ["encrypted"]
    blind_text = json.dumps(Stepflow("vault", redis_url=url).run(run.id).explain().to_json())
    assert "swordfish" not in blind_text


# -- deaths --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", ["first", *(pytest.param(name, marks=pytest.mark.slow) for name in ("parallel", "own", "plain"))]
)
def test_the_death_of_a_worker_is_an_attempt(
    function: str, app: Stepflow, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    worker = start_worker(HISTORY, name="anna")
    run = app.start(getattr(history, function), {"path": str(mark), "action": "hang"})
    until(mark.exists, what="the start of the step")
    if function not in ("own", "parallel"):
        until(lambda: (long := step(run, "long")) and long.state == "running", what="the report")
    worker.kill()
    start_worker(HISTORY, name="bert")
    run.result(30)
    view: StepView | RunDetails | None = details(run) if function == "own" else step(run, "long")
    assert outcomes(view) == [(1, "worker_died"), (1, "done")]
    assert view is not None
    death, end = view.history
    assert (death.worker, end.worker) == ("anna", "bert")
    assert death.failure is not None
    assert death.failure.name == "WorkerDiedError"
    assert death.started_at is not None
    assert death.ended_at is not None
    assert death.started_at < death.ended_at


# -- the step that executes ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "thread", "blocking", "parallel"])
@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_the_step_that_executes_is_visible_before_the_lease_is_extended(app: Stepflow, run_worker, kind: str) -> None:
    began, gate = threading.Event(), threading.Event()

    async def wait() -> None:
        began.set()
        while not gate.is_set():
            await asyncio.sleep(0.01)

    def wait_in_thread() -> None:
        began.set()
        gate.wait(30)

    async def block() -> None:
        wait_in_thread()

    handler = {"async": wait, "thread": wait_in_thread, "blocking": block, "parallel": wait_in_thread}[kind]

    @app.function("long")
    async def long(ctx: Context) -> None:
        await ctx.step.run("before", lambda: 1)
        if kind == "parallel":
            await asyncio.gather(ctx.step.run("charge", handler), ctx.step.run("other", lambda: 2))
        else:
            await ctx.step.run("charge", handler)

    worker = run_worker(app, lease_ms=120_000)  # its leases are extended after 40 seconds: the report does not wait
    before = time.time()
    run = app.start(long)
    assert began.wait(20)
    until(lambda: (charge := step(run, "charge")) and charge.state == "running", what="the step")
    charge = step(run, "charge")
    assert charge is not None
    assert outcomes(charge) == [(1, "running")]
    assert charge.worker == worker.worker.name
    assert charge.started_at is not None
    assert before <= charge.started_at / 1000 + 0.001 <= time.time()
    reason = run.explain()
    [executing] = [one for one in reason.because if one.subject == "charge"]
    assert executing.text == f"step 'charge' is executed by worker {worker.worker.name}"
    assert executing.since == utc_time(charge.started_at)
    gate.set()
    run.result(20)
    assert outcomes(step(run, "charge")) == [(1, "done")]


def test_a_step_that_has_ended_is_not_shown_as_executing_while_the_code_goes_on(app: Stepflow, run_worker) -> None:
    gate = threading.Event()

    @app.function("slow")
    async def slow(ctx: Context) -> None:
        await ctx.step.run("long", time.sleep, 1.6)
        while not gate.is_set():
            await asyncio.sleep(0.01)

    worker = run_worker(app)
    run = app.start(slow)
    until(lambda: (long := step(run, "long")) and long.state == "done", what="the end of the step")
    assert details(run).run.executing != ""  # it was reported
    reason = run.explain()
    assert reason.text == f"shop/slow is executed by worker {worker.worker.name}"
    assert [one.kind for one in reason.because] == ["code"]
    assert reason.since is not None
    gate.set()
    run.result(20)


def test_short_steps_are_not_reported(app: Stepflow, run_worker, client: Any) -> None:
    gate = threading.Event()

    @app.function("quick")
    async def quick(ctx: Context) -> None:
        for number in range(20):
            await ctx.step.run(f"step {number}", time.sleep, 0.1)
        while not gate.is_set():
            await asyncio.sleep(0.01)

    run_worker(app)
    run = app.start(quick)
    until(lambda: len(details(run).steps) == 20, what="the steps")
    assert details(run).run.executing == ""
    gate.set()
    run.result(20)


# -- waits ---------------------------------------------------------------------------


def test_a_wait_says_what_it_waits_for_and_how_it_ended(app: Stepflow, run_worker) -> None:
    @app.function("order")
    async def order(ctx: Context) -> None:
        await ctx.step.wait_for_event("paid", event="paid", timeout="1h", match={"data.order": 17})
        await ctx.step.wait_for_event("late", event="late", timeout="1s", match={"data.order": 17})

    run_worker(app)
    run = app.start(order)
    until(lambda: step(run, "paid"), what="the wait")
    paid = step(run, "paid")
    assert paid is not None
    assert paid.wait is not None
    assert (paid.wait.match, paid.wait.values, paid.history) == (("data.order",), {"data.order": 17}, ())
    [reason] = run.explain().because
    assert reason.text == "step 'paid' waits for event paid with data.order = 17"
    app.send(Event("paid", {"order": 17}, id="evt-1", ts=1_700_000_000_000))
    run.result(20)
    paid, late = step(run, "paid"), step(run, "late")
    assert paid is not None
    assert paid.wait is not None
    assert (paid.wait.outcome, paid.wait.event_id, paid.wait.event_ts) == ("came", "evt-1", 1_700_000_000_000)
    assert paid.wait.values == {"data.order": 17}
    assert late is not None
    assert late.wait is not None
    assert (late.wait.outcome, late.wait.event_id) == ("time", "")


def test_a_cancelled_run_says_what_it_was_doing(app: Stepflow, run_worker) -> None:
    gate = threading.Event()

    @app.function("child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("busy")
    async def busy(ctx: Context) -> None:
        await asyncio.gather(
            ctx.step.wait_for_event("paid", event="paid", timeout="1h", match={"data.order": 17}),
            ctx.step.invoke("call", child),
            ctx.step.run("hold", gate.wait, 30),
            ctx.step.run("flaky", Failing(1)),
        )

    from stepflow_engine.retry_policy import Backoff

    run_worker(app, backoff=Backoff(60_000, 60_000))
    run = app.start(busy)
    until(lambda: {one.state for one in details(run).steps} == {"waiting", "running", "retrying"}, what="the steps")
    run.cancel()
    found = details(run)
    assert {one.id: one.state for one in found.steps} == dict.fromkeys(("call", "flaky", "hold", "paid"), "unfinished")
    views = {one.id: one for one in found.steps}
    assert outcomes(views["flaky"]) == [(1, "failed"), (2, "unfinished")]
    assert outcomes(views["hold"]) == [(1, "unfinished")]
    assert views["flaky"].failure is not None
    assert views["paid"].wait is not None
    assert views["paid"].wait.outcome == "unfinished"
    assert views["call"].invoke is not None
    assert [one.run.status for one in found.tree.children] == ["cancelled"]
    assert outcomes(found) == [(1, "unfinished")]
    assert run.explain().kind == "ended"
    gate.set()


# -- versions ------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_and_memos_have_the_version_of_the_code(
    app: Stepflow, url: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    old = start_worker(HISTORY, name="old", env={"STEPFLOW_VERSION": "1.4"})
    run = app.start(history.first, {"path": str(mark), "action": "hang"})
    until(lambda: (long := step(run, "long")) and long.state == "running", what="the step")
    old.kill()
    start_worker(HISTORY, name="new", env={"STEPFLOW_VERSION": "1.5"})
    run.result(30)
    found = details(run)
    assert found.run.version == "1.4"
    assert found.run.ended_version == "1.5"
    assert {one.id: one.version for one in found.steps} == {"before": "1.4", "long": "1.5"}
    assert [one.version for step in found.steps for one in step.history] == ["1.4", "1.4", "1.5"]
    assert [one.version for one in found.history] == ["1.5"]
    shown = as_json("runs", "show", run.id, "--redis-url", url)
    assert (shown["version"], shown["worker"]) == ("1.4", "new")
    text = call("runs", "show", run.id, "--redis-url", url).stdout
    assert "1.4, ended with 1.5" in text
    assert "worker old died" in text


def test_the_commands_work_where_the_version_of_the_code_is_set(url: str) -> None:
    done = call("runs", "list", "--redis-url", url, STEPFLOW_VERSION="1.4.0")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "encrypted"])
def test_a_fork_shows_what_it_took_over(
    url: str, run_worker, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPFLOW_VERSION", "1.4")
    app = Stepflow("shop", redis_url=url, encryption=Encryption(keys=keys) if keys else None)
    charge = Failing(2)

    @app.function("order", retries=0)
    async def order(ctx: Context) -> None:
        await ctx.step.run("reserve", lambda: 1)
        await ctx.step.wait_for_event("paid", event="paid", timeout="1h", match={"data.order": 17})
        await ctx.step.run("charge", charge)

    old = run_worker(app)
    run = app.start(order)
    until(lambda: step(run, "paid"), what="the wait")
    app.send("paid", {"order": 17}, id="evt-1")
    with pytest.raises(RunFailedError):
        run.result(20)
    old.stop()
    monkeypatch.setenv("STEPFLOW_VERSION", "1.5")
    run_worker(app)
    first = run.retry()
    with pytest.raises(RunFailedError):
        first.result(20)
    fork = first.retry()
    fork.result(20)
    paid = step(fork, "paid")
    assert paid is not None
    assert paid.wait is not None
    assert (paid.wait.outcome, paid.wait.values, paid.wait.event_id) == ("came", {"data.order": 17}, "evt-1")
    assert {one.id: one.version for one in details(fork).steps} == {"reserve": "1.4", "paid": "", "charge": "1.5"}
    assert {one.id: one.version for one in fork.steps()} == {"reserve": "1.4", "paid": "", "charge": "1.5"}
    assert outcomes(step(fork, "charge")) == [(1, "done")]


# -- the command line ----------------------------------------------------------------


def test_the_command_line_shows_the_attempts_and_why_a_run_failed(app: Stepflow, url: str, run_worker) -> None:
    @app.function("broken", retries=1)
    async def broken(ctx: Context) -> None:
        await ctx.step.run("charge", Failing(9))

    run_worker(app)
    run = app.start(broken)
    with pytest.raises(RunFailedError):
        run.result(20)
    text = call("runs", "show", run.id, "--redis-url", url).stdout
    assert "ATTEMPT OF" in text
    assert "ValueError: 8 left" in text
    [charge] = as_json("runs", "show", run.id, "--redis-url", url)["steps"]
    assert [one["error"]["message"] for one in charge["history"]] == ["8 left", "7 left"]
    explained = call("explain", run.id, "--redis-url", url).stdout.splitlines()
    assert explained[0].startswith("shop/broken failed: ValueError: 7 left")
    assert explained[1] == "  step 'charge' failed after 2 attempts: ValueError: 7 left"


def test_the_read_api_and_lists_have_the_version_of_the_code(app: Stepflow, run_worker, client) -> None:
    @app.function("plain")
    async def plain(ctx: Context) -> int:
        return await ctx.step.run("a", lambda: 1)

    run_worker(app)
    run = app.start(plain)
    assert run.result(30) == 1
    stored = client.hget(f"stepflow:run:{run.id}", "version")
    assert stored
    [listed] = app.runs(plain)
    assert listed.listed is not None
    assert {run.info().version, listed.listed.version, *[step.version for step in run.steps()]} == {stored}
