"""``stepflow runs cancel``: by id and by filter, through real processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence

import pytest
import redis

from stepflow import Context, Stepflow
from tests.integration.apps import shop
from tests.support.command_line import as_json, assert_refused, call, enqueue, environment, register
from tests.support.processes import ROOT, until
from tests.support.roles import as_role

pytestmark = pytest.mark.slow

CANCEL = ("runs", "cancel")


@pytest.fixture
def registered(url: str) -> str:
    """The URL of a server on which the functions of the shop are registered."""
    register(url, shop.app)
    return url


def live(client: redis.Redis) -> set[str]:
    return set(client.zrange("stepflow:live", 0, -1))


def on_a_terminal(url: str, *words: str, answer: str) -> subprocess.CompletedProcess[str]:
    """Run ``runs cancel`` with a terminal as its standard input, and give it an answer."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        return subprocess.run(
            [sys.executable, "-m", "stepflow_cli.main", *CANCEL, *words, "--redis-url", as_role(url, "operator")],
            cwd=ROOT,
            env=environment(),
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)


# -- by id ---------------------------------------------------------------------


def test_several_runs_are_cancelled_by_their_ids(registered: str, client: redis.Redis) -> None:
    first, second, left = [enqueue(registered, "order") for _ in range(3)]
    done = call(*CANCEL, first, second, first, "--redis-url", registered)
    assert done.stdout == f"{first} is cancelled\n{second} is cancelled\n"
    assert live(client) == {left}
    assert as_json(*CANCEL, left, first, "--reason", "sold out", "--redis-url", registered) == [
        {"run_id": left, "cancelled": True, "status": "cancelled", "undoing": None},
        {"run_id": first, "cancelled": False, "status": "cancelled", "undoing": None},
    ]
    assert as_json("runs", "show", left, "--redis-url", registered)["error"]["message"] == "sold out"


def test_an_id_that_is_no_run_s_is_named_and_the_others_are_cancelled(registered: str, client: redis.Redis) -> None:
    run = enqueue(registered, "order")
    done = call(*CANCEL, "nobody", run, "--redis-url", registered)
    assert_refused(done, 4, "there is no run 'nobody'")
    assert done.stdout == f"{run} is cancelled\n"
    assert live(client) == set()


def test_a_dry_run_by_ids_cancels_nothing(registered: str, client: redis.Redis) -> None:
    run, ended = enqueue(registered, "order"), enqueue(registered, "order")
    call(*CANCEL, ended, "--redis-url", registered)
    done = call(*CANCEL, run, ended, "--dry-run", "--redis-url", registered)
    assert done.stdout == f"{run} would be cancelled\n{ended} had already ended: cancelled\n"
    shown = as_json(*CANCEL, run, "--dry-run", "--redis-url", registered)
    assert shown == {"run_id": run, "cancelled": False, "status": "queued", "undoing": None}
    assert live(client) == {run}


# -- by what they have in common -----------------------------------------------


def test_runs_are_cancelled_by_function_and_event(registered: str, client: redis.Redis) -> None:
    runs = [enqueue(registered, "order", {"number": n}) for n in (1, 2, 1)]
    broken = enqueue(registered, "broken", {"number": 1})
    words = ("--function", "order", "--if", "event.data.number == 1", "--reason", "sold out")
    would = as_json(*CANCEL, *words, "--dry-run", "--redis-url", registered)
    assert would["dry_run"] is True
    assert set(would["runs"]) == {runs[0], runs[2]}
    assert live(client) == {*runs, broken}
    done = as_json(*CANCEL, *words, "--yes", "--redis-url", registered)
    assert done == {"dry_run": False, "runs": would["runs"]}
    assert live(client) == {runs[1], broken}
    assert as_json("runs", "show", runs[0], "--redis-url", registered)["error"]["message"] == "sold out"


def test_people_are_told_each_run_and_how_many(registered: str) -> None:
    run = enqueue(registered, "order")
    words = (*CANCEL, "--status", "queued", "--redis-url", registered)
    assert call(*words, "--dry-run").stdout == f"{run} would be cancelled\n1 run would be cancelled\n"
    assert call(*words, "--yes").stdout == f"{run} is cancelled\n1 run cancelled\n"
    assert call(*words, "--yes").stdout == "0 runs cancelled\n"


def test_functions_of_all_apps_are_meant_unless_one_is_named(registered: str, client: redis.Redis) -> None:
    other = Stepflow("other", redis_url=registered)

    @other.function("order")
    async def order(ctx: Context) -> None: ...

    theirs, ours, broken = other.start(order).id, enqueue(registered, "order"), enqueue(registered, "broken")
    words = (*CANCEL, "--dry-run", "--redis-url", registered)
    assert set(as_json(*words, "--function", "order")["runs"]) == {theirs, ours}
    assert as_json(*words, "--function", "other/order")["runs"] == [theirs]
    assert as_json(*words, "--function", "other/broken")["runs"] == []
    assert set(as_json(*words, "--all")["runs"]) == {theirs, ours, broken}
    assert as_json(*words, "--all", "--limit", "2")["runs"] == as_json(*words, "--all")["runs"][:2]
    call(*CANCEL, "--all", "--yes", "--redis-url", registered)
    assert live(client) == set()


