"""No command prints a control sequence, and no text of a user looks like a line of stepflow."""

from __future__ import annotations

import pytest

from stepflow import Context, Stepflow
from tests.support.command_line import call
from tests.support.processes import until

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1m\u202e\u2066\u200f\u2028\r\nFORGED line\n"


@pytest.fixture
def hostile_run(app: Stepflow, run_worker) -> str:
    async def fail() -> None:
        raise ValueError(HOSTILE)

    @app.function("bad", event="shop/evil*", retries=0)
    async def bad(ctx: Context) -> None:
        await ctx.step.run(f"step {HOSTILE}", fail)

    run_worker(app)
    run = app.start(bad, {"name": HOSTILE})
    until(lambda: run.status().ended, what="the end of the run")
    app.pause(queue=f"mail{HOSTILE}", reason=HOSTILE)
    return run.id


@pytest.mark.slow
def test_no_command_prints_a_control_sequence(hostile_run: str, url: str) -> None:
    commands = [
        ["runs", "list"],
        ["runs", "show", hostile_run],
        ["runs", "show", hostile_run, "--debug"],
        ["runs", "show", HOSTILE],
        ["explain", hostile_run],
        ["explain", HOSTILE],
        ["functions"],
        ["workers"],
        ["queues"],
        ["pauses"],
        ["doctor"],
        ["pause", "queue", HOSTILE],
        ["resume", "queue", HOSTILE],
        ["pause", "function", HOSTILE],
        ["pause", "key", HOSTILE],
        ["resume", "key", HOSTILE],
        ["send", f"shop/evil{HOSTILE}"],
        ["start", f"shop/{HOSTILE}"],
        ["start", "shop/bad", "--id", HOSTILE],
        ["runs", "cancel", HOSTILE],
        ["runs", "cancel", "--where", HOSTILE, "--dry-run"],
        ["runs", "list", "--function", HOSTILE],
        ["runs", "rerun", hostile_run, "--reason", HOSTILE],
        ["runs", "retry", hostile_run, HOSTILE],
        ["runs", "fork", hostile_run, "--before", HOSTILE],
        ["runs", "fork", hostile_run, "--before", f"step {HOSTILE}", "--result", HOSTILE],
        ["runs", "diff", hostile_run, HOSTILE],
        ["runs", "list", "--status", HOSTILE],
        [HOSTILE],
    ]
    for words in commands:
        for output in ([], ["-o", "json"]):
            done = call(*words, *output, STEPFLOW_REDIS_URL=url)
            for line in [*done.stdout.split("\n"), *done.stderr.split("\n")]:
                assert line.isprintable(), (words, line)
                assert not line.startswith("FORGED"), (words, line)
            assert not any(line.endswith(" ") for line in done.stdout.split("\n")), words
