"""The types of ``step.invoke``: the result is the function's, and the data must fit its input."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, assert_type

from stepflow import (
    ChildHandle,
    Context,
    FunctionReference,
    MapResult,
    SyncChildHandle,
    SyncContext,
    reference_function,
)
from tests.typing.functions import (
    Number,
    Order,
    Point,
    Small,
    Square,
    app,
    compute_square,
    compute_square_in_a_thread,
    of_a_point,
    of_an_order,
    untyped,
)

both = reference_function("compute-square", app_id="maths", input=Number, output=Square)
result_only = reference_function("compute-square", output=Square)
data_only = reference_function("compute-square", input=Number)
neither = reference_function("compute-square")

assert_type(both, FunctionReference[Number, Square])
assert_type(result_only, FunctionReference[Any, Square])
assert_type(data_only, FunctionReference[Number, Any])
assert_type(neither, FunctionReference[Any, Any])
reference_function()  # error
reference_function("compute-square", output=Square(result=1))  # error


@app.function("invokes")
async def invokes(ctx: Context) -> None:
    step = ctx.step
    assert_type(await step.invoke("a model", compute_square, data=Number(number=4)), Square)
    assert_type(await step.invoke("a mapping", compute_square, data={"number": 4}), Square)
    assert_type(await step.invoke("a subclass", compute_square, data=Small(number=4)), Square)
    assert_type(await step.invoke("no data", compute_square), Square)
    assert_type((await step.invoke("a field", compute_square, {"number": 4})).result, int)
    assert_type(await step.invoke("a sync function", compute_square_in_a_thread, data=Number(number=4)), Square)
    assert_type(await step.invoke("a dataclass", of_a_point, data=Point(4)), list[int])
    assert_type(await step.invoke("a typed dict", of_an_order, data=Order(sku="a")), None)
    assert_type(await step.invoke("plain data", untyped, data=[1, "two"]), str)
    assert_type(await step.invoke("by id", "maths/compute-square", data=4), Any)
    assert_type(await step.invoke("text", compute_square, timeout="1h"), Square)
    assert_type(await step.invoke("seconds", compute_square, timeout=30), Square)
    assert_type(await step.invoke("a timedelta", compute_square, timeout=timedelta(hours=1)), Square)


@app.function("starts")
async def starts(ctx: Context) -> None:
    child = await ctx.step.start_child("a model", compute_square, data=Number(number=4), parent_close="wait")
    assert_type(child, ChildHandle[Square])
    assert_type(await child.result(timeout="1h"), Square)
    assert_type(await ctx.step.start_child("a mapping", both, {"number": 4}, timeout=30), ChildHandle[Square])
    assert_type(await ctx.step.start_child("by id", "maths/compute-square"), ChildHandle[Any])
    await ctx.step.start_child("close", compute_square, parent_close="stop")  # error
    await ctx.step.start_child("data", compute_square, data=Point(4))  # error


@app.function("maps-of-functions")
async def maps_of_functions(ctx: Context) -> None:
    step = ctx.step
    assert_type(await step.map("models", compute_square, [Number(number=4)], timeout="1h"), MapResult[Square])
    assert_type(await step.map("mappings", both, [{"number": 4}], at_once=3), MapResult[Square])


@app.function("starts-in-a-thread")
def starts_in_a_thread(ctx: SyncContext) -> None:
    child = ctx.step.start_child("a model", compute_square, data=Number(number=4), parent_close="leave")
    assert_type(child, SyncChildHandle[Square])
    assert_type(child.result(), Square)


@app.function("references")
async def references(ctx: Context) -> None:
    step = ctx.step
    assert_type(await step.invoke("both", both, data=Number(number=4)), Square)
    assert_type(await step.invoke("a mapping", both, data={"number": 4}), Square)
    assert_type(await step.invoke("result only", result_only, data=4), Square)
    assert_type(await step.invoke("data only", data_only, data={"number": 4}), Any)
    assert_type(await step.invoke("neither", neither, data=4), Any)


@app.function("parallel-invokes")
async def parallel_invokes(ctx: Context) -> None:
    pair = await asyncio.gather(ctx.step.invoke("one", compute_square), ctx.step.run("two", lambda: "text"))
    assert_type(pair, tuple[Square, str])
    many = await asyncio.gather(*[ctx.step.invoke("n", both, data={"number": n}) for n in range(3)])
    assert_type(many, list[Square])


@app.function("wrong-invokes")
async def wrong_invokes(ctx: Context) -> None:
    step = ctx.step
    await step.invoke("a number", compute_square, data=4)  # error
    await step.invoke("text", compute_square, data="4")  # error
    await step.invoke("a list", compute_square, data=[4])  # error
    await step.invoke("another model", compute_square, data=Square(result=4))  # error
    await step.invoke("of a sync function", compute_square_in_a_thread, data=Point(4))  # error
    await step.invoke("of a dataclass", of_a_point, data=Number(number=4))  # error
    await step.invoke("of a reference", both, data=4)  # error
    await step.invoke("another model of a reference", data_only, data=Square(result=4))  # error
    await step.invoke("not a function", 4, data=4)  # error
    await step.invoke("the handler itself", lambda ctx: 4)  # error
    await step.invoke("not a duration", compute_square, timeout=[1])  # error
    await step.invoke("a queue", compute_square, queue="bulk", retention="1d")
    await step.invoke("not a queue", compute_square, queue=4)  # error
    await step.invoke("not an option", both, delay="1d")  # error
    await step.start_child("not an option of a child", both, slots=4)  # error
    print((await step.invoke("no such field", compute_square)).root)  # error


@app.function("sync-invokes")
def sync_invokes(ctx: SyncContext) -> None:
    step = ctx.step
    assert_type(step.invoke("a model", compute_square, data=Number(number=4)), Square)
    assert_type(step.invoke("a mapping", compute_square_in_a_thread, data={"number": 4}), Square)
    assert_type(step.invoke("a reference", both, timeout="1h"), Square)
    assert_type(step.invoke("by id", "compute-square", data=4), Any)
    step.invoke("a number", compute_square, data=4)  # error
    step.invoke("not an option", compute_square, slots=4)  # error
    step.invoke("another model", compute_square, data=Square(result=4))  # error
    step.invoke("of a reference", both, data=4)  # error
