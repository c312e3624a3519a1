"""The command line for tests: its programs, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepflow import Stepflow
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import keys_for
from stepflow_broker.registry.functions import register_functions
from tests.support.forking import fork_program
from tests.support.processes import ROOT
from tests.support.roles import as_role, role_of_words

APPS = "tests.integration.apps"
SHOP = f"{APPS}.shop:app"

MODULES = {"main": "stepflow_cli.main", "worker": "stepflow_cli.commands.worker"}
"""The module of each console script."""


def environment(**variables: str) -> dict[str, str]:
    """The variables of this process without those of stepflow and the terminal's width, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STEPFLOW_", "COLUMNS"))}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, **variables}


def call(
    *words: str, program: str = "main", cwd: Path = ROOT, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of the command line to its end."""
    role = role_of_words(program, words)
    arguments = [as_role(word, role) for word in words]
    with contextlib.ExitStack() as opened:
        files = tuple(opened.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        files[0].write(stdin.encode())
        files[0].seek(0)
        process = fork_program(
            *arguments,
            module=MODULES[program],
            environment=environment(**{name: as_role(value, role) for name, value in variables.items()}),
            cwd=cwd,
            files=files,
        )
        try:
            code = process.wait(60)
        finally:
            process.kill()
        for file in files:
            file.seek(0)
        return subprocess.CompletedProcess(process.args, code, files[1].read().decode(), files[2].read().decode())


@contextlib.contextmanager
def running(
    *words: str, log: Path, program: str = "main", cwd: Path = ROOT, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that goes on meanwhile; its whole process group is gone at the end."""
    role = role_of_words(program, words)
    command = [sys.executable, "-m", MODULES[program], *[as_role(word, role) for word in words]]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(**variables), stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(f"--- {' '.join(words)}\n{log.read_text()}")


def burst(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Do what is queued."""
    done = call(SHOP, "--redis-url", url, "--burst", *options, program="worker")
    assert done.returncode == 0, done.stderr
    return done


def enqueue(url: str, function: str, data: object = None) -> str:
    """Start a run, without the command line; its id."""
    producer = Stepflow("tests", redis_url=url)
    try:
        return producer.start(f"shop/{function}", data).id
    finally:
        producer.close()


def as_json(*words: str, **variables: Any) -> Any:
    done = call(*words, "-o", "json", **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """It ended with this exit code and one line that has these parts, and no traceback."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def register(url: str, app: Stepflow) -> None:
    """Register the functions of an app, as its worker does."""
    broker, configs = Broker(as_role(url, "worker")), [function.config for function in app.functions.values()]
    broker.execute_all([register_functions(keys, configs) for keys in keys_for(url).all])
    broker.close()
