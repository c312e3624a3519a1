"""stepflow export: histories of real runs, which the code that made them fits, and other code does not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepflow import Context, Encryption, Stepflow
from stepflow.testing import assert_replays
from tests.support.command_line import call
from tests.support.processes import WorkerThread, until
from tests.support.roles import as_role
from tests.support.terminal import Screen, in_terminal

pytestmark = pytest.mark.roles("producer", "operator")
StartWorker = Callable[..., WorkerThread]
KEY = Encryption.generate_key()


def app_of(url: str, *, is_new: bool = False, encryption: Encryption | None = None) -> Stepflow:
    app = Stepflow("shop", redis_url=url, encryption=encryption)

    @app.function("order", retries=0)
    async def order(ctx: Context) -> str:
        await asyncio.gather(*(ctx.step.run("reserve", lambda n=n: n) for n in range(2)))
        if is_new:
            await ctx.step.run("score", lambda: 1)
        if ctx.event.data.get("fails"):
            raise ValueError("no")
        await ctx.step.sleep("pause", "10ms")
        await ctx.step.wait_for_event("shipped", event="shipped", timeout="1h")
        return "done"

    return app


def waits(run: Any) -> bool:
    return any(step.id == "shipped" and step.state == "waiting" for step in run.steps())


def test_exported_histories_fit_the_code_that_made_them_and_no_other(
    url: str, run_worker: StartWorker, tmp_path: Path
) -> None:
    app = app_of(url)
    run_worker(app)
    runs = [app.start("order", {"card": "4111"}) for _ in range(3)]
    failed = app.start("order", {"fails": True})
    until(lambda: all(waits(run) for run in runs) and failed.status() == "failed", what="the waits")
    one = call("export", runs[0].id, "--to", str(tmp_path), "--redact", "event.data.card", STEPFLOW_REDIS_URL=url)
    (file,) = tmp_path.glob("*.json")
    assert (one.stdout, one.stderr) == (f"{file}\n", "")
    assert "4111" not in file.read_text()
    call("export", "--function", "shop/order", "--per-shape", "1", "--to", str(tmp_path), STEPFLOW_REDIS_URL=url)
    statuses = [json.loads(each.read_text())["status"] for each in tmp_path.glob("*.json")]
    assert sorted(statuses, key=str) == [None, None, "failed"]
    assert_replays(app, tmp_path)
    with pytest.raises(AssertionError, match='re-runs: step "score" is asked for before "pause"'):
        assert_replays(app_of(url, is_new=True), tmp_path)
    (tmp_path / "shop.py").write_text(
        "from tests.integration.test_export import app_of\n\napp = app_of('', is_new=True)\n"
    )
    process, ours = in_terminal(
        ["debug", runs[0].id, "--app", "shop:app", "--redis-url", as_role(url, "read-only")], folder=tmp_path
    )
    screen = Screen(ours)
    until(lambda: screen.has("(Pdb)"), what="the debugger")
    assert "step 'score' (run) is requested here" in screen.text
    screen.type("c")
    until(lambda: screen.has("the history ends here: the code waits for 'score'"), what="the end of the command")
    assert process.wait(10) == 0
    os.close(ours)
    for words, code, said in (
        (["none"], 4, "there is no run 'none'"),
        ([], 2, "name runs, or a function with --function"),
        ([runs[0].id, "--redact", "event.data.cord"], 2, "path 'event.data.cord' leads to no value"),
    ):
        done = call("export", *words, "--to", str(tmp_path), STEPFLOW_REDIS_URL=url)
        assert (done.returncode, done.stdout) == (code, "")
        assert said in done.stderr


def test_values_of_an_app_that_encrypts_are_opened_with_its_key(
    url: str, run_worker: StartWorker, tmp_path: Path
) -> None:
    app = app_of(url, encryption=Encryption(keys=[KEY]))
    run_worker(app)
    run = app.start("order", {"card": "4111"})
    until(lambda: waits(run), what="the wait")
    refused = call("export", run.id, "--to", str(tmp_path), STEPFLOW_REDIS_URL=url)
    assert refused.returncode == 3
    done = call(
        "export",
        run.id,
        "--to",
        str(tmp_path),
        STEPFLOW_REDIS_URL=url,
        STEPFLOW_ENCRYPTION_KEYS=KEY,
    )
    assert "in clear text" in done.stderr
    assert "4111" in next(tmp_path.glob("*.json")).read_text()
    assert_replays(app, tmp_path)
