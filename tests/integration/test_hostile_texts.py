"""No command prints a control sequence, and no text of a user looks like a line of stepflow."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import redis

from stepflow import Context, Stepflow
from stepflow_broker.protocol.keys import Keys
from tests.support.command_line import call, running
from tests.support.processes import until
from tests.support.reference import commands

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1m\u202e\u2066\u200f\u2028\r\nFORGED line\n"
RUN, ENTRY, WAITING = "{run}", "{entry}", "{waiting}"

CASES: dict[str, list[list[str]]] = {
    "stepflow-worker": [[HOSTILE], ["evil:app", "--queue", HOSTILE], ["evil:app", "--burst"]],
    "stepflow dev": [[HOSTILE], ["broken:app"], ["evil:app", "--watch", HOSTILE]],
    "stepflow worker": [
        [HOSTILE],
        [f"evil:{HOSTILE}"],
        ["broken:app"],
        ["evil:app", "--lease", HOSTILE],
        ["evil:app", "--burst", "--name", HOSTILE],
    ],
    "stepflow check": [[HOSTILE], ["broken:app"], ["evil:app"]],
    "stepflow send": [
        [f"shop/evil{HOSTILE}"],
        ["shop/evil", "--id", f"{HOSTILE}2", "--delay", "1h", "--data", json.dumps(HOSTILE)],
        ["shop/evil", "--at", HOSTILE],
        ["shop/evil", "--id", HOSTILE],
        ["shop/evil", "--data", HOSTILE],
    ],
    "stepflow start": [[f"shop/{HOSTILE}"], ["shop/bad", "--id", HOSTILE], ["shop/bad", "--data", f"@{HOSTILE}"]],
    "stepflow invoke": [
        [f"shop/{HOSTILE}"],
        [HOSTILE],
        ["shop/bad", "--data", "{}"],
        ["shop/echo", "--data", json.dumps(HOSTILE)],
        ["shop/echo", "--timeout", HOSTILE],
    ],
    "stepflow runs list": [[], ["--function", HOSTILE], ["--status", HOSTILE]],
    "stepflow runs show": [[RUN], [WAITING], [RUN, "--debug"], [HOSTILE], [RUN, "--depth", HOSTILE]],
    "stepflow runs cancel": [[HOSTILE], ["--where", HOSTILE, "--dry-run"], [RUN, "--reason", HOSTILE]],
    "stepflow runs unpin": [[RUN], [HOSTILE], ["--function", HOSTILE, "--version", HOSTILE]],
    "stepflow debug": [
        [RUN, "--app", HOSTILE],
        ["--history", HOSTILE, "--app", "shop:app"],
        [RUN, "--app", "shop:app"],
    ],
    "stepflow export": [
        [RUN, "--to", "/dev/null/none"],
        [RUN, "--to", "/dev/null", "--redact", HOSTILE],
        ["--function", HOSTILE, "--to", "/dev/null"],
    ],
    "stepflow runs accept": [[RUN], [HOSTILE, "--reason", HOSTILE]],
    "stepflow runs signal": [[RUN, HOSTILE], [HOSTILE, "go"], [WAITING, HOSTILE, "--id", HOSTILE]],
    "stepflow asks": [[], ["--to", HOSTILE], ["--function", HOSTILE]],
    "stepflow answer": [
        [RUN, HOSTILE],
        [HOSTILE, "a", "--data", "1"],
        [WAITING, f"step {HOSTILE}", "--by", HOSTILE],
        [WAITING, f"step {HOSTILE}", "--by", HOSTILE, "--data", "true"],
    ],
    "stepflow explain": [[RUN], [WAITING], [HOSTILE]],
    "stepflow functions": [[]],
    "stepflow functions forget": [[HOSTILE], [f"shop/{HOSTILE}"], ["shop/bad"]],
    "stepflow workers": [[]],
    "stepflow queues": [[]],
    "stepflow pauses": [[]],
    "stepflow flow-limits list": [[], [HOSTILE], [f"shop/{HOSTILE}"]],
    "stepflow flow-limits set": [
        [f"shop/{HOSTILE}", "--concurrency", "1"],
        ["shop/bad", "--throttle", "1", "--reason", HOSTILE],
        ["shop/bad", "--concurrency", "1", "--key", HOSTILE],
    ],
    "stepflow flow-limits reset": [[f"shop/{HOSTILE}"], ["shop/bad"]],
    "stepflow doctor": [[], ["--repair"]],
    "stepflow events aside": [[]],
    "stepflow events cancel": [[HOSTILE], ["e1", "--reason", HOSTILE]],
    "stepflow events delayed": [[]],
    "stepflow schedules create": [
        [f"shop/{HOSTILE}", "shop/bad", "--every", "1h", "--reason", HOSTILE, "--data", json.dumps(HOSTILE)],
        ["shop/s", f"shop/{HOSTILE}", "--every", "1h"],
        ["shop/s", "shop/bad", "--cron", HOSTILE],
        ["shop/s", "shop/bad", "--every", "1h", "--timezone", HOSTILE],
        ["shop/s", "shop/bad", "--every", "1h", "--window", HOSTILE],
    ],
    "stepflow schedules show": [[f"shop/{HOSTILE}"], [HOSTILE], ["shop/none"]],
    "stepflow schedules list": [[]],
    "stepflow schedules pause": [[f"shop/{HOSTILE}", "--reason", HOSTILE]],
    "stepflow schedules resume": [[f"shop/{HOSTILE}"]],
    "stepflow schedules trigger": [[f"shop/{HOSTILE}", "--reason", HOSTILE]],
    "stepflow schedules backfill": [[f"shop/{HOSTILE}", "--since", HOSTILE]],
    "stepflow schedules delete": [[f"shop/{HOSTILE}", "--reason", HOSTILE]],
    "stepflow events resend": [[HOSTILE], ["1-1"], [ENTRY]],
    "stepflow pause": [
        ["queue", HOSTILE],
        ["function", HOSTILE],
        ["key", HOSTILE],
        ["queue", "q", "--reason", HOSTILE],
    ],
    "stepflow runs retry": [
        [RUN, HOSTILE],
        [RUN, "--reason", HOSTILE],
        ["--function", "shop/bad", "--reason", f"again {HOSTILE}"[:40], "--before", f"step {HOSTILE}", "--yes"],
        ["--function", HOSTILE, "--dry-run"],
    ],
    "stepflow bulk list": [[]],
    "stepflow bulk show": [[HOSTILE]],
    "stepflow bulk stop": [[HOSTILE]],
    "stepflow runs rerun": [[RUN, "--reason", HOSTILE], [RUN, "--data", HOSTILE]],
    "stepflow runs fork": [[RUN, "--before", HOSTILE], [RUN, "--before", f"step {HOSTILE}", "--result", HOSTILE]],
    "stepflow runs diff": [[RUN, HOSTILE], [RUN, RUN]],
    "stepflow audit": [[], ["--action", HOSTILE], ["--subject", HOSTILE]],
    "stepflow errors": [[], ["--function", HOSTILE], ["--since", HOSTILE]],
    "stepflow resume": [["queue", HOSTILE], ["function", HOSTILE], ["key", HOSTILE]],
}
"""Each command with hostile arguments, and with good ones where it shows hostile data."""

_EVIL = f"""
from stepflow import Context, Stepflow

