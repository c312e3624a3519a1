"""step.invoke, shown by small functions: ``python -m examples.step_invoke``.

Each function shows one property of ``step.invoke``. There are two apps, like those of two teams: ``maths`` does not
import the code of its callers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from examples.support import show, temporary_server, worker
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

__all__ = ["Number", "Square", "app", "main", "maths"]

app = Stepflow("step-invoke-examples")
maths = Stepflow("maths")


# -- a function that is invoked ----------------------------------------------------


class Number(BaseModel):
    """The input of compute-square."""

    number: int


class Square(BaseModel):
    """The output of compute-square."""

    result: int


@app.function("compute-square", event="calculate/square")
async def compute_square(ctx: Context[Number]) -> Square:
    """An ordinary function; an event can start it too."""
    return Square(result=ctx.event.data.number * ctx.event.data.number)


@app.function("main-function", event="main/event")
async def main_function(ctx: Context) -> str:
    """Type checkers know the input type of compute-square, and that ``square.result`` is an int."""
    square = await ctx.step.invoke("compute-square-value", compute_square, data=Number(number=4))
    return f"Square of 4 is {square.result}."


# -- ways to name the function ---------------------------------------------------------------


@maths.function("compute-pi")
async def compute_pi(ctx: Context[Number]) -> str:
    """A function of another app. Its input is the number of digits."""
    return await ctx.step.run("digits", digits_of_pi, ctx.event.data.number)


def digits_of_pi(count: int) -> str:
    """Compute pi by Machin's formula with integers."""

    def arctan(inverse: int) -> int:
        term, total, n, sign = unit // inverse, 0, 1, 1
        while term:
            total, term, n, sign = total + sign * (term // n), term // inverse**2, n + 2, -sign
        return total

    unit = 10 ** (count + 10)
    digits = str((4 * arctan(5) - arctan(239)) * 4)
    return f"{digits[0]}.{digits[1:count]}"


square_here = reference_function("compute-square", input=Number, output=Square)
"""A reference to a function of the same app."""

pi_elsewhere = reference_function("compute-pi", app_id="maths", input=Number, output=str)
"""A reference to a function of another app, whose code is not imported."""


@app.function("invoke-each-way")
async def invoke_each_way(ctx: Context) -> dict[str, Any]:
    """Invoke a function by definition, by reference, and by id."""
    defined = await ctx.step.invoke("invoke-by-definition", compute_square, data={"number": 2})
    referred = await ctx.step.invoke("invoke-by-reference", square_here, data={"number": 3})
    elsewhere = await ctx.step.invoke("invoke-in-another-app", pi_elsewhere, data={"number": 12})
    named = await ctx.step.invoke("invoke-by-id", "maths/compute-pi", data={"number": 5})  # returns plain data
    return {"definition": defined.result, "reference": referred.result, "another app": elsewhere, "id": named}


@app.function("invoke-with-timeout")
async def invoke_with_timeout(ctx: Context) -> int:
    """``timeout`` limits the wait; the default is 366 days."""
    square = await ctx.step.invoke("invoke-with-timeout", compute_square, data={"number": 5}, timeout="1h")
    return square.result


# -- parallel invokes ---------------------------------------------------------------


@app.function("invoke-in-parallel")
async def invoke_in_parallel(ctx: Context) -> list[int]:
    """Each invoke starts its own run. This run waits for all of them without holding a worker."""
    squares = await asyncio.gather(
        *[ctx.step.invoke(f"square of {number}", compute_square, data={"number": number}) for number in range(5)]
    )
    return [square.result for square in squares]


@app.function("invoke-and-go-on")
async def invoke_and_go_on(ctx: Context) -> str:
    """A coroutine per invoke continues as soon as its own invoke has ended, like ``.then`` of a promise."""

    async def describe(number: int) -> str:
        square = await ctx.step.invoke(f"square of {number}", compute_square, data={"number": number})
        return await ctx.step.run(f"describe {number}", lambda: f"{number}² = {square.result}")

    return ", ".join(await asyncio.gather(describe(6), describe(7)))


@app.function("invoke-from-a-plain-function")
def invoke_from_a_plain_function(ctx: SyncContext) -> list[int]:
    """A plain ``def`` blocks its own thread and uses ``parallel`` for parallel steps."""
    squares = ctx.step.parallel(
        lambda: ctx.step.invoke("first", compute_square, data={"number": 8}),
        lambda: ctx.step.invoke("second", compute_square, data={"number": 9}),
    )
    return [square.result for square in squares]


# -- errors -------------------------------------------------------

OPENED = threading.Event()
"""Set when the program ends."""


@app.function("always-fails", retries=1)
async def always_fails(_ctx: Context) -> None:
    """It is retried by its own policy. The invoke is not retried."""
    raise ValueError("the card was declined")


@app.function("waits-for-the-door")
async def waits_for_the_door(ctx: Context) -> bool:
    """It takes longer than the timeout of its caller."""
    return await ctx.step.run("wait", OPENED.wait, 60)


@app.function("once-an-hour", rate_limit=RateLimit(1, "1h"))
async def once_an_hour(_ctx: Context) -> str:
    """A run over the rate limit is skipped, and its invoke raises `InvokeSkippedError`."""
    return "done"


@app.function("handle-errors")
async def handle_errors(ctx: Context) -> dict[str, Any]:
    """Each kind of failure has its own error. None is retried; an uncaught one fails this run at once."""
    invoke = ctx.step.invoke
    return {
        "not found": await outcome(invoke("a", "no-such-function")),
        "failed": await outcome(invoke("b", always_fails)),
        "timed out": await outcome(invoke("c", waits_for_the_door, timeout="200ms")),
        "rate limited": [await outcome(invoke("d", once_an_hour)), await outcome(invoke("e", once_an_hour))],
    }


@app.function("let-it-fail", retries=3)
async def let_it_fail(ctx: Context) -> None:
    """An uncaught error of an invoke fails this run at once, regardless of its retries."""
    await ctx.step.invoke("not caught", always_fails)


async def outcome(invoke: Awaitable[Any]) -> str:
    """The outcome of an invoke as text."""
    try:
        return f"result: {await invoke}"
    except FunctionNotFoundError as error:
        return f"not found: {error.message}"
    except InvokeTimeoutError as error:
        return f"timed out: {error.message}"
    except InvokeSkippedError as error:
        return f"skipped: {error.reason}"
    except InvokeError as error:  # the child failed; name and message are those of its error
        return f"failed: {error.name}: {error.message}"


# -- running them ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """What an example shows, and how to start its run."""

    shows: str
    start: Callable[[Stepflow], Run[Any]]


EXAMPLES = (
    Example("a function invokes another one", lambda client: client.start(main_function)),
    Example("by definition, by reference, by id", lambda client: client.start(invoke_each_way)),
    Example("with a timeout", lambda client: client.start(invoke_with_timeout)),
    Example("parallel invokes", lambda client: client.start(invoke_in_parallel)),
    Example("each coroutine continues when its own invoke has ended", lambda client: client.start(invoke_and_go_on)),
    Example("from a plain function", lambda client: client.start(invoke_from_a_plain_function)),
    Example("errors", lambda client: client.start(handle_errors)),
)


def main() -> None:
    """Run every example and print its result."""
    logging.basicConfig(level=logging.ERROR)  # a failed run logs a warning, and one fails on purpose
    with temporary_server() as url, worker(url, app, maths):
        client = Stepflow(app.id, redis_url=url)
        try:
            for example in EXAMPLES:
                show(example.shows, example.start(client).result(timeout=30))
        finally:
            OPENED.set()  # end the step that still waits


if __name__ == "__main__":
    main()