def test_runs_are_cancelled_by_how_long_ago_or_when_they_were_made(registered: str, client: redis.Redis) -> None:
    run = enqueue(registered, "order")
    made_at = as_json("runs", "show", run, "--redis-url", registered)["created_at"]

    def fit(*words: str) -> bool:
        return as_json(*CANCEL, *words, "--dry-run", "--redis-url", registered)["runs"] == [run]

    assert fit("--created-after", "2h")
    assert not fit("--created-before", "2h")
    assert fit("--created-after", made_at)
    assert not fit("--created-before", made_at)
    assert fit("--created-before", "2100-01-31T09:30:00+01:00", "--created-after", "1d12h")
    assert not fit("--created-after", "2100-01-31T09:30:00Z")


@pytest.mark.parametrize("leave", [True, False])
def test_the_runs_that_they_wait_for_are_left_if_so_told(
    app: Stepflow, url: str, client: redis.Redis, run_worker, leave: bool
) -> None:
    @app.function("nap")
    async def nap(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("main")
    async def main(ctx: Context) -> None:
        await ctx.step.invoke("call", nap)

    run_worker(app)
    parent = app.start(main).id
    until(lambda: client.zcard("stepflow:live") == 2, what="the child's sleep")
    options = ["--leave-children"] if leave else []
    assert as_json(*CANCEL, "--function", "main", "--yes", *options, "--redis-url", url)["runs"] == [parent]
    assert len(live(client)) == (1 if leave else 0)


# -- asking --------------------------------------------------------------------


def test_on_a_terminal_it_asks_and_cancels_when_the_answer_is_yes(registered: str, client: redis.Redis) -> None:
    runs = {enqueue(registered, "order") for _ in range(3)}
    no = on_a_terminal(registered, "--function", "order", answer="n\n")
    assert (no.returncode, no.stdout) == (0, "0 runs cancelled\n")
    assert no.stderr.startswith("Cancel 3 runs? [y/N]")
    assert live(client) == runs
    yes = on_a_terminal(registered, "--function", "order", "-o", "json", answer="y\n")
    assert yes.returncode == 0
    assert yes.stdout.startswith("{")
    assert live(client) == set()


def test_on_a_terminal_it_does_not_ask_where_nothing_fits_or_it_need_not(registered: str, client: redis.Redis) -> None:
    assert "Cancel" not in on_a_terminal(registered, "--all", answer="").stderr
    run = enqueue(registered, "order")
    assert "Cancel" not in on_a_terminal(registered, "--all", "--dry-run", answer="").stderr
    assert live(client) == {run}
    assert "Cancel" not in on_a_terminal(registered, run, answer="").stderr
    assert live(client) == set()


def test_an_interrupt_at_the_question_cancels_nothing(registered: str, client: redis.Redis) -> None:
    run = enqueue(registered, "order")
    done = on_a_terminal(registered, "--all", answer="\x04")
    assert done.returncode == 130
    assert "error: interrupted" in done.stderr
    assert live(client) == {run}


# -- what is refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["no runs are selected: pass run ids, a filter (--function", "or --all"]),
        (["--limit", "3", "--yes"], ["no runs are selected"]),
        (["--yes"], ["no runs are selected"]),
        (["RUN", "--function", "order"], ["run ids cannot be combined with filters: --function"]),
        (["RUN", "--all"], ["run ids cannot be combined with filters"]),
        (["--all", "--function", "order"], ["--all cannot be combined with filters"]),
        (["--all"], ["confirmation needs a terminal: use --yes, or --dry-run"]),
        (["--function", "", "--yes"], ["function must be NAME or APP/NAME, got ''"]),
        (["--function", "shop/", "--yes"], ["function must be NAME or APP/NAME, got 'shop/'"]),
        (["--function", "/order", "--yes"], ["function must be NAME or APP/NAME, got '/order'"]),
        (["--status", "completed", "--yes"], ["'completed' is not one of 'queued', 'running', 'waiting'"]),
        (["--if", "event.data.n =", "--yes"], ["is not CEL", "as in 'event.data.total > 100'"]),
        (["--if", "", "--yes"], ["expression must be non-empty text"]),
        (["--created-before", "long ago", "--yes"], ["time must be an age such as 2h or 3d, or a time with a zone"]),
        (["--created-before", "", "--yes"], [", got ''"]),
        (
            ["--created-after", "2026-01-31T09:30:00", "--yes"],
            ["time must have a time zone", "such as 2026-01-31T09:30:00Z"],
        ),
        (["RUN", "--reason", "\udcff"], ["must be valid Unicode"]),
        (["--all", "--reason", "no" * 10_000, "--yes"], ["must be at most 10,240 bytes, got 20,000"]),
        (["--all", "--limit", "0", "--yes"], ["--limit"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_cancelled(
    registered: str, client: redis.Redis, words: Sequence[str], parts: Sequence[str]
) -> None:
    run = enqueue(registered, "order")
    given = [run if word == "RUN" else word for word in words]
    assert_refused(call(*CANCEL, *given, "--redis-url", registered), 2, *parts)
    assert live(client) == {run}
