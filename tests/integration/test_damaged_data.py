"""Stored data of a run that cannot be read: damaged data fails the run, and the error names what it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
import redis

from stepflow import Context, RunFailedError, Stepflow
from stepflow_engine.codec import loads
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from tests.support.processes import until

FIRST, OTHER = step_key("first"), step_key("other")
Damage = Callable[[redis.Redis, str], object]


def memo(text: str) -> Damage:
    return lambda client, run: client.hset(f"stepflow:memos:{run}", FIRST, text)


def of_run(field: str, text: str) -> Damage:
    return lambda client, run: client.hset(f"stepflow:run:{run}", field, text)


def of_step(field: str, text: str) -> Damage:
    return lambda client, run: client.hset(f"stepflow:steps:{run}", f"{OTHER}:{field}", text)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "memo, cut off": (memo('{"data":1,"id":"first","attempts":1'), r"the memo of step 'first' cannot be read"),
    "memo, of another id": (memo('{"data":1,"id":"second"'), f"the memo of the step with key {FIRST} cannot be read"),
    "memo, no object": (memo("[1]"), f"the memo of the step with key {FIRST} cannot be read"),
    "memo, failure": (memo('{"error":1,"id":"first"}'), r"the memo of step 'first' cannot be read"),
    "event, cut off": (of_run("event", '{"name":"e"'), "run .* cannot be read"),
    "event, no object": (of_run("event", "17"), "event of run .* cannot be read"),
    "event, without a name": (
        of_run("event", '{"data":1,"id":"x","ts":1}'),
        r"event of run .* \(its name is not",
    ),
    "run, failure": (of_run("last_error", "{"), "run .* cannot be read"),
    "step, detail": (of_step("detail", "nope"), "step 'other' cannot be read"),
    "step, error": (of_step("error", "{"), "step 'other' cannot be read"),
    "step, due": (of_step("due", "soon"), "step 'other' cannot be read"),
}


@pytest.fixture
def damaged(app: Stepflow, run_worker, client: redis.Redis) -> Callable[[Damage], tuple[str, list[int]]]:
    """Damage the data of a run that waits, and let another worker continue it; returns the run and the executions."""
    executed: list[int] = []

    @app.function("f", retries=3)
    async def f(ctx: Context) -> None:
        await ctx.step.run("first", lambda: executed.append(1))
        await asyncio.gather(
            ctx.step.wait_for_event("go", event="go", timeout="1h"),
            ctx.step.wait_for_event("other", event="other", timeout="1h"),
        )

    def damage(how: Damage) -> tuple[str, list[int]]:
        worker = run_worker(app)
        run = app.start(f)
        until(lambda: client.zcard("stepflow:timeouts") == 2, what="the waits")
        worker.stop()
        how(client, run.id)
        run_worker(app)
        app.send("go")
        return run.id, executed

    return damage


@pytest.mark.parametrize("case", DAMAGES)
def test_a_run_with_damaged_data_fails_at_once_and_the_error_names_what_is_damaged(
    damaged, client: redis.Redis, case: str
) -> None:
    how, text = DAMAGES[case]
    run_id, executed = damaged(how)
    before = client.hget(f"stepflow:memos:{run_id}", FIRST)
    until(lambda: client.hget(f"stepflow:run:{run_id}", "status") == "failed", what="the end of the run")
    failure = Failure.from_json(loads(client.hget(f"stepflow:run:{run_id}", "error")))
    assert failure.name == "CorruptDataError"
    assert re.search(f"{text}.* run stepflow doctor", failure.message)
    assert executed == [1]
    assert client.hget(f"stepflow:memos:{run_id}", FIRST) == before


def test_data_in_a_form_of_a_newer_version_is_left_to_workers_that_know_it(
    app: Stepflow, damaged, client: redis.Redis
) -> None:
    run_id, _ = damaged(memo('{"data":{"$enc":{"version":2}},"id":"first"}'))
    until(lambda: app.run(run_id).explain().kind == "not_readable", what="the run to be left to others")
    assert "step 'first': " in app.run(run_id).explain().text
    assert "unknown to this version" in app.run(run_id).explain().text
    memo('{"data":1,"id":"first"}')(client, run_id)  # as a worker that knows the form
    app.send("other")
    assert app.run(run_id).result(20) is None


def test_a_planned_step_of_a_run_with_damaged_data_ends_with_the_run(
    app: Stepflow, run_worker, client: redis.Redis
) -> None:
    executed: list[str] = []

    @app.function("fan", retries=3)
    async def fan(ctx: Context) -> None:
        await ctx.step.run("first", lambda: executed.append("first"))
        await ctx.step.sleep("nap", "500ms")
        steps = [ctx.step.run(name, executed.append, name) for name in "ab"]
        await asyncio.gather(*steps, ctx.step.wait_for_event("go", event="go", timeout="1h"))

    worker = run_worker(app)
    run = app.start(fan)
    until(lambda: client.hlen(f"stepflow:memos:{run.id}") == 1, what="the first step")
    app.pause(fan)
    until(lambda: client.hlen(f"stepflow:memos:{run.id}") == 2, what="the nap")
    worker.stop()
    memo("{")(client, run.id)
    run_worker(app)
    app.resume(fan)
    with pytest.raises(RunFailedError, match="the memo of the step"):
        run.result(20)
    assert executed == ["first"]
