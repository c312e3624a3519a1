"""Retry policies on workers: attempts, errors and budgets, of steps and of the code between them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from stepflow import Context, Retry, RunFailedError, StepError, Stepflow, SyncContext

QUICK: dict[str, Any] = {"initial": "1ms", "maximum": "5ms"}


def test_a_step_has_the_attempts_of_its_policy(app: Stepflow, run_worker) -> None:
    calls: list[int] = []

    def flaky(ctx: SyncContext) -> int:
        calls.append(ctx.attempt)
        if ctx.attempt < 25:
            raise ConnectionError("down")
        return ctx.attempt

    @app.function("long")
    def long(ctx: SyncContext) -> int:
        return ctx.step.with_options(retries=Retry(40, **QUICK)).run("flaky", flaky, ctx)

    run_worker(app)
    run = app.start(long)
    assert run.result(30) == 25
    assert calls == list(range(26))
    (step,) = run.steps()
    assert step.attempts == 26


def test_an_error_that_the_policy_leaves_out_ends_the_step_at_once(app: Stepflow, run_worker) -> None:
    calls: list[str] = []

    async def fail(error: Exception) -> None:
        calls.append(type(error).__name__)
        raise error

    @app.function("strict", retries=Retry(3, **QUICK, on=OSError, unless=PermissionError))
    async def strict(ctx: Context) -> list[str]:
        names = []
        for error in (ValueError("a"), PermissionError("b"), TimeoutError("c")):
            try:
                await ctx.step.run(type(error).__name__, fail, error)
            except StepError as failed:
                names.append(failed.name)
        return names

    run_worker(app)
    assert app.invoke(strict, timeout=30) == ["ValueError", "PermissionError", "TimeoutError"]
    assert calls == ["ValueError", "PermissionError", "TimeoutError", "TimeoutError", "TimeoutError"]


def test_a_number_of_retries_keeps_the_errors_of_the_policy_around_it(app: Stepflow, run_worker) -> None:
    calls: list[str] = []

    async def fail(name: str, error: Exception) -> None:
        calls.append(name)
        raise error

    @app.function("mixed", retries=Retry(9, **QUICK, unless=KeyError))
    async def mixed(ctx: Context) -> None:
        for name, error in (("key", KeyError()), ("value", ValueError())):
            with contextlib.suppress(StepError):
                await ctx.step.with_options(retries=1).run(name, fail, name, error)

    run_worker(app)
    app.invoke(mixed, timeout=30)
    assert calls == ["key", "value", "value"]


@pytest.mark.parametrize("where", ["step", "code"])
def test_the_budget_counts_from_the_first_failure(app: Stepflow, run_worker, where: str) -> None:
    calls: list[None] = []
    policy = Retry(10_000, initial="20ms", maximum="20ms", factor=1, budget="300ms")

    async def fail() -> None:
        calls.append(None)
        raise ConnectionError("down")

    @app.function("limited", retries=policy)
    async def limited(ctx: Context) -> None:
        await (ctx.step.run("fail", fail) if where == "step" else fail())

    run_worker(app)
    with pytest.raises(RunFailedError, match="down"):
        app.start(limited).result(60)
    assert 2 < len(calls) < 1_000


def test_a_policy_also_holds_for_the_code_between_steps(app: Stepflow, run_worker) -> None:
    calls: list[int] = []

    @app.function("body", retries=Retry(30, **QUICK, on=lambda error: "busy" in str(error)))
    async def body(ctx: Context) -> int:
        calls.append(ctx.attempt)
        raise ValueError("busy" if ctx.attempt < 23 else "gone")

    run_worker(app)
    with pytest.raises(RunFailedError, match="gone"):
        app.invoke(body, timeout=30)
    assert calls == list(range(24))


def test_the_predicate_that_raises_is_named_in_the_history(app: Stepflow, run_worker) -> None:
    def mistaken(error: BaseException) -> bool:
        return bool(error.status)  # type: ignore[attr-defined]

    async def fail() -> None:
        raise ConnectionError("down")

    @app.function("noted", retries=Retry(2, **QUICK, on=mistaken))
    async def noted(ctx: Context) -> None:
        await ctx.step.run("fail", fail)

    run_worker(app)
    run = app.start(noted)
    with pytest.raises(RunFailedError):
        run.result(30)
    (step,) = run.steps()
    assert step.attempts == 2
    assert step.history[0].error is not None
    assert "on=test_the_predicate" in step.history[0].error.traceback
    assert "mistaken was ignored: it raised AttributeError" in step.history[0].error.traceback
