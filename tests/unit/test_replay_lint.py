"""The search for calls that give another value on each replay."""

from __future__ import annotations

import datetime as dt
import os
import random
import secrets
import time
import uuid
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from random import randint
from time import time as seconds
from typing import Any
from uuid import uuid4 as new_id

from stepflow import Context, Stepflow, SyncContext
from stepflow.functions.code_calls import has_source
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
    random.Random()
    new_id()
    uuid.uuid1()
    secrets.token_hex(8)
    secrets.choice("ab")
    os.urandom(8)


def test_ids_and_chance_are_found_in_sync_functions() -> None:
    assert found(chance) == [
        ("randint", "ctx.random()"),
        ("random.random", "ctx.random()"),
        ("random.Random", "ctx.random()"),
        ("new_id", "ctx.uuid()"),
        ("uuid.uuid1", "ctx.uuid()"),
        ("secrets.token_hex", "a step"),
        ("secrets.choice", "a step"),
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
    random.Random(4)
    time.strftime("%H", time.gmtime(4))
    time.time()  # replay: ok
    datetime.now(
        UTC,
    )  # replay: ok


@app.function("shadowed")
async def shadowed(ctx: Context[Any]) -> None:
    time = ctx.event.data
    time.time()


def test_a_variable_with_the_name_of_a_module_is_no_finding() -> None:
    assert found(shadowed) == []


def test_handlers_other_names_and_allowed_lines_are_no_findings() -> None:
    assert found(fine) == []


def test_a_finding_names_the_place_and_what_to_use() -> None:
    first = next(finding for finding in lint_function(clocks) if finding.call == "datetime.now")
    assert first.path == __file__
    assert Path(__file__).read_text().splitlines()[first.line - 1].strip() == "datetime.now(UTC)"
    assert lint_function(chance)[0].message == (
        "randint() has another value on each replay of shop/chance: use ctx.random(), or call it in a step"
    )


class Outside:
    """A proxy outside of its context, and an object that cannot be compared by a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> None: ...
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def with_hash(handler: Any) -> Any:
    """A decorator whose wrapper is found by the code that it wraps."""

    @wraps(handler)
    def wrapper(*args: Any) -> Any:
        return handler(*args)

    return wrapper


outside = Outside()
rolls = random.Random(4)


@with_hash
def decorated() -> float:
    return time.time()


def nested() -> Any:
    """A function in a function, whose text is not indented, and a name that has no value yet."""

    @app.function("nested")
    async def function(ctx: Context) -> None:
        """The first line,
        and a line that begins at the margin."""
        import uuid as ids
        from time import monotonic_ns

        def helper(until: float = time.time()) -> float:
            return until + time.perf_counter_ns()

        outside()
        helper()
        ids.uuid4()
        monotonic_ns()
        decorated()
        rolls.random()
        if ctx.attempt:
            later()

    yield function

    def later() -> None: ...


def test_nested_code_imports_and_decorated_functions_are_searched_and_hostile_objects_do_no_harm() -> None:
    assert found(next(nested())) == [
        ("time.time", "ctx.now()"),
        ("time.time", "ctx.now()"),
        ("time.perf_counter_ns", "ctx.now()"),
        ("ids.uuid4", "ctx.uuid()"),
        ("monotonic_ns", "ctx.now()"),
        ("rolls.random", "ctx.random()"),
    ]


def test_a_function_without_source_has_no_findings() -> None:
    names: dict[str, Any] = {"Context": Context, "time": time}
    exec("async def hidden(ctx: Context) -> None: time.time()", names)
    function = app.function("hidden")(names["hidden"])
    assert found(function) == []
    assert not has_source(function)
    assert has_source(fine)


def test_functions_that_call_each_other_end() -> None:
    assert found(app.function("loop")(loop)) == [("seconds", "ctx.now()")]


async def loop(ctx: Context) -> None:
    other_loop()


def other_loop() -> None:
    seconds()
    if False:
        other_loop()
