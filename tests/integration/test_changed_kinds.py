"""New code gives the id of a step to a step of another kind, while runs of the old code wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stepflow import Context, Event, RetryAfterError, RunFailedError, Stepflow
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.steps import StepKind
from tests.support.processes import until

Call = Callable[[Context], Awaitable[object]]


def later() -> None:
    raise RetryAfterError("later", "500ms")


CALLS: dict[StepKind, Call] = {
    StepKind.RUN: lambda ctx: ctx.step.run("x", later),
    StepKind.INVOKE: lambda ctx: ctx.step.invoke("x", "child"),
    StepKind.SLEEP: lambda ctx: ctx.step.sleep("x", "1h"),
    StepKind.WAIT: lambda ctx: ctx.step.wait_for_event("x", event="paid", timeout="1h"),
    StepKind.SEND: lambda ctx: ctx.step.send_event("x", Event("paid")),
    StepKind.SIGNAL: lambda ctx: ctx.step.wait_for_signal("x", "go", timeout="1h"),
    StepKind.ASK: lambda ctx: ctx.step.ask("x", schema=bool, timeout="1h"),
    StepKind.START: lambda ctx: ctx.step.start_child("x", "child"),
    StepKind.MAP: lambda ctx: ctx.step.map("x", lambda _: later(), [1]),
}


def code(url: str, call: Call) -> Stepflow:
    app = Stepflow("kinds", redis_url=url)

    @app.function("f", retries=1)
    async def f(ctx: Context) -> None:
        await asyncio.gather(call(ctx), ctx.step.sleep("tick", "1s"))

    @app.function("child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("long", "1h")

    return app


KINDS = list(StepKind)
PAIRS = [
    pytest.param(old, new, marks=[] if new is KINDS[KINDS.index(old) - 1] else pytest.mark.slow)
    for old in KINDS
    for new in KINDS
    if old not in (new, StepKind.SEND, StepKind.START)
]
"""Each kind and each other kind, one of them in the fast tests. A send and a start have no step that waits."""


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_step_that_waits_and_has_another_kind_in_new_code_ends_with_an_error_that_names_it(
    url: str, run_worker, old: StepKind, new: StepKind
) -> None:
    app, partition = code(url, CALLS[old]), partition_for(url, NO_ENCRYPTION)
    worker = run_worker(app)
    run = app.start("f")
    broker = Broker(url)
    waits = ("waiting", "delayed", "mapping")
    until(lambda: any(s.id == "x" and s.state in waits for s in broker.execute(read_steps(partition, run.id))))
    broker.close()
    worker.stop()
    run_worker(code(url, CALLS[new]))
    with pytest.raises(RunFailedError, match=f"kind '{old}' in this run") as failed:
        run.result(timeout=10)
    assert failed.value.name == "StepKindError"
