"""An internal error of a worker is a failed attempt: it has an end, says what it was, and kills no worker."""

from __future__ import annotations

import asyncio
import logging

import pytest

from stepflow import Context, RunFailedError, StepError, Stepflow
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_workers.execution import job_runner
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.state.run_cache import CachedRun


class Bug(BaseException):
    """An error that no code expects."""


def break_loading(monkeypatch: pytest.MonkeyPatch, *, times: int, of_steps: bool) -> list[str]:
    """Let a worker fail to load the run of its continuation, or of its planned steps, a number of times."""
    load, broken = job_runner.load_cached_run, list[str]()

    async def loads(context: JobContext, lease: Lease) -> CachedRun | None:
        if bool(lease.key) is of_steps and len(broken) < times:
            broken.append(lease.job)
            raise Bug("out of order")
        return await load(context, lease)

    monkeypatch.setattr(job_runner, "load_cached_run", loads)
    return broken


@pytest.mark.parametrize(("retries", "times"), [(0, 1), (2, 3)])
def test_a_run_ends_when_its_job_goes_on_raising_an_internal_error(
    app: Stepflow, run_worker, monkeypatch: pytest.MonkeyPatch, retries: int, times: int
) -> None:
    @app.function("f", retries=retries)
    async def f(ctx: Context) -> None: ...

    broken = break_loading(monkeypatch, times=99, of_steps=False)
    run_worker(app)
    with pytest.raises(RunFailedError, match="could not execute the job: Bug: out of order") as failed:
        app.invoke(f, timeout=2)  # less than a lease: no other worker reclaims the job
    assert failed.value.name == "InternalError"
    assert len(broken) == times


def test_a_run_goes_on_after_an_internal_error(
    app: Stepflow, run_worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @app.function("f")
    async def f(ctx: Context) -> str:
        return await ctx.step.run("x", lambda: "done")

    break_loading(monkeypatch, times=1, of_steps=False)
    run_worker(app)
    with caplog.at_level(logging.ERROR):
        assert app.invoke(f, timeout=2) == "done"
    assert [record.message for record in caplog.records] == ["job_internal_error"]


@pytest.mark.parametrize(("retries", "times"), [(0, 1), (2, 3)])
def test_a_planned_step_ends_when_its_job_goes_on_raising_an_internal_error(
    app: Stepflow, run_worker, monkeypatch: pytest.MonkeyPatch, retries: int, times: int
) -> None:
    @app.function("f", retries=retries)
    async def f(ctx: Context) -> list[object]:
        steps = [ctx.step.run("a", lambda: 1), ctx.step.sleep("b", "10ms")]
        return [
            error.name if isinstance(error, StepError) else error
            for error in await asyncio.gather(*steps, return_exceptions=True)
        ]

    broken = break_loading(monkeypatch, times=99, of_steps=True)
    run_worker(app)
    assert app.invoke(f, timeout=2) == ["InternalError", None]
    assert len(broken) == times
