"""ctx.patched in workers: runs that old code began stay on the old way, across parks, forks, retries and workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stepflow import Context, NonRetriableError, Run, RunFailedError, Stepflow, SyncContext
from tests.support.command_line import call
from tests.support.processes import WorkerThread, until

pytestmark = pytest.mark.roles("producer", "operator")
StartWorker = Callable[..., WorkerThread]


def version(url: str, *, has_patch: bool, fails: bool = False) -> Stepflow:
    """The old or the new code of a function, async and sync: it waits, is charged, and waits again."""
    app = Stepflow("shop", redis_url=url)

    def bill(kind: str) -> str:
        if fails:
            raise NonRetriableError("no money")
        return kind

    @app.function("order", retries=0)
    async def order(ctx: Context) -> list[str]:
        await ctx.step.wait_for_event("first", event="first", timeout="1h")
        kind = "new" if has_patch and ctx.patched("tax") else "old"
        billed = await asyncio.gather(*[ctx.step.run(f"{kind}{n}", bill, kind) for n in range(2)])
        await ctx.step.wait_for_event("last", event="last", timeout="1h")
        return list(billed)

    @app.function("sync-order", retries=0)
    def sync_order(ctx: SyncContext) -> list[str]:
        ctx.step.wait_for_event("first", event="first", timeout="1h")
        kind = "new" if has_patch and ctx.patched("tax") else "old"
        billed = [ctx.step.run(f"{kind}{n}", bill, kind) for n in range(2)]
        ctx.step.wait_for_event("last", event="last", timeout="1h")
        return billed

    return app


def wait_for(name: str, *runs: Run) -> None:
    """Wait until each run waits in the step with this name."""

    def waits(run: Run) -> bool:
        return any(step.id == name and step.state == "waiting" for step in run.steps())

    until(lambda: all(map(waits, runs)), what=f"the wait {name}")


def test_runs_of_old_code_keep_their_way_and_new_ones_take_the_new_way(
    url: str, run_worker: StartWorker, tmp_path: Path
) -> None:
    old, new = version(url, has_patch=False), version(url, has_patch=True)
    worker = run_worker(old)
    passed = [old.start(name) for name in ("order", "sync-order")]
    wait_for("first", *passed)
    old.send("first")
    wait_for("last", *passed)
    early = [old.start(name) for name in ("order", "sync-order")]
    wait_for("first", *early)
    worker.stop()

    (tmp_path / "shop.py").write_text(
        "from tests.integration.test_patches import version\n\napp = version('', has_patch=True)\n"
    )
    checked = call("check", "shop:app", "--from", url, cwd=tmp_path)
    assert "live runs: 0 new way, 0 old way, 2 undecided: keep the old way" in checked.stdout

    for _ in range(2):
        run_worker(new)
    late = [new.start(name) for name in ("order", "sync-order")]
    wait_for("first", *late)
    new.send("first")
    wait_for("last", *early, *late)
    new.send("last")
    assert [run.result(20) for run in passed] == [["old", "old"]] * 2
    assert [run.result(20) for run in (*early, *late)] == [["new", "new"]] * 4
    assert [run.info().patches for run in (*passed, *early)] == [{"tax": False}] * 2 + [{"tax": True}] * 2
    shown = call("runs", "show", early[0].id, "-o", "json", STEPFLOW_REDIS_URL=url)
    assert json.loads(shown.stdout)["patches"] == {"tax": True}
    assert "tax=no" in call("runs", "show", passed[0].id, STEPFLOW_REDIS_URL=url).stdout

    # a fork before the charge decides anew, a fork after it keeps the way of its source
    anew = new.fork(passed[1], before="old0")
    same = new.fork(passed[0], before="last")
    wait_for("last", anew, same)
    new.send("last")
    assert [anew.result(20), same.result(20)] == [["new", "new"], ["old", "old"]]


def test_a_retry_with_new_code_takes_the_new_way_if_only_the_failed_step_follows(
    url: str, run_worker: StartWorker
) -> None:
    failing = version(url, has_patch=False, fails=True)
    worker = run_worker(failing)
    run = failing.start("sync-order")
    wait_for("first", run)
    failing.send("first")
    with pytest.raises(RunFailedError):
        run.result(20)
    worker.stop()
    new = version(url, has_patch=True)
    run_worker(new)
    again = new.run(run.id).retry()
    wait_for("last", again)
    new.send("last")
    assert again.result(20) == ["new", "new"]
