"""step.invoke, shown by small functions: ``python -m examples.step_invoke``.

Each function is one of the examples of the reference page of ``step.invoke``, in Python. There are two apps, as two
teams would have them: ``maths`` knows nothing of the functions that invoke it.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stepflow import (
    Context,
    FunctionNotFoundError,
    InvokeError,
    InvokeSkippedError,
    InvokeTimeoutError,
    RateLimit,
    Run,
    Stepflow,
    SyncContext,
    reference_function,
)
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_engine.codec import pretty
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker

__all__ = ["Number", "Square", "app", "main", "maths"]

app = Stepflow("step-invoke-examples")
maths = Stepflow("maths")


# -- a function that is invoked ----------------------------------------------------


class Number(BaseModel):
    """What compute-square is given."""

    number: int


class Square(BaseModel):
    """What it returns."""

    result: int


@app.function("compute-square", event="calculate/square")
async def compute_square(ctx: Context[Number]) -> Square:
    """A function like any other: an event starts it too."""
    return Square(result=ctx.event.data.number * ctx.event.data.number)


@app.function("main-function", event="main/event")
async def main_function(ctx: Context) -> str:
    """Type checkers know what data compute-square takes, and that ``square.result`` is an int."""
    square = await ctx.step.invoke("compute-square-value", compute_square, data=Number(number=4))
    return f"Square of 4 is {square.result}."


# -- ways to name it ---------------------------------------------------------------


@maths.function("compute-pi")
async def compute_pi(ctx: Context[Number]) -> str:
    """Another app's function: the number of digits is its input."""
    return await ctx.step.run("digits", digits_of_pi, ctx.event.data.number)


