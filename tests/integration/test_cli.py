"""The command line, through real processes."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest
import redis

from stepflow import Context, RateLimit, RunStatus, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.views import find_runs
from stepflow_cli.exit_codes import report
from tests.integration.apps import shop
from tests.support.command_line import (
    APPS,
    SHOP,
    as_json,
    assert_refused,
    burst,
    call,
    enqueue,
    register,
    running,
)
from tests.support.found_runs import found_runs
from tests.support.processes import until
from tests.support.roles import as_role


@pytest.fixture
def registered(url: str) -> str:
    """The URL of a server on which the functions of the shop are registered."""
    register(url, shop.app)
    return url


# -- worker --------------------------------------------------------------------


def test_a_worker_in_burst_mode_does_what_is_queued_and_ends(registered: str) -> None:
    sent = as_json("send", "shop/order.placed", "--data", '{"number": 3}', "--redis-url", registered)
    assert sent["functions"] == ["shop/order"]
    started = call("start", "shop/order", "--data", '{"number": 4}', "--redis-url", registered)
    burst(registered)
    runs = as_json("runs", "list", "--redis-url", registered)
    assert [run["status"] for run in runs] == ["completed", "completed"]
    assert started.stdout.strip() in [run["run_id"] for run in runs]


@pytest.mark.slow
def test_two_processes_in_burst_mode_do_what_is_queued_and_end(registered: str) -> None:
    for number in range(6):
        enqueue(registered, "order", {"number": number})
    done = burst(registered, "--processes", "2", "--name", "pair")
    assert {"worker=pair.1", "worker=pair.2"} <= set(done.stderr.split())
    runs = as_json("runs", "list", "--redis-url", registered)
    assert [run["status"] for run in runs] == ["completed"] * 6


@pytest.mark.slow
def test_the_worker_is_also_a_command_of_stepflow_and_takes_its_options_from_variables(registered: str) -> None:
    run = as_json("start", "order", "--app", "shop", "-d", '{"number": 1}', STEPFLOW_REDIS_URL=registered)
    done = call("worker", SHOP, STEPFLOW_REDIS_URL=registered, STEPFLOW_WORKER_BURST="1", STEPFLOW_WORKER_NAME="envy")
    assert done.returncode == 0
    assert "worker=envy" in done.stderr
    assert as_json("runs", "show", run["run_id"], STEPFLOW_REDIS_URL=registered)["status"] == "completed"


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_lets_a_worker_finish_its_step_and_exit_with_0(registered: str, tmp_path: Path, processes: str) -> None:
    path, log = tmp_path / "go", tmp_path / "worker.log"
    run_id = enqueue(registered, "slow", {"path": str(path)})
    words = (SHOP, "--redis-url", registered, "--processes", processes)
    with running(*words, program="worker", log=log) as worker:
        until(Path(f"{path}.begun").exists, what="the step's start")
        worker.send_signal(signal.SIGTERM)
        until(lambda: "worker_stopping" in log.read_text(), what="the warm shutdown")
        path.touch()
        assert worker.wait(30) == 0
    shown = as_json("runs", "show", run_id, STEPFLOW_REDIS_URL=registered)
    assert [(step["id"], step["state"], step["attempts"]) for step in shown["steps"]] == [
        ("before", "done", 1),
        ("wait", "done", 1),
    ]


def test_the_lease_and_the_grace_of_a_worker_can_be_given(registered: str, client: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "go"
    run_id = enqueue(registered, "slow", {"path": str(path)})
    words = (SHOP, "--redis-url", registered, "--lease", "1h", "--grace", "100ms")
    with running(*words, program="worker", log=tmp_path / "worker.log") as worker:
        until(Path(f"{path}.begun").exists, what="the step's start")
        [(_, lease_ends_at)] = client.zrange("stepflow:leases", 0, -1, withscores=True)
        assert lease_ends_at / 1000 > client.time()[0] + 60
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert as_json("runs", "show", run_id, "--redis-url", registered)["status"] == "queued"


# -- producers -----------------------------------------------------------------


@pytest.mark.slow
def test_data_comes_from_the_option_from_a_file_or_from_standard_input(registered: str, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text('{"number": 2}')
    for data, stdin in (('{"number": 1}', ""), (f"@{file}", ""), ("-", '{"number": 3}')):
        call("start", "shop/order", "--data", data, "--redis-url", registered, stdin=stdin)
    burst(registered)
    ids = [run["run_id"] for run in as_json("runs", "list", "--redis-url", registered)]
    outputs = [as_json("runs", "show", run_id, "--redis-url", registered)["output"]["number"] for run_id in ids]
    assert sorted(outputs) == [1, 2, 3]


@pytest.mark.slow
def test_the_same_id_starts_a_run_once(registered: str) -> None:
    words = ("start", "shop/order", "--data", '{"number": 1}', "--id", "order-17", "--redis-url", registered)
    assert call(*words).stdout == call(*words).stdout
    assert len(as_json("runs", "list", "--redis-url", registered)) == 1


def test_an_event_that_starts_nothing_is_sent_with_a_note(registered: str) -> None:
    done = call("send", "shop/unheard.of", "--redis-url", registered)
    assert done.returncode == 0
    assert done.stderr.startswith("note: event 'shop/unheard.of' with this data starts no registered function")


def test_invoke_and_start_wait_for_the_result(url: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with running(SHOP, "--redis-url", url, program="worker", log=log):
        until(lambda: "worker_started" in log.read_text(), what="the worker's start")
        invoked = call("invoke", "shop/order", "--data", '{"number": 5}', "--timeout", "30", "--redis-url", url)
        assert json.loads(invoked.stdout) == {"number": 5, "left": "packed", "right": {"total": 40}}
        waited = as_json("start", "shop/order", "-d", '{"number": 6}', "--wait", "--timeout", "30s", "--redis-url", url)
        assert waited["status"] == "completed"
        assert waited["output"]["number"] == 6
        failed = call("start", "shop/broken", "--wait", "--redis-url", url)
        assert_refused(failed, 1, "of shop/broken failed", "the card was declined")
        wrong = call("invoke", "shop/order", "--data", '{"number": "five"}', "--redis-url", url)
        assert_refused(wrong, 1, "NonRetriableError", "number: Input should be a valid integer")


@pytest.mark.slow
def test_a_wait_that_is_over_ends_with_6_and_the_run_goes_on(registered: str) -> None:
    done = call("start", "shop/order", "-d", '{"number": 1}', "--timeout", "100ms", "--redis-url", registered)
    assert_refused(done, 6, "has not ended after 100ms", "continues")
    burst(registered)
    assert as_json("runs", "list", "--redis-url", registered)[0]["status"] == "completed"


# -- looking -------------------------------------------------------------------


def test_runs_show_prints_the_facts_and_a_timeline(registered: str) -> None:
    run_id = enqueue(registered, "order", {"number": 3})
    burst(registered)
    narrow = call("runs", "show", run_id, STEPFLOW_REDIS_URL=registered, COLUMNS="80").stdout
    wide = call("runs", "show", run_id, STEPFLOW_REDIS_URL=registered, COLUMNS="140").stdout
    for text in (narrow, wide):
        assert run_id in text
        assert "shop/order" in text
        assert '{"number":3,"left":"packed","right":{"total":40}}' in text
        order = [text.index(f"\n{step} ") for step in ("reserve", "pack", "bill")]
        assert order[0] < min(order[1:])
    assert max(len(line) for line in narrow.splitlines()) <= 80
    assert "━" in wide
    assert "━" not in narrow


def test_runs_show_in_json_has_the_steps_with_attempts_times_and_results(registered: str) -> None:
    run_id = enqueue(registered, "order", {"number": 3})
    burst(registered, "--name", "anna")
    run = as_json("runs", "show", run_id, "--redis-url", registered)
    assert (run["app"], run["function"], run["status"], run["error"]) == ("shop", "order", "completed", None)
    assert run["event"]["data"] == {"number": 3}
    first = run["steps"][0]
    assert (first["id"], first["state"], first["attempts"], first["worker"]) == ("reserve", "done", 1, "anna")
    assert run["created_at"] <= first["started_at"] <= first["ended_at"] <= run["ended_at"]
    assert {step["id"]: step["result"] for step in run["steps"]} == {
        "reserve": 3,
        "pack": "packed",
        "bill": {"total": 40},
    }


@pytest.mark.slow
def test_runs_show_tells_of_a_step_that_waits_for_its_next_attempt(registered: str) -> None:
    run_id = enqueue(registered, "stubborn")
    burst(registered)
    run = as_json("runs", "show", run_id, "--redis-url", registered)
    assert [(step["id"], step["state"]) for step in run["steps"]] == [("fine", "done"), ("fail", "retrying")]
    assert run["steps"][1]["error"]["message"] == "not yet"
    assert run["steps"][1]["due_at"]
    shown = call("runs", "show", run_id, "--redis-url", registered).stdout
    assert "retrying" in shown
    assert "ValueError: not yet" in shown


@pytest.mark.slow
def test_runs_list_filters_by_status_and_function_and_cuts_at_the_limit(registered: str) -> None:
    for _ in range(3):
        enqueue(registered, "order", {"number": 1})
    enqueue(registered, "broken")
    burst(registered)
    waiting = enqueue(registered, "order", {"number": 2})

    def ids(*words: str) -> list[str]:
        return [run["run_id"] for run in as_json("runs", "list", *words, "--redis-url", registered)]

    assert len(ids()) == 5
    assert ids("--limit", "1") == [waiting]
    assert ids("--status", "queued") == [waiting]
    assert len(ids("--status", "completed", "--status", "failed")) == 4
    assert len(ids("--function", "broken")) == len(ids("--function", "shop/broken")) == 1
    assert ids("--function", "broken", "--status", "queued") == []
    assert "no runs" in call("runs", "list", "--status", "cancelled", "--redis-url", registered).stdout


@pytest.mark.slow
def test_runs_show_tells_of_a_run_whose_code_is_gone(registered: str) -> None:
    run_id = enqueue(registered, "order", {"number": 1})
    done = call(f"{APPS}.gone:app", "--redis-url", registered, "--burst", program="worker")
    assert done.returncode == 0
    run = as_json("runs", "show", run_id, "--redis-url", registered)
    assert (run["status"], run["served"]) == ("queued", False)
    assert "no live worker serves queue shop" in call("runs", "show", run_id, "--redis-url", registered).stdout
    why = call("explain", run_id, "--redis-url", registered).stdout
    assert "it waits for a worker that has the code of shop/order: start one, or cancel the run" in why


def test_the_newest_runs_that_fit_are_found_page_by_page(app: Stepflow, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.function("common")
    async def common(ctx: Context) -> None: ...

    @app.function("rare")
    async def rare(ctx: Context) -> None: ...

    monkeypatch.setattr(find_runs, "_MOST", 4)
    runs = [app.start(rare if number % 10 == 0 else common) for number in range(21)]
    runs[1].cancel()
    broker, partition = Broker(as_role(app.backend.url, "read-only")), app.backend.partition
    found = found_runs(broker, partition, functions=("shop/rare",), limit=2)
    assert {run.id for run in found} <= {runs[0].id, runs[10].id, runs[20].id}
    assert len(found) == 2
    assert len(found_runs(broker, partition)) == 21
    cancelled = found_runs(broker, partition, statuses=frozenset({RunStatus.CANCELLED}))
    assert [run.id for run in cancelled] == [runs[1].id]


def test_runs_cancel_ends_a_run_once_and_keeps_the_reason(registered: str) -> None:
    run_id = enqueue(registered, "order", {"number": 1})
    words = ("runs", "cancel", run_id, "--reason", "changed my mind", "--redis-url", registered)
    assert as_json(*words) == {"run_id": run_id, "cancelled": True, "status": "cancelled", "undoing": None}
    assert "had already ended: cancelled" in call(*words).stdout
    assert as_json("runs", "show", run_id, "--redis-url", registered)["error"]["message"] == "changed my mind"


def test_functions_workers_and_queues_are_listed(url: str, tmp_path: Path) -> None:
    path = tmp_path / "go"
    words = (SHOP, "--redis-url", url, "--name", "anna", "--concurrency", "1")
    with running(*words, program="worker", log=tmp_path / "worker.log", STEPFLOW_VERSION="1.4"):
        until(lambda: as_json("workers", "--redis-url", url), what="the worker's start")
        functions = as_json("functions", "--redis-url", url)
        assert functions[1] == {
            "app": "shop",
            "id": "order",
            "queue": "shop",
            "events": ["shop/order.placed"],
            "triggers": [{"event": "shop/order.placed", "if": None}],
            "retries": 4,
            "rate_limit": None,
            "changed_limits": [],
            "served": True,
            "pinned": None,
        }
        enqueue(url, "slow", {"path": str(path)})
        until(Path(f"{path}.begun").exists, what="the step's start")
        enqueue(url, "order", {"number": 1})
        [worker] = as_json("workers", "--redis-url", url)
        assert (worker["name"], worker["state"], worker["queues"]) == ("anna", "busy", ["shop"])
        assert worker["version"] == "1.4"
        [queue] = as_json("queues", "--redis-url", url)
        assert queue == {"name": "shop", "ready_new": 1, "ready_steps": 0, "executing": 1, "delayed": 0, "failed": 0}
        for command, part in (("functions", "shop/order.placed"), ("workers", "1.4  "), ("queues", "shop")):
            assert part in call(command, "--redis-url", url).stdout
        path.touch()


def test_a_function_whose_code_is_gone_is_forgotten_once_it_has_no_run(registered: str) -> None:
    run = enqueue(registered, "order", {"number": 1})
    forget = ("functions", "forget", "shop/order", "--redis-url", registered)
    assert_refused(call(*forget), 3, "has live runs", "stepflow runs cancel --function shop/order")
    assert call("runs", "cancel", run, "--redis-url", registered).returncode == 0
    assert as_json(*forget) == {"function": "shop/order", "forgotten": True}
    listed = as_json("functions", "--redis-url", registered)
    assert "order" not in [function["id"] for function in listed]
    assert as_json("send", "shop/order.placed", "--data", '{"number": 3}', "--redis-url", registered)["functions"] == []
    assert_refused(call(*forget), 4, "is not registered")


def test_a_function_that_a_live_worker_has_is_not_forgotten(url: str, run_worker) -> None:
    app = Stepflow("mail", redis_url=url)

    @app.function("welcome")
    async def welcome(ctx: Context) -> None: ...

    run_worker(app)
    until(lambda: as_json("functions", "--redis-url", url), what="the worker")
    done = call("functions", "forget", "mail/welcome", "--redis-url", url)
    assert_refused(done, 3, "a live worker has the code of function mail/welcome")


def test_a_function_whose_code_is_gone_is_not_shown_as_served(url: str, run_worker) -> None:
    def version(*names: str) -> Stepflow:
        app = Stepflow("mail", redis_url=url)
        for name in names:

            @app.function(name)
            async def handle(ctx: Context) -> None: ...

        return app

    register(url, version("kept", "gone"))
    run_worker(version("kept"))
    until(lambda: any(one["served"] for one in as_json("functions", "--redis-url", url)), what="the worker")
    shown = {one["id"]: one["served"] for one in as_json("functions", "--redis-url", url)}
    assert shown == {"kept": True, "gone": False}
    assert "no live worker has the code of function mail/gone" in call("functions", "--redis-url", url).stdout


def test_functions_show_rate_limits_and_the_queues_that_no_live_worker_serves(url: str) -> None:
    app = Stepflow("mail", redis_url=url)

    @app.function("welcome", rate_limit=RateLimit(2, "1h", key="event.data.user"))
    async def welcome(ctx: Context) -> None: ...

    register(url, app)
    [function] = as_json("functions", "--redis-url", url)
    assert function["rate_limit"] == {"limit": 2, "period_ms": 3_600_000, "key": "event.data.user"}
    assert function["served"] is False
    shown = call("functions", "--redis-url", url).stdout
    assert "2 in 1h per event.data.user" in shown
    assert "no live worker serves queue mail" in shown


# -- bad input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "part"),
    [
        ("shop.nowhere:app", "there is no module 'shop'"),
        (f"{APPS}.shop", "app must be module:app"),
        (f"{APPS}.shop:nothing", "has no 'nothing'; its apps: app, other"),
        (f"{APPS}.shop:not_an_app", "is not an app but str"),
        (f"{APPS}.shop:other", "has no functions"),
        (f"{APPS}.twice:app", "already has a function with this id: rename one of them"),
        (f"{APPS}.uncallable:app", "handler must be callable, got str"),
        (f"{APPS}.raises:app", "KeyError: 'api_key': correct it (at tests/integration/apps/raises.py:9)"),
    ],
)
def test_an_app_that_cannot_be_served_is_said_in_one_line(url: str, app: str, part: str) -> None:
    assert_refused(call(app, "--redis-url", url, program="worker"), 3, part)


def test_a_pool_says_what_is_wrong_once(url: str) -> None:
    done = call(f"{APPS}.shop:nothing", "--redis-url", url, "--processes", "2", program="worker")
    assert_refused(done, 3, "has no 'nothing'")


@pytest.mark.parametrize("program", ["worker", "main"])
def test_a_server_that_cannot_be_reached_ends_with_5(program: str) -> None:
    with socket.socket() as taken:  # bound and not listening: no server can be there
        taken.bind(("127.0.0.1", 0))
        words = [SHOP] if program == "worker" else ["send", "shop/order.placed"]
        done = call(*words, "--redis-url", f"redis://127.0.0.1:{taken.getsockname()[1]}/0", program=program)
    assert_refused(done, 5, "does not answer", "is it running")


@pytest.mark.parametrize("program", ["worker", "main"])
def test_a_wrong_password_ends_with_3_and_is_not_shown(tmp_path: Path, program: str) -> None:
    with EmbeddedServer(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "right")
        url = server.url.replace("//", "//:wrong-secret@")
        words = [SHOP] if program == "worker" else ["runs", "list"]
        done = call(*words, "--redis-url", url, program=program)
        assert_refused(done, 3, "refuses the user or password")
        assert "wrong-secret" not in done.stderr


def test_a_url_that_is_none_ends_with_3() -> None:
    assert_refused(call("runs", "list", "--redis-url", "localhost:6379"), 3, "write redis://host:6379/0")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_that_evicts_keys_ends_with_3(tmp_path: Path, processes: str) -> None:
    with EmbeddedServer(tmp_path, maxmemory_policy="allkeys-lru") as server:
        done = call(SHOP, "--redis-url", server.url, "--processes", processes, program="worker")
    assert_refused(done, 3, "maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy noeviction")


def test_an_event_that_is_too_large_is_not_sent(url: str, client: redis.Redis, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_text(json.dumps("x" * 600_000))
    done = call("send", "shop/order.placed", "--data", f"@{file}", "--redis-url", url)
    assert_refused(done, 2, "at most 524,288 bytes")
    assert not client.exists("stepflow:events")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["send", "x", "--data", "{n: 1}"], "data must be JSON"),
        (["send", "x", "--data", "@/no/such/file"], "data cannot be read from '/no/such/file'"),
        (["send"], "Missing argument 'EVENT'"),
        (["start", "order"], "write APP/order, or use --app"),
        (["start", "shop/order", "--timeout", "soon"], "must be a duration"),
        (["runs", "list", "--status", "asleep"], "'asleep' is not one of"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_words_that_make_no_command_end_with_2(url: str, words: list[str], part: str) -> None:
    assert_refused(call(*words, STEPFLOW_REDIS_URL=url), 2, part, "--help")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--queue", ""], "queue must not be empty"),
        (["--queue", "a,b"], "for several queues, repeat the option"),
        (["--queue", "a b"], "must not be empty, contain ',' or a space"),
        (["--queue", "shop:steps"], "or end with ':steps'"),
        (["--lease", "1s"], "lease must be at least 2s, got 1s"),
        (["--lease", "long"], "must be a duration"),
        (["--grace", "-1"], "must not be negative"),
    ],
)
def test_a_worker_s_options_are_checked(url: str, words: list[str], part: str) -> None:
    assert_refused(call(SHOP, *words, STEPFLOW_REDIS_URL=url, program="worker"), 2, part, "--help")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["runs", "show", "nope"], "there is no run 'nope'"),
        (["runs", "cancel", "nope"], "there is no run 'nope'"),
        (["start", "shop/nope"], "could not find function with ID: shop/nope"),
        (["invoke", "shop/nope"], "could not find function with ID: shop/nope"),
    ],
)
def test_what_does_not_exist_ends_with_4(url: str, words: list[str], part: str) -> None:
    assert_refused(call(*words, STEPFLOW_REDIS_URL=url), 4, part)


def test_debug_shows_the_traceback_before_the_line() -> None:
    done = call("runs", "list", "--redis-url", "localhost:6379", "--debug")
    assert done.returncode == 3
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_wait_that_is_interrupted_ends_with_130(registered: str, tmp_path: Path) -> None:
    log = tmp_path / "start.log"
    words = ("invoke", "shop/order", "-d", '{"number": 1}', "--redis-url", registered)
    with running(*words, log=log) as process:
        until(lambda: as_json("runs", "list", "--redis-url", registered), what="the run's start")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert log.read_text().strip() == "error: interrupted"


def test_an_error_that_nobody_foresaw_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(KeyError("x"), debug=False) == 70
    assert capsys.readouterr().err == "error: KeyError: 'x': this is a bug in stepflow; --debug shows the traceback\n"


def test_the_help_names_the_exit_codes_and_the_variables() -> None:
    for done in (call("--help"), call("--help", program="worker")):
        assert done.returncode == 0
        assert "Exit codes:" in done.stdout
        assert "STEPFLOW_WORKER_CONCURRENCY" in done.stdout
