"""The search for calls that give another value on each replay."""

from __future__ import annotations

import datetime as dt
import os
import random
import secrets
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from random import randint
from time import time as seconds
from typing import Any
from uuid import uuid4 as new_id

from stepflow import Context, Stepflow, SyncContext
from stepflow.functions.replay_lint import lint_function

app = Stepflow("shop")


def stamp() -> float:
    return seconds()


def stamp_of_stamp() -> float:
    return stamp()


class Clock:
    def now(self) -> int:
        return 1

    @staticmethod
    def time() -> int:
        return 1


clock = Clock()


def found(function: Any) -> list[tuple[str, str]]:
    return [(finding.call, finding.instead.partition(",")[0]) for finding in lint_function(function)]


@app.function("clocks")
async def clocks(ctx: Context) -> None:
    datetime.now(UTC)
    dt.datetime.utcnow()
    dt.date.today()
    print(time.time(), seconds())
    if time.monotonic() > 1:
        stamp_of_stamp()


def test_clocks_are_found_under_any_name_and_in_functions_of_the_module() -> None:
    assert sorted(found(clocks)) == sorted(
        [
            ("datetime.now", "ctx.now()"),
            ("dt.datetime.utcnow", "ctx.now()"),
            ("dt.date.today", "ctx.now()"),
            ("time.time", "ctx.now()"),
            ("seconds", "ctx.now()"),
            ("time.monotonic", "ctx.now()"),
            ("seconds", "ctx.now()"),
        ]
    )


@app.function("chance")
def chance(ctx: SyncContext) -> None:
    randint(1, 6)
    random.random()
    random.Random(4)
    new_id()
    uuid.uuid1()
    secrets.token_hex(8)
    os.urandom(8)


def test_ids_and_chance_are_found_in_sync_functions() -> None:
    assert found(chance) == [
        ("randint", "ctx.random()"),
        ("random.random", "ctx.random()"),
        ("random.Random", "ctx.random()"),
        ("new_id", "ctx.uuid()"),
        ("uuid.uuid1", "ctx.uuid()"),
        ("secrets.token_hex", "a step"),
        ("os.urandom", "a step"),
    ]


@app.function("fine")
async def fine(ctx: Context) -> None:
    async def handler() -> float:
        return time.time()

    await ctx.step.run("a", handler)
    await ctx.step.run("b", lambda: uuid.uuid4())
    await ctx.step.run("c", random.random)
    ctx.now()
    ctx.random().randint(1, 6)
    clock.now()
    Clock.time()
    uuid.UUID(int=4)
    time.strftime("%H")
    time.time()  # replay: ok


def test_handlers_other_names_and_allowed_lines_are_no_findings() -> None:
    assert found(fine) == []


def test_a_finding_names_the_place_and_what_to_use() -> None:
    first = next(finding for finding in lint_function(clocks) if finding.call == "datetime.now")
    assert first.path == __file__
    assert Path(__file__).read_text().splitlines()[first.line - 1].strip() == "datetime.now(UTC)"
    assert lint_function(chance)[0].message == (
        "randint() has another value on each replay of shop/chance: use ctx.random(), or call it in a step"
    )


def test_a_function_without_source_has_no_findings() -> None:
    names: dict[str, Any] = {"Context": Context, "time": time}
    exec("async def hidden(ctx: Context) -> None: time.time()", names)
    assert found(app.function("hidden")(names["hidden"])) == []


def test_functions_that_call_each_other_end() -> None:
    assert found(app.function("loop")(loop)) == [("seconds", "ctx.now()")]


async def loop(ctx: Context) -> None:
    other_loop()


def other_loop() -> None:
    seconds()
    if False:
        other_loop()
