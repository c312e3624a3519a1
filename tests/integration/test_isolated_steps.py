"""Isolated handlers on workers: each has a process of its own, and takes nothing else with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from stepflow import Attempt, Context, Run, RunFailedError, Stepflow
from stepflow_workers.worker import is_running
from tests.integration.apps.ledger import count
from tests.support.processes import WorkerProcess, until

APP = "tests.integration.apps.isolated:app"
Start = Callable[..., Run]


@pytest.fixture
def start(url: str) -> Start:
    """Starts a run with one isolated step: its handler, the arguments, the options of the step."""
    client = Stepflow("isolated", redis_url=url)

    def start(handler: str, *args: object, function: str = "call", **options: object) -> Run:
        return client.start(function, [handler, list(args), options])

    return start


@pytest.fixture
def worker(client: redis.Redis, start_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    """A worker that executes one isolated handler at a time."""
    return begin(client, start_worker)


def begin(client: redis.Redis, start_worker: Callable[..., WorkerProcess], **settings: object) -> WorkerProcess:
    started = start_worker(APP, **({"isolated_processes": 1, "cancel_grace_s": 0.2} | settings))
    until(lambda: "worker_started" in started.log.read_text())
    return started


def failure(run: Run) -> str:
    with pytest.raises(RunFailedError) as failed:
        run.result(60)
    error = failed.value.failure
    while error is not None and error.name == "StepError" and error.cause is not None:
        error = error.cause
    return f"{error.name}: {error.message}" if error else ""


def pids(ledger: Path) -> list[int]:
    return [int(line.split()[1]) for line in count(ledger) if line.startswith("pid")] if ledger.exists() else []


def test_a_process_that_a_handler_has_forked_ends_and_gives_no_answer(start: Start, worker: WorkerProcess) -> None:
    assert [start("forks", how).result(30) for how in ("returns", "raises", "exits")] == [[0], [1], [7]]


def test_an_isolated_step_has_a_process_of_its_own_that_the_next_one_uses_too(
    start: Start, worker: WorkerProcess
) -> None:
    assert start("pid", function="plain").result(30) == worker.pid
    own = start("pid").result(30)
    assert own != worker.pid
    assert start("pid", function="call-sync").result(30) == own
    assert start("entered").result(30) == "isolated/call work"
    assert start("moved", "$point").result(30) == {"x": 2}
    run = start("from_context", "$ctx")
    seen = run.result(30)
    assert (seen["attempt"], seen["run"], seen["data"][0]) == (0, run.id, "from_context")
    assert seen["key"].startswith(run.id)
    assert "step 'inner' must not be inside the handler of another step" in failure(start("with_step", "$ctx"))
    until(lambda: "moved from 1" in worker.log.read_text(), what="what the handler has printed")
    assert f"{own} in a process run_id={run.id}" in worker.log.read_text()


def test_a_timeout_ends_a_handler_that_keeps_the_gil_and_the_worker_continues_other_runs(
    start: Start, worker: WorkerProcess, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    run = start("never_ends", str(ledger), timeout="1s")
    until(lambda: pids(ledger))
    assert start("pid", function="plain").result(30) == worker.pid
    assert failure(run) == "TimeoutError: the handler did not finish within 1s"
    assert not is_running(pids(ledger)[0])
    assert start("pid").result(30) not in (worker.pid, *pids(ledger))


@pytest.mark.slow
@pytest.mark.parametrize("handler", ["waits", "waits_async", "starts_another"])
def test_a_timeout_unwinds_a_handler_and_ends_the_processes_that_it_has_started(
    start: Start, worker: WorkerProcess, tmp_path: Path, handler: str
) -> None:
    ledger = tmp_path / "ledger"
    assert failure(start(handler, str(ledger), timeout="1s")) == "TimeoutError: the handler did not finish within 1s"
    assert count(ledger)["tidied up"] == (0 if handler == "starts_another" else 1)
    until(lambda: not is_running(pids(ledger)[0]))
    assert worker.process.poll() is None


@pytest.mark.slow
def test_the_process_of_a_handler_that_eats_memory_is_ended(start: Start, worker: WorkerProcess) -> None:
    run = start("eats_memory", memory_limit="200M")
    assert failure(run).startswith("MemoryError: the handler used ")
    assert "more than its memory_limit of 200 MiB" in failure(run)
    assert start("pid", function="plain").result(30) == worker.pid


@pytest.mark.slow
def test_what_a_handler_does_to_its_process_fails_its_attempt_only(start: Start, worker: WorkerProcess) -> None:
    process = "HandlerProcessError: the process of the handler"
    expected = {
        "exit code": f"{process} ended with exit code 3",
        "segfault": f"{process} was ended by SIGSEGV",
        "kill": f"{process} was ended by SIGKILL",
        "left": f"{process} ended with exit code 4",
        "forged": f"{process} has sent what is not understood",
        "sys.exit": "SystemExit: enough",
        "not JSON": "StepOutputError: step 'work': result must be JSON",
        "own error": "UnknownError: 7: odd",
        "final": "NonRetriableError: final",
    }
    runs = {how: start("crashes", how) for how in expected}
    for how, run in runs.items():
        assert failure(run).startswith(expected[how])
    (step,) = runs["own error"].steps()
    assert step.error is not None
    assert "raise UnknownError(7" in step.error.traceback
    assert start("pid", function="plain").result(30) == worker.pid  # it has not died either


@pytest.mark.slow
def test_a_retry_policy_knows_the_classes_of_errors(url: str, worker: WorkerProcess) -> None:
    app = Stepflow("isolated", redis_url=url)
    for kind in ("ConnectionError", "later", "group"):
        assert app.invoke("policy", kind, timeout=30) == "attempt 1"
    assert worker.process.poll() is None


@pytest.mark.slow
def test_a_heartbeat_reaches_the_next_attempt_after_the_death_of_its_process(
    start: Start, worker: WorkerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    run = start("uploads", "$ctx", str(ledger), str(gate), retries=1, function="call-sync")
    until(lambda: any(name.startswith("beat:") for name in client.hkeys(f"stepflow:attempts:{run.id}")))
    gate.touch()
    assert run.result(30) == {"part": 1}
    (step,) = run.steps()
    assert [attempt.error.message for attempt in step.history if attempt.error] == [
        "the process of the handler ended with exit code 5"
    ]
    assert worker.process.poll() is None


@pytest.mark.slow
def test_an_attempt_that_sends_no_heartbeat_is_ended(start: Start, worker: WorkerProcess, tmp_path: Path) -> None:
    run = start("waits", str(tmp_path / "ledger"), heartbeat_timeout="300ms")
    assert failure(run) == "TimeoutError: the handler sent no heartbeat for 300ms"


@pytest.mark.slow
def test_the_handlers_of_a_cancelled_run_are_told_and_then_ended(
    start: Start, client: redis.Redis, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    begin(client, start_worker, isolated_processes=3)
    ledger, deaf = tmp_path / "ledger", tmp_path / "deaf"
    polls, never = start("polls", "$ctx", str(ledger), function="call-sync"), start("never_ends", str(deaf))
    until(lambda: ledger.exists() and count(ledger)["polls"] and pids(deaf))
    assert polls.cancel()
    assert never.cancel()
    until(lambda: count(ledger)["cancelled"] == 1)
    until(lambda: not is_running(pids(deaf)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_the_handlers_end_with_their_worker_and_another_executes_them(
    start: Start, client: redis.Redis, start_worker: Callable[..., WorkerProcess], tmp_path: Path, how: str
) -> None:
    ledger = tmp_path / "ledger"
    first = begin(client, start_worker, grace_s=0.2)
    run = start("never_ends", str(ledger))
    until(lambda: pids(ledger))
    if how == "kill":
        first.kill()
    else:
        first.terminate()
    until(lambda: not is_running(pids(ledger)[0]))
    begin(client, start_worker)
    until(lambda: len(pids(ledger)) == 2, what="the second attempt")
    assert run.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("handler", ["gated", "gated_async"])
def test_a_signal_of_a_service_manager_to_all_processes_leaves_the_handler_its_grace_period(
    start: Start, client: redis.Redis, start_worker: Callable[..., WorkerProcess], tmp_path: Path, handler: str
) -> None:
    worker = begin(client, start_worker)
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    run = start(handler, str(ledger), str(gate))
    until(lambda: pids(ledger))
    worker.send(signal.SIGTERM)
    os.kill(pids(ledger)[0], signal.SIGTERM)
    until(lambda: "worker_stopping" in worker.log.read_text())
    gate.touch()
    assert worker.process.wait(30) == 0
    begin(client, start_worker)
    assert run.result(30) == "done"
    assert len(pids(ledger)) == 1  # it was executed once


@pytest.mark.slow
def test_no_more_handlers_execute_at_once_than_the_option_says(
    url: str, client: redis.Redis, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    begin(client, start_worker, isolated_processes=2)
    app = Stepflow("isolated", redis_url=url)
    assert len(set(app.invoke("many", {"ledger": str(tmp_path / "ledger")}, timeout=60))) <= 2


def test_what_cannot_be_sent_to_a_process_is_refused(app: Stepflow, run_worker) -> None:
    async def local() -> None: ...

    @app.function("closure")
    async def closure(ctx: Context) -> None:
        await ctx.step.with_options(isolate="process").run("work", local)

    @app.function("argument")
    async def argument(ctx: Context) -> None:
        await ctx.step.with_options(isolate="process").run("work", print, lambda: 1)

    run_worker(app)
    assert "an isolated handler must be a function at the top of a module, got " in failure(app.start(closure))
    refused = failure(app.start(argument))
    assert refused.startswith("StepUsageError: step 'work': an isolated handler and its arguments must be picklable")

    @app.around_attempt
    def around(_attempt: Attempt) -> Iterator[None]:
        yield

    refused = failure(app.start(argument))
    assert "around_attempt of an app with isolated handlers must be a function at the top of a module" in refused
