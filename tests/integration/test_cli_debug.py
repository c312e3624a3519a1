"""stepflow debug: the code of a run stops in a debugger, on a real terminal, where it needs something new."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepflow.replay.history import PlannedStep, RunHistory
from stepflow.replay.history_file import to_json, to_text
from stepflow_engine.codec import dumps
from stepflow_engine.ids import step_key
from stepflow_engine.memo import Memo
from tests.support.command_line import call
from tests.support.processes import until
from tests.support.terminal import Screen, in_terminal

CODE = """
from stepflow import Context, Stepflow, SyncContext

app = Stepflow("shop")


def handler(*_):
    raise SystemExit("a handler was called")


@app.function("order")
async def order(ctx: Context) -> int:
    price = await ctx.step.run("price", handler)
    doubled = price * 2
    await ctx.step.run("charge", handler, doubled)
    return doubled


@app.function("sync-order")
def sync_order(ctx: SyncContext) -> int:
    price = ctx.step.run("price", handler)
    doubled = price * 2
    ctx.step.run("charge", handler, doubled)
    return doubled
"""
EVENT = dumps({"name": "e", "id": "e", "ts": 1, "data": {}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(CODE)
    for name in ("order", "sync-order", "gone"):
        history = RunHistory(
            f"shop/{name}",
            "ab" * 16,
            (EVENT,),
            ((step_key("price"), Memo("price", 21)),),
            (PlannedStep(step_key("charge"), "charge", "run"),),
        )
        (tmp_path / f"{name}.json").write_text(to_text(to_json(history)))
    return tmp_path


@contextlib.contextmanager
def debugging(folder: Path, *words: str) -> Iterator[Screen]:
    process, ours = in_terminal(["debug", "--app", "shop:app", *words], folder=folder)
    screen = Screen(ours)
    try:
        yield screen
        until(lambda: screen.has("\n") and process.poll() is not None, what="the end of the command")
        screen.has("")
        assert process.returncode == 0, screen.text
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("name", ["order", "sync-order"])
def test_the_debugger_opens_at_the_first_step_without_a_result_with_its_variables(folder: Path, name: str) -> None:
    with debugging(folder, "--history", f"{name}.json") as screen:
        until(lambda: screen.has("(Pdb)"), what="the debugger")
        assert "step 'charge' (run) is requested here" in screen.text
        assert "  doubled = 42" in screen.text
        assert "charge" in screen.text.splitlines()[-2]
        screen.type("p doubled + 1000")
        until(lambda: screen.has("1042"), what="the answer of the debugger")
        screen.type("c")
    assert "the history ends here: the code waits for 'charge'" in screen.text
    assert "a handler was called" not in screen.text


def test_the_debugger_opens_before_a_step_that_is_named(folder: Path) -> None:
    with debugging(folder, "--history", "order.json", "--break", "price") as screen:
        until(lambda: screen.has("(Pdb)"), what="the debugger")
        assert "doubled" not in screen.text
        screen.type("c")


def test_what_cannot_be_debugged_is_said_in_a_line(folder: Path) -> None:
    process, ours = in_terminal(
        ["debug", "--app", "shop:app", "--history", "order.json", "--break", "none"], folder=folder
    )
    screen = Screen(ours)
    until(lambda: screen.has("\n") and process.poll() is not None, what="the end of the command")
    assert screen.has("step 'none' is not requested; the steps that are: price, charge")
    assert process.returncode == 2
    os.close(ours)
    for words, said in (
        (["--history", "order.json"], "the debugger needs a terminal as its standard input"),
        ([], "name a run, or a file with --history"),
    ):
        done = call("debug", "--app", "shop:app", *words, cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    process, ours = in_terminal(["debug", "--app", "shop:app", "--history", "gone.json"], folder=folder)
    screen = Screen(ours)
    until(lambda: screen.has("\n") and process.poll() is not None, what="the end of the command")
    assert screen.has("the run is of function shop/gone, which shop:app does not have")
    assert process.returncode == 2
    os.close(ours)
