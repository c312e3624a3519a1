"""``stepflow runs retry``, ``rerun``, ``fork`` and ``diff``, through real processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepflow import Context, Encryption, RunFailedError, Stepflow
from tests.integration.apps import shop
from tests.support.command_line import as_json, assert_refused, burst, call, enqueue, register

pytestmark = pytest.mark.slow


@pytest.fixture
def failed(url: str) -> str:
    """A run that has failed in its second step."""
    register(url, shop.app)
    run_id = enqueue(url, "broken")
    burst(url)
    return run_id


def test_a_run_is_retried_rerun_and_forked(failed: str, url: str) -> None:
    retried = as_json("runs", "retry", failed, "--reason", "card", "--redis-url", url)
    assert (retried["forked_from"], retried["status"]) == (failed, "queued")
    rerun = call("runs", "rerun", failed, "--data", '{"n": 1}', "--redis-url", url).stdout.strip()
    forked = call(
        *("runs", "fork", failed, "--before", "refused", "--result", "fine=2", "--redis-url", url)
    ).stdout.strip()
    burst(url)
    shown = as_json("runs", "show", forked, "--redis-url", url)
    assert (shown["forked_from"], shown["forked_at"], shown["status"]) == (failed, "refused", "failed")
    assert [(step["id"], step["result"], step["attempts"]) for step in shown["steps"][:1]] == [("fine", 2, 0)]
    assert as_json("runs", "show", rerun, "--redis-url", url)["event"]["data"] == {"n": 1}
    source = as_json("runs", "show", failed, "--redis-url", url)
    assert source["forks"] == [forked, rerun, retried["run_id"]]
    listed = {run["run_id"]: run for run in as_json("runs", "list", "--status", "failed", "--redis-url", url)}
    assert listed[failed]["forks"] == source["forks"]
    assert (listed[forked]["forked_from"], listed[forked]["forks"]) == (failed, [])
    table = call("runs", "list", "--id", failed, "--redis-url", url, COLUMNS="200").stdout
    assert "(run again) NonRetriableError" in " ".join(table.split())
    text = call("runs", "show", retried["run_id"], "--redis-url", url).stdout
    assert f"fork of   {failed}" in text
    assert ": card)" in text
    assert "forks" in call("runs", "show", failed, "--redis-url", url).stdout


def test_links_to_forgotten_runs_say_so(failed: str, url: str, client: Any) -> None:
    fork = call("runs", "retry", failed, "--redis-url", url).stdout.strip()
    client.delete(f"stepflow:run:{fork}")
    assert as_json("runs", "show", failed, "--redis-url", url)["forks"] == []
    fork = call("runs", "retry", failed, "--redis-url", url).stdout.strip()
    client.delete(f"stepflow:run:{failed}")
    assert f"fork of   {failed} (forgotten)" in call("runs", "show", fork, "--redis-url", url, COLUMNS="200").stdout
    assert as_json("runs", "show", fork, "--redis-url", url)["forked_from"] == failed


def test_the_difference_of_two_runs(failed: str, url: str) -> None:
    forked = call(
        *("runs", "fork", failed, "--before", "refused", "--result", 'fine={"a": [1]}', "--redis-url", url)
    ).stdout.strip()
    same = call("runs", "rerun", failed, "--redis-url", url).stdout.strip()
    burst(url)
    found = as_json("runs", "diff", failed, forked, "--redis-url", url)
    assert found == [{"step": "fine", "what": "result", "path": "", "a": 1, "b": {"a": [1]}}]
    assert "fine" in call("runs", "diff", failed, forked, "--redis-url", url).stdout
    assert call("runs", "diff", failed, same, "--redis-url", url).stdout == "no difference\n"


def test_bad_input_is_one_line_and_an_exit_code(failed: str, url: str) -> None:
    server = ("--redis-url", url)
    assert_refused(call("runs", "retry", "f" * 32, *server), 4, "there is no run")
    assert_refused(call("runs", "retry", failed[:8], *server), 4, f"there is no run '{failed[:8]}': an id is longer")
    assert_refused(call("runs", "fork", failed, "--before", "fin", *server), 2, "its steps: 'fine', 'refused'")
    assert_refused(call("runs", "fork", failed, *server), 2, "--before")
    assert_refused(call("runs", "fork", failed, "--before", "fine", "--result", "fine", *server), 2, "STEP=JSON")
    assert_refused(call("runs", "rerun", failed, "--data", "{", *server), 2, "data must be JSON")
    both = call("runs", "retry", failed, "f" * 32, *server)
    assert (both.returncode, len(both.stdout.split())) == (4, 1), "the others are retried"


def test_a_run_that_cannot_be_retried_does_not_stop_the_others(failed: str, url: str, run_worker: Any) -> None:
    vault = Stepflow("vault", redis_url=url, encryption=Encryption(keys=[b"k" * 32]))

    @vault.function("open", retries=0)
    async def open_(ctx: Context) -> None:
        await ctx.step.run("count", lambda: 1)
        raise ValueError("no")

    worker = run_worker(vault)
    sealed = vault.start(open_)
    with pytest.raises(RunFailedError):
        sealed.result(30)
    worker.stop()
    done = call("runs", "retry", sealed.id, failed, "--output", "json", "--redis-url", url)
    assert done.returncode == 3
    assert "this process does not have its key" in done.stderr
    assert [one["forked_from"] for one in json.loads(done.stdout)] == [failed]
