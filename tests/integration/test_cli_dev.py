"""``stepflow dev``, through real processes: its server, its reloads and its debugger."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import redis

from tests.support.command_line import as_json, assert_refused, call, running
from tests.support.processes import until
from tests.support.terminal import Screen, in_terminal

_FLOW = """
from stepflow import Context, Stepflow

app = Stepflow("demo")


@app.function("answer", event="demo/asked")
async def answer(ctx: Context) -> str:
    return await ctx.step.run("say", lambda: "{answer}")
"""


class Dev:
    """``stepflow dev`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "dev.log"

    def write(self, answer: str) -> None:
        (self.folder / "flows.py").write_text(_FLOW.format(answer=answer))

    def await_workers(self, count: int) -> None:
        """Wait until so many workers have been started since the beginning."""
        until(lambda: self.log.read_text().count("worker_started") >= count, what=f"the start of worker {count}")

    def await_output(self, text: str) -> None:
        until(lambda: text in self.log.read_text(), what=f"{text!r} in the output")

    def single(self) -> str:
        """The answer that the workers give now; asked by another process in the same folder."""
        asked = call("invoke", "demo/answer", "--timeout", "30", cwd=self.folder)
        assert asked.returncode == 0, asked.stderr
        return str(json.loads(asked.stdout))

    def running(self) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        return running("dev", "flows:app", cwd=self.folder, log=self.log)


@pytest.fixture
def dev(tmp_path: Path) -> Dev:
    made = Dev(tmp_path)
    made.write("one")
    return made


def test_dev_starts_a_server_that_other_commands_in_its_folder_find_and_stops_it_on_sigint(dev: Dev) -> None:
    with dev.running() as process:
        dev.await_workers(1)
        assert "stepflow send demo/asked" in dev.log.read_text()
        assert call("send", "demo/asked", cwd=dev.folder).returncode == 0
        until(lambda: as_json("runs", "list", "--status", "completed", cwd=dev.folder), what="the end of the run")
        url = (dev.folder / ".stepflow" / "url").read_text().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not (dev.folder / ".stepflow" / "url").exists()
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()


@pytest.mark.slow
def test_dev_keeps_its_data_from_one_time_to_the_next(dev: Dev) -> None:
    for runs in (1, 2):
        with dev.running() as process:
            dev.await_workers(1)
            assert dev.single() == "one"
            assert len(as_json("runs", "list", cwd=dev.folder)) == runs
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.mark.slow
def test_dev_runs_the_code_as_it_was_saved_last(dev: Dev) -> None:
    with dev.running() as process:
        dev.await_workers(1)
        assert dev.single() == "one"
        dev.write("two")
        dev.await_workers(2)
        assert dev.single() == "two"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_dev_outlives_a_syntax_error(dev: Dev) -> None:
    with dev.running() as process:
        dev.await_workers(1)
        (dev.folder / "flows.py").write_text("def broken(:")
        dev.await_output("SyntaxError: invalid syntax (flows.py, line 1): correct it")
        dev.await_output("waiting")
        assert "Traceback" not in dev.log.read_text()
        dev.write("two")
        dev.await_workers(2)
        assert dev.single() == "two"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_dev_stops_the_server_that_a_killed_dev_has_left_and_keeps_its_port_and_data(dev: Dev) -> None:
    with dev.running() as process:
        dev.await_workers(1)
        again = call("dev", "flows:app", cwd=dev.folder)
        assert_refused(again, 3, "another 'stepflow dev' uses it, with a server at redis://127.0.0.1:")
        assert dev.single() == "one"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    url = (dev.folder / ".stepflow" / "url").read_text()
    with dev.running() as process:
        dev.await_workers(1)
        assert (dev.folder / ".stepflow" / "url").read_text() == url
        assert len(as_json("runs", "list", cwd=dev.folder)) == 1
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    with redis.Redis.from_url(url.strip()) as client:
        assert not _answers(client)


def _answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


def test_the_folder_of_dev_is_private_and_a_taken_port_is_not_used(dev: Dev, tmp_path: Path) -> None:
    folder = dev.folder / ".stepflow"
    folder.mkdir(mode=0o755)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (folder / "port").write_text(str(port))
        with dev.running() as process:
            dev.await_workers(1)
            assert f":{port}/" not in (folder / "url").read_text()
            assert folder.stat().st_mode & 0o077 == 0
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


@pytest.mark.slow
def test_an_error_about_the_server_says_where_the_url_comes_from(dev: Dev) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
        by_variable = call("runs", "list", cwd=dev.folder, STEPFLOW_REDIS_URL=url)
        assert_refused(by_variable, 5, "is it running, and is STEPFLOW_REDIS_URL right?")
        by_option = call("runs", "list", "--redis-url", url, cwd=dev.folder)
        assert_refused(by_option, 5, "is it running, and is the URL right?")
        of_dev = call("dev", "flows:app", cwd=dev.folder, STEPFLOW_REDIS_URL=url)
        assert of_dev.returncode == 5
        assert (
            "STEPFLOW_REDIS_URL is set, so no server is started: unset it to start one in .stepflow/" in of_dev.stdout
        )
        with dev.running() as process:
            dev.await_workers(1)
            announced = (dev.folder / ".stepflow" / "url").read_text().strip()
            beside = call("runs", "list", cwd=dev.folder, STEPFLOW_REDIS_URL=url)
            assert_refused(beside, 5, f"the server of 'stepflow dev' in this folder is at {announced} (.stepflow/url)")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        stopped = call("runs", "list", cwd=dev.folder, STEPFLOW_REDIS_URL=url)
        assert_refused(stopped, 5, "'stepflow dev' does not run in this folder")


def test_dev_ends_with_3_when_it_is_given_no_app(dev: Dev) -> None:
    done = call("dev", "nowhere:app", cwd=dev.folder)
    assert done.returncode == 3
    assert "there is no module 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_dev_uses_the_server_that_it_is_given(url: str, dev: Dev) -> None:
    with running("dev", "flows:app", "--redis-url", url, cwd=dev.folder, log=dev.log) as process:
        dev.await_workers(1)
        assert [config["id"] for config in as_json("functions", "--redis-url", url)] == ["answer"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not (dev.folder / ".stepflow").exists()


def _pid_of_server(dev: Dev) -> int:
    with redis.Redis.from_url((dev.folder / ".stepflow" / "url").read_text().strip()) as client:
        return int(client.info("server")["process_id"])


@pytest.mark.slow
def test_dev_says_that_its_server_has_ended_and_starts_it_again_with_its_data(dev: Dev) -> None:
    with dev.running() as process:
        dev.await_workers(1)
        assert dev.single() == "one"
        os.kill(_pid_of_server(dev), signal.SIGKILL)
        dev.await_output("was started again, with its data")
        said = dev.log.read_text()
        assert "was ended by signal SIGKILL; the last lines of its log, " in said
        assert "Ready to accept connections" in said
        assert dev.single() == "one"
        assert len(as_json("runs", "list", cwd=dev.folder)) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_dev_ends_with_5_when_its_server_ends_again_and_again(dev: Dev) -> None:
    with dev.running() as process:
        for restarts in (1, 2):
            dev.await_workers(1)
            os.kill(_pid_of_server(dev), signal.SIGKILL)
            until(
                lambda restarts=restarts: dev.log.read_text().count("was started again") >= restarts,
                what="the start of the server",
            )
        os.kill(_pid_of_server(dev), signal.SIGTERM)
        assert process.wait(60) == 5
    said = dev.log.read_text()
    assert "ended by itself, with exit code 0" in said
    assert "error: the embedded server has ended 3 times within a minute: see " in said
    assert "Traceback" not in said


_DEBUGGED = """
from stepflow import Context, Stepflow

app = Stepflow("demo")


def handler(secret: int) -> int:
    breakpoint()
    return secret


async def async_handler(secret: int) -> int:
    return handler(secret)


@app.function("answer")
async def answer(ctx: Context) -> int:
    return await ctx.step.run("say", {handler}, 41)
"""


@pytest.mark.slow
@pytest.mark.parametrize("handler", ["handler", "async_handler"])
def test_breakpoint_in_a_handler_opens_a_debugger_on_the_terminal_of_dev(dev: Dev, handler: str) -> None:
    (dev.folder / "flows.py").write_text(_DEBUGGED.replace("{handler}", handler))
    process, ours = in_terminal(["dev", "flows:app"], folder=dev.folder)
    screen = Screen(ours)
    try:
        until(lambda: screen.has("worker_started"), what="the start of the worker")
        started = call("start", "demo/answer", "--data", "{}", cwd=dev.folder)
        assert started.returncode == 0, started.stderr
        until(lambda: screen.has("(Pdb)"), what="the debugger")
        screen.type("p secret + 1000")
        until(lambda: screen.has("1041"), what="the answer of the debugger")
        screen.type("continue")
        until(lambda: as_json("runs", "list", "--status", "completed", cwd=dev.folder), what="the end of the run")
        process.send_signal(signal.SIGINT)
        until(lambda: screen.has("stopped") and process.poll() is not None, what="the end of dev")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.slow
def test_breakpoint_without_a_terminal_fails_with_what_to_do(dev: Dev) -> None:
    (dev.folder / "flows.py").write_text(
        _DEBUGGED.replace("{handler}", "handler").replace('"answer")', '"answer", retries=0)')
    )
    with dev.running() as process:
        dev.await_workers(1)
        asked = call("invoke", "demo/answer", "--timeout", "30", cwd=dev.folder)
        assert asked.returncode == 1
        assert "breakpoint() found no terminal: run 'stepflow dev' in one, or set PYTHONBREAKPOINT" in asked.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("start", "said"),
    [(b"VALKEY990", "a newer server (VALKEY990)"), pytest.param(b"garbage", "damaged", marks=pytest.mark.slow)],
)
def test_dev_says_that_it_cannot_read_the_data_of_another_server(dev: Dev, start: bytes, said: str) -> None:
    folder = dev.folder / ".stepflow" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.1.base.rdb").write_bytes(start + bytes(90))
    (folder / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
    done = call("dev", "flows:app", cwd=dev.folder)
    assert done.returncode == 3
    assert said in done.stderr
    assert "delete the folder" in done.stderr