def digits_of_pi(count: int) -> str:
    """Machin's formula, in whole numbers."""

    def arctan(inverse: int) -> int:
        term, total, n, sign = unit // inverse, 0, 1, 1
        while term:
            total, term, n, sign = total + sign * (term // n), term // inverse**2, n + 2, -sign
        return total

    unit = 10 ** (count + 10)
    digits = str((4 * arctan(5) - arctan(239)) * 4)
    return f"{digits[0]}.{digits[1:count]}"


square_here = reference_function("compute-square", input=Number, output=Square)
"""A function of the app that uses the reference."""

pi_elsewhere = reference_function("compute-pi", app_id="maths", input=Number, output=str)
"""A function of another app, whose code is not imported."""


@app.function("invoke-each-way")
async def invoke_each_way(ctx: Context) -> dict[str, Any]:
    """By definition, by reference, by id."""
    defined = await ctx.step.invoke("invoke-by-definition", compute_square, data={"number": 2})
    referred = await ctx.step.invoke("invoke-by-reference", square_here, data={"number": 3})
    elsewhere = await ctx.step.invoke("invoke-in-another-app", pi_elsewhere, data={"number": 12})
    named = await ctx.step.invoke("invoke-by-id", "maths/compute-pi", data={"number": 5})  # plain data comes back
    return {"definition": defined.result, "reference": referred.result, "another app": elsewhere, "id": named}


@app.function("invoke-with-timeout")
async def invoke_with_timeout(ctx: Context) -> int:
    """The wait is bounded; without ``timeout``, by 366 days."""
    square = await ctx.step.invoke("invoke-with-timeout", compute_square, data={"number": 5}, timeout="1h")
    return square.result


# -- several at once ---------------------------------------------------------------


@app.function("invoke-in-parallel")
async def invoke_in_parallel(ctx: Context) -> list[int]:
    """Each has a run of its own; this one waits for all of them without holding a worker."""
    squares = await asyncio.gather(
        *[ctx.step.invoke(f"square of {number}", compute_square, data={"number": number}) for number in range(5)]
    )
    return [square.result for square in squares]


@app.function("invoke-and-go-on")
async def invoke_and_go_on(ctx: Context) -> str:
    """What ``.then`` is elsewhere: a coroutine that awaits the invoke and goes on with its result."""

    async def told(number: int) -> str:
        square = await ctx.step.invoke(f"square of {number}", compute_square, data={"number": number})
        return await ctx.step.run(f"tell of {number}", lambda: f"{number}² = {square.result}")

    return ", ".join(await asyncio.gather(told(6), told(7)))


@app.function("invoke-from-a-plain-function")
def invoke_from_a_plain_function(ctx: SyncContext) -> list[int]:
    """A plain ``def`` blocks its own thread, and has ``parallel``."""
    squares = ctx.step.parallel(
        lambda: ctx.step.invoke("first", compute_square, data={"number": 8}),
        lambda: ctx.step.invoke("second", compute_square, data={"number": 9}),
    )
    return [square.result for square in squares]


# -- when there is no result -------------------------------------------------------

OPENED = threading.Event()
"""A door that opens when the program ends."""


@app.function("always-fails", retries=1)
async def always_fails(_ctx: Context) -> None:
    """It has retries of its own; the function that invokes it has none for it."""
    raise ValueError("the card was declined")


@app.function("waits-for-the-door")
async def waits_for_the_door(ctx: Context) -> bool:
    """Longer than anybody waits for it."""
    return await ctx.step.run("wait", OPENED.wait, 60)


@app.function("once-an-hour", rate_limit=RateLimit(1, "1h"))
async def once_an_hour(_ctx: Context) -> str:
    """What is over its rate limit is skipped, and who invoked it is told so."""
    return "done"


@app.function("handle-errors")
async def handle_errors(ctx: Context) -> dict[str, Any]:
    """Each kind of end has an error. None of them is retried; one that is not caught fails this run at once."""
    invoke = ctx.step.invoke
    return {
        "not found": await outcome(invoke("a", "no-such-function")),
        "failed": await outcome(invoke("b", always_fails)),
        "timed out": await outcome(invoke("c", waits_for_the_door, timeout="200ms")),
        "rate limited": [await outcome(invoke("d", once_an_hour)), await outcome(invoke("e", once_an_hour))],
    }


@app.function("let-it-fail", retries=3)
async def let_it_fail(ctx: Context) -> None:
    """Not caught, an error of an invoke fails this run at once, whatever retries it has."""
    await ctx.step.invoke("not caught", always_fails)


async def outcome(invoke: Awaitable[Any]) -> str:
    """What came of an invoke, in words."""
    try:
        return f"result: {await invoke}"
    except FunctionNotFoundError as error:
        return f"not found: {error.message}"
    except InvokeTimeoutError as error:
        return f"timed out: {error.message}"
    except InvokeSkippedError as error:
        return f"skipped: {error.reason}"
    except InvokeError as error:  # it failed; the error is the child's own
        return f"failed: {error.name}: {error.message}"


# -- running them ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """One of the examples: what it shows, and how a run of it is started."""

    shows: str
    start: Callable[[Stepflow], Run[Any]]


EXAMPLES = (
    Example("a function invokes another one", lambda producer: producer.start(main_function)),
    Example("by definition, by reference, by id", lambda producer: producer.start(invoke_each_way)),
    Example("with a timeout", lambda producer: producer.start(invoke_with_timeout)),
    Example("several at once", lambda producer: producer.start(invoke_in_parallel)),
    Example("each goes on when its own invoke has ended", lambda producer: producer.start(invoke_and_go_on)),
    Example("from a plain function", lambda producer: producer.start(invoke_from_a_plain_function)),
    Example("when there is no result", lambda producer: producer.start(handle_errors)),
)


@contextmanager
def worker(url: str) -> Iterator[None]:
    """A worker for both apps, in a thread of this process."""
    worker = StepWorker([app, maths], WorkerSettings(url))
    thread = threading.Thread(target=worker.work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        OPENED.set()
        worker.stop()
        thread.join(30)


def main() -> None:
    """Run every example and print what it returned."""
    logging.basicConfig(level=logging.ERROR)  # a run that fails is a warning, and here one fails on purpose
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server, worker(server.url):
        producer = Stepflow(app.id, redis_url=server.url)
        for example in EXAMPLES:
            print(f"{example.shows}:\n{pretty(example.start(producer).result(timeout=30))}\n")


if __name__ == "__main__":
    main()
