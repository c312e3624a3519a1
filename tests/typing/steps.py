"""The types of ``step.run``: the result is the handler's, and its arguments are checked."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, assert_type

from stepflow import Context, ItemFailure, MapResult, Retry, Signal, SyncContext
from tests.typing.functions import Square, app


async def copy(urls: list[str], *, bucket: str = "images") -> list[str]:
    return [f"{bucket}/{url}" for url in urls]


def total(first: int, second: int = 0) -> int:
    return first + second


async def square(number: int) -> Square:
    return Square(result=number**2)


async def delete(urls: list[str]) -> None:
    urls.clear()


def subtract(result: int) -> str:
    return str(-result)


class Shop:
    async def sell(self, sku: str) -> float:
        return float(len(sku))


@app.function("steps")
async def steps(ctx: Context) -> None:
    step = ctx.step
    assert_type(await step.run("an async handler", copy, ["a.png"]), list[str])
    assert_type(await step.run("with a keyword", copy, ["a.png"], bucket="b"), list[str])
    assert_type(await step.run("a sync handler", total, 40, 2), int)
    assert_type(await step.run("a sync handler with a default", total, 40, second=2), int)
    assert_type(await step.run("a model", square, 4), Square)
    assert_type((await step.run("a field", square, 4)).result, int)
    assert_type(await step.run("a lambda", lambda: 40 + 2), int)
    assert_type(await step.run("a method", Shop().sell, "a"), float)
    assert_type(await step.run("a partial", functools.partial(total, 40), 2), int)
    assert_type(await step.run("nothing", asyncio.sleep, 1), None)
    assert_type(await step.with_options(retries=2, timeout="1m").run("with options", total, 1), int)
    assert_type(await step.with_options(isolate="process", memory_limit="2G").run("isolated", total, 1), int)
    policy = Retry(5, initial="1s", budget="1h", on=(TimeoutError, OSError), unless=lambda error: "gone" in str(error))
    assert_type(await step.with_options(retries=policy).run("with a policy", total, 1), int)
    assert_type(await step.run("undo", copy, ["a.png"], undo=delete), list[str])
    assert_type(await step.run("undo of a sync handler", total, 40, 2, undo=lambda result: result - 2), int)
    assert_type(await step.run("undo with a default", total, 40, undo=subtract), int)
    assert_type(await step.with_options(undo=delete).run("undo of keywords", copy, ["a.png"], bucket="b"), list[str])
    assert_type(step.idempotency_key, str)
    assert_type(await step.wait_for_signal("a signal", "go", timeout="1h"), Signal | None)
    assert_type(await step.ask("a model", schema=Square, to="ops", timeout="1h"), Square | None)
    assert_type(await step.ask("a scalar", schema=bool, timeout="1h"), bool | None)
    assert_type(await step.ask("a JSON schema", schema={"type": "boolean"}, timeout="1h"), Any)
    assert_type(
        await asyncio.gather(step.run("left", copy, ["a.png"]), step.run("right", total, 1)), tuple[list[str], int]
    )


@app.function("wrong-steps")
async def wrong_steps(ctx: Context) -> None:
    step = ctx.step
    await step.with_options(retry=2).run("no such option", total, 1)  # error
    await step.with_options(isolate="thread").run("no such isolation", total, 1)  # error
    await step.map("no such option of a map", total, [1], most=3)  # error
    await step.run("a wrong type", total, "40")  # error
    await step.run("too few", total)  # error
    await step.run("too many", total, 1, 2, 3)  # error
    await step.run("an unknown keyword", copy, [], folder="b")  # error
    await step.run("not callable", 40)  # error
    await step.run("a wrong type with undo", total, "40", undo=subtract)  # error
    await step.run("the undo handler of another result", total, 40, undo=delete)  # error
    await step.run("undo is not callable", total, 40, undo=40)  # error
    await step.run(40, total, 1)  # error
    await step.ask("no timeout", schema=bool)  # error
    await step.wait_for_signal("no name")  # error
    print((await step.run("no such field", square, 4)).root)  # error
    await step.with_options(retries="2").run("a wrong option", total, 1)  # error
    await step.with_options(isolate="thread").run("a wrong isolation", total, 1)  # error
    await step.with_options(retries=Retry(5, on="TimeoutError")).run("a wrong policy", total, 1)  # error


@app.function("maps")
async def maps(ctx: Context) -> None:
    step = ctx.step
    assert_type(await step.map("a sync handler", total, [1, 2], at_once=5), MapResult[int])
    assert_type(await step.map("an async handler", copy, [["a.png"]], tolerate=0.5), MapResult[list[str]])
    assert_type((await step.map("a model", square, [4], tolerate=1))[0], Square)
    assert_type((await step.map("failures", total, [1])).failures, tuple[ItemFailure, ...])
    assert_type(await step.map("an id", "shop/child", [{}], timeout="1h"), MapResult[Any])
    await step.map("items of a wrong type", total, ["40"])  # error
    await step.map("no items", total)  # error
    await step.map("not callable", 40, [1])  # error
    await step.map("a timeout of a handler", total, [1], timeout="1h")  # error


@app.function("sync-steps")
def sync_steps(ctx: SyncContext) -> None:
    step = ctx.step
    assert_type(step.run("an async handler", copy, ["a.png"], bucket="b"), list[str])
    assert_type(step.run("a sync handler", total, 40), int)
    assert_type(step.run("a model", square, 4), Square)
    assert_type(step.run("undo", total, 40, undo=subtract), int)
    assert_type(step.with_options(retries=2).run("with options", square, 4), Square)
    assert_type(step.idempotency_key, str)
    assert_type(step.map("a map", total, [1, 2]), MapResult[int])
    assert_type(step.parallel(lambda: step.run("left", total, 1), lambda: step.run("right", copy, [])), list[Any])
    step.run("a wrong type", total, "40")  # error
    step.run("not callable", None)  # error