app = Stepflow("shop")


async def fail() -> None:
    raise ValueError({HOSTILE!r})


@app.function("bad", event="shop/evil*", retries=0)
async def bad(ctx: Context) -> None:
    ctx.logger.warning({HOSTILE!r})
    await ctx.step.run("step " + {HOSTILE!r}, fail)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands run: with an app whose runs are hostile, and one whose import is."""
    (tmp_path / "evil.py").write_text(_EVIL)
    (tmp_path / "broken.py").write_text(f"raise ValueError({HOSTILE!r})\n")
    return tmp_path


@pytest.fixture
def hostile_run(app: Stepflow, run_worker: Callable[[Stepflow], object]) -> str:
    async def fail() -> None:
        raise ValueError(HOSTILE)

    @app.function("bad", event="shop/evil*", retries=0)
    async def bad(ctx: Context) -> None:
        await ctx.step.run(f"step {HOSTILE}", fail)

    @app.function("echo")
    async def echo(ctx: Context) -> object:
        return ctx.event.data

    @app.function("wait")
    async def wait(ctx: Context) -> object:
        ctx.set(HOSTILE, HOSTILE)
        schema = {"title": HOSTILE, "type": "boolean"}
        return await ctx.step.ask(f"step {HOSTILE}", schema=schema, to=HOSTILE, timeout="1h")

    run_worker(app)
    waiting = app.start(wait, id="waiting")
    waiting.signal(HOSTILE, HOSTILE, id=HOSTILE)
    until(lambda: waiting.status() == "waiting", what="the wait for an answer")
    run = app.start(bad, {"name": HOSTILE})
    until(lambda: run.status().ended, what="the end of the run")
    app.pause(queue=f"mail{HOSTILE}", reason=HOSTILE)
    return run.id


def set_aside(client: redis.Redis) -> str:
    """An event that is set aside; its entry."""
    event = json.dumps({"name": f"shop/{HOSTILE}", "id": HOSTILE, "ts": 1, "data": HOSTILE})
    fields = {"event": event, "id": HOSTILE, "dedupe": "1", "reason": HOSTILE}
    entry = client.xadd(Keys()("EVENTS_ASIDE"), fields)
    return entry.decode() if isinstance(entry, bytes) else str(entry)


def check(text: str, what: object) -> None:
    """Nothing in a text controls a terminal, or is a line that the hostile text forges."""
    for line in text.split("\n"):
        assert line.isprintable(), (what, line)
        assert not line.startswith("FORGED"), (what, line)


def test_each_command_has_a_case() -> None:
    assert {name for name, _, _ in commands()} == set(CASES)


def _outputs(command: click.Command) -> list[list[str]]:
    return [[], ["-o", "json"]] if any(one.name == "output" for one in command.params) else [[]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command"), [(name, one) for name, _, one in commands()], ids=[name for name, _, _ in commands()]
)
def test_no_command_prints_a_control_sequence(
    hostile_run: str, app: Stepflow, url: str, client: redis.Redis, folder: Path, name: str, command: click.Command
) -> None:
    entry, waiting = set_aside(client), app.run(function="wait", id="waiting").id
    program, *path = name.split()
    for words in CASES[name]:
        for output in _outputs(command):
            args = [
                word.replace(RUN, hostile_run).replace(ENTRY, entry).replace(WAITING, waiting)
                for word in (*path, *words, *output)
            ]
            done = call(
                *args, program="worker" if program == "stepflow-worker" else "main", cwd=folder, STEPFLOW_REDIS_URL=url
            )
            assert "Traceback" not in done.stderr or "--debug" in words, (args, done.stderr)
            check(done.stdout, args)
            check(done.stderr, args)
            assert not any(line.endswith(" ") for line in done.stdout.split("\n")), args


@pytest.mark.slow
def test_an_unknown_command_is_printed_without_control_sequences(folder: Path) -> None:
    done = call(HOSTILE, cwd=folder)
    assert done.returncode == 2
    check(done.stderr, done.args)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("dev", "evil:app"), ("worker", "evil:app", "--log-level", "DEBUG")], ids=lambda words: words[0]
)
def test_what_a_running_command_logs_and_shows_has_no_control_sequences(
    url: str, app: Stepflow, folder: Path, words: tuple[str, ...]
) -> None:
    log = folder / "running.log"
    with running(*words, log=log, cwd=folder, STEPFLOW_REDIS_URL=url) as process:
        until(lambda: "worker_started" in log.read_text(), what="the start of the worker")
        started = [call("start", "shop/bad", "--data", json.dumps(HOSTILE), cwd=folder, STEPFLOW_REDIS_URL=url)]
        run = app.run(started[0].stdout.strip())
        until(lambda: run.status().ended, what="the end of the run")
        if words[0] == "dev":
            (folder / f"x{HOSTILE.strip()}.py").write_text("")
            until(lambda: "changed" in log.read_text(), what="the reload")
            until(lambda: log.read_text().count("worker_started") > 1, what="the second start")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    shown = log.read_bytes().decode()
    assert "owned" in shown
    check(shown, words)
