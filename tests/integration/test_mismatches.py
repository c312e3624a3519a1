"""New code that requests other steps than the histories of live runs: the warning, and what on_mismatch does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from stepflow import ConfigurationError, Context, HistoryMismatchError, Run, RunFailedError, Stepflow, SyncContext
from tests.support.command_line import call
from tests.support.processes import WorkerThread, until

pytestmark = pytest.mark.roles("producer", "operator")
StartWorker = Callable[..., WorkerThread]
Action = Literal["warn", "pause", "fail"]


def app_of(url: str, *, is_new: bool, on_mismatch: Action = "warn") -> Stepflow:
    """The old or the new code: it does something, waits for an event, and does something else."""
    app = Stepflow("shop", redis_url=url, on_mismatch=on_mismatch)
    name = "charge-2" if is_new else "charge"

    @app.function("order", retries=0)
    async def order(ctx: Context) -> str:
        charged = await ctx.step.run(name, lambda: name)
        await ctx.step.wait_for_event("shipped", event="shipped", timeout="1h")
        return charged

    @app.function("sync-order", retries=0)
    def sync_order(ctx: SyncContext) -> str:
        charged = ctx.step.run(name, lambda: name)
        ctx.step.wait_for_event("shipped", event="shipped", timeout="1h")
        return charged

    @app.function("short", retries=0)
    async def short(ctx: Context) -> str:
        more = () if is_new else (ctx.step.sleep("rest", "1h"),)
        await asyncio.gather(ctx.step.wait_for_event("shipped", event="shipped", timeout="1h"), *more)
        return "ended"

    return app


def waits(*runs: Run) -> None:
    until(lambda: all(any(step.state == "waiting" for step in run.steps()) for run in runs), what="the waits")


def begun_by_old_code(url: str, run_worker: StartWorker, *names: str) -> list[Run]:
    old = app_of(url, is_new=False)
    worker = run_worker(old)
    runs = [old.start(name) for name in names]
    waits(*runs)
    worker.stop()
    return runs


def differences(log: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in log.records if record.message == "history_differs"]


def kinds(run: Run) -> list[str]:
    reason = run.explain()
    return [one.kind for one in (reason, *reason.because)]


def test_runs_that_differ_go_on_with_one_warning_each(
    url: str, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    runs = begun_by_old_code(url, run_worker, "order", "sync-order")
    assert differences(caplog) == []
    new = app_of(url, is_new=True)
    for _ in range(2):
        run_worker(new)
    new.send("shipped")
    assert [new.run(run.id).result(timeout=10) for run in runs] == ["charge-2"] * 2
    found = {one["run_id"]: one for one in differences(caplog)}
    assert len(differences(caplog)) == len(found) == 2
    assert "history_differs" in kinds(runs[0])
    lines = [n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "charged = " in text]
    for run, line in zip(runs, lines[:2], strict=True):
        assert found[run.id]["recorded"] == "run 'charge', wait 'shipped'"
        assert found[run.id]["requested"] == f"run 'charge-2' (tests/integration/test_mismatches.py:{line})"
    shown = json.loads(call("runs", "show", runs[0].id, "-o", "json", STEPFLOW_REDIS_URL=url).stdout)
    assert shown["mismatch"]["recorded"][0] == {"id": "charge", "kind": "run", "at": None}
    assert "the history has run 'charge', wait 'shipped', and the code " in " ".join(
        call("runs", "show", runs[0].id, STEPFLOW_REDIS_URL=url).stdout.split()
    )


def test_a_paused_run_goes_on_when_it_is_accepted_or_when_the_old_code_is_back(
    url: str, run_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepflow_workers.execution.run_loader._DEFER_MS", (100, 200))
    accepted, kept = begun_by_old_code(url, run_worker, "order", "order")
    new = app_of(url, is_new=True, on_mismatch="pause")
    worker = run_worker(new)
    new.send("shipped")
    until(lambda: all(kinds(run)[0] == "history_differs" for run in (accepted, kept)), what="the pauses")
    said = call("explain", kept.id, STEPFLOW_REDIS_URL=url).stdout
    assert f"let it go on with this code: stepflow runs accept {kept.id}" in said
    done = call("runs", "accept", accepted.id, "--reason", "fine", "-o", "json", STEPFLOW_REDIS_URL=url)
    assert json.loads(done.stdout) == {"accepted": [accepted.id]}
    assert new.run(accepted.id).result(timeout=10) == "charge-2"
    assert kinds(kept)[0] == "history_differs"
    worker.stop()
    run_worker(app_of(url, is_new=False, on_mismatch="pause"))
    assert kept.result(timeout=20) == "charge"
    again = call("runs", "accept", kept.id, STEPFLOW_REDIS_URL=url)
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: run {kept.id} has ended (completed)")


def test_runs_fail_whose_code_asks_for_other_steps_or_ends_while_a_step_waits(
    url: str, run_worker: StartWorker
) -> None:
    runs = begun_by_old_code(url, run_worker, "order", "short")
    new = app_of(url, is_new=True, on_mismatch="fail")
    run_worker(new)
    new.send("shipped")
    for run, text in zip(runs, (" requests run 'charge-2' (", " returns"), strict=True):
        with pytest.raises(RunFailedError) as failed:
            run.result(timeout=10)
        assert failed.value.name == HistoryMismatchError.__name__
        assert text in str(failed.value)


def test_an_app_says_which_actions_there_are() -> None:
    with pytest.raises(ConfigurationError, match='on_mismatch must be "warn", "pause" or "fail", got \'stop\''):
        Stepflow("shop", on_mismatch="stop")  # type: ignore[arg-type]
