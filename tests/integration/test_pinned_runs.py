"""pin="version": old workers end the runs that they began, and new workers begin new ones."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from stepflow import ConfigurationError, Context, Run, Stepflow
from tests.support.command_line import assert_refused, call
from tests.support.processes import WorkerThread, until

pytestmark = pytest.mark.roles("producer", "operator")
StartWorker = Callable[..., WorkerThread]


def release(url: str, name: str) -> Stepflow:
    """A release of a pinned function, whose steps return the name of the release that executed them."""
    app = Stepflow("shop", redis_url=url)

    @app.function("contract", pin="version")
    async def contract(ctx: Context) -> list[str]:
        first = await ctx.step.run("first", lambda: name)
        await ctx.step.wait_for_event("end", event="end", timeout="1h")
        return [first, await ctx.step.run("last", lambda: name)]

    return app


@pytest.fixture
def run_release(url: str, run_worker: StartWorker, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], WorkerThread]:
    """Start a worker of a release."""

    def run(name: str) -> WorkerThread:
        monkeypatch.setenv("STEPFLOW_VERSION", name)
        started = run_worker(release(url, name))
        until(lambda: started.worker._loop is not None, what="the registration")
        return started

    return run


def explained(run: Run) -> str:
    reason = run.explain()
    return " ".join(one.text for one in (reason, *reason.because))


def test_runs_are_executed_by_the_release_that_began_them(
    url: str, run_release: Callable[[str], WorkerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = release(url, "producer")
    old_worker = run_release("1.4")
    old, stuck = app.start("contract"), app.start("contract")
    until(lambda: all(run.status().value == "waiting" for run in (old, stuck)), what="the waits")
    run_release("1.5")
    new = [app.start("contract") for _ in range(6)]
    until(lambda: all(run.status().value == "waiting" for run in new), what="the waits of new runs")
    assert {run.info().version for run in new} == {"1.5"}
    assert old.info().pinned
    assert "Version 1.4: 2 live runs; Version 1.5: 6 live runs" in call("functions", STEPFLOW_REDIS_URL=url).stdout

    old_worker.stop()
    app.send("end")
    assert [run.result(20) for run in new] == [["1.5", "1.5"]] * 6
    until(lambda: "only workers with version 1.4" in explained(old) or "no live worker" in explained(old), what="1.4")
    done = call("runs", "unpin", stuck.id, "--reason", "1.4 is slow", "-o", "json", STEPFLOW_REDIS_URL=url)
    assert json.loads(done.stdout) == {"unpinned": [stuck.id]}
    assert stuck.result(20) == ["1.4", "1.5"]
    assert old.status().value == "queued"
    run_release("1.4")
    assert old.result(20) == ["1.4", "1.4"]
    shown = json.loads(call("functions", "-o", "json", STEPFLOW_REDIS_URL=url).stdout)[0]["pinned"]
    assert shown == [{"version": name, "runs": 0, "live": True} for name in ("1.4", "1.5")]
    again = app.run(old.id).rerun()
    until(lambda: again.status().value == "waiting", what="the wait of the second run")
    assert again.info().version == "1.4"  # the release that was registered last
    for wrong in ([], [old.id, "--function", "shop/contract"], [old.id, "--version", "1.4"]):
        assert call("runs", "unpin", *wrong, STEPFLOW_REDIS_URL=url).returncode == 2
    ended = call("runs", "unpin", old.id, STEPFLOW_REDIS_URL=url)
    assert_refused(ended, 2, f"run {old.id} has ended (completed)")
    done = call("runs", "unpin", "--function", "shop/contract", "--version", "1.4", STEPFLOW_REDIS_URL=url)
    assert done.stdout == "1 run unpinned\n"


def test_a_pin_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pin must be"):
        Stepflow("shop").function("contract", pin="worker")  # type: ignore[arg-type]


def test_a_worker_that_does_not_know_its_version_does_not_start(
    url: str, run_release: Callable[[str], WorkerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepflow_workers.worker.code_version", lambda _: "")
    with pytest.raises(ConfigurationError, match="STEPFLOW_VERSION"):
        run_release("")
    monkeypatch.setattr("stepflow_workers.worker.code_version", lambda _: '1.4"')
    with pytest.raises(ConfigurationError, match="backslash"):
        run_release("")
