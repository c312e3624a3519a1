"""Functions that the other files start and invoke; each with the types that its declaration gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from pydantic import BaseModel

from stepflow import Context, Event, Function, RateLimit, Stepflow, SyncContext

app = Stepflow("types")


class Number(BaseModel):
    number: int


class Small(Number):
    pass


class Square(BaseModel):
    result: int


@dataclass
class Point:
    x: int


class Order(TypedDict):
    sku: str


@app.function("compute-square", event="calculate/square", rate_limit=RateLimit(10, "1m"))
async def compute_square(ctx: Context[Number]) -> Square:
    assert_type(ctx.event, Event[Number])
    assert_type(ctx.event.data, Number)
    assert_type(ctx.event.data.number, int)
    assert_type(ctx.events, list[Event[Number]])
    print(ctx.event.data.text)  # error
    return Square(result=ctx.event.data.number**2)


@app.function("compute-square-in-a-thread", triggers=["calculate/square"], retries=2)
def compute_square_in_a_thread(ctx: SyncContext[Number]) -> Square:
    assert_type(ctx.event.data, Number)
    return Square(result=ctx.event.data.number**2)


@app.function("untyped")
async def untyped(ctx: Context) -> str:
    assert_type(ctx.event.data, Any)
    return str(ctx.event.data["anything"])


@app.function("of-a-point")
async def of_a_point(ctx: Context[Point]) -> list[int]:
    assert_type(ctx.event.data.x, int)
    return [ctx.event.data.x]


@app.function("of-an-order")
async def of_an_order(ctx: Context[Order]) -> None:
    assert_type(ctx.event.data["sku"], str)


@app.function("of-no-context")  # error
async def of_no_context(ctx: int) -> None: ...


assert_type(compute_square, Function[Number, Square])
assert_type(compute_square_in_a_thread, Function[Number, Square])
assert_type(untyped, Function[Any, str])
assert_type(of_a_point, Function[Point, list[int]])
assert_type(of_an_order, Function[Order, None])


@app.function("loops")
async def loops(ctx: Context[Number]) -> Square:
    if ctx.round > 3:
        ctx.continue_as_new("text")  # error
    if ctx.event.data.number:
        return ctx.continue_as_new({"number": 1})
    return ctx.continue_as_new(Number(number=ctx.event.data.number - 1))


@app.function("loops-in-a-thread")
def loops_in_a_thread(ctx: SyncContext[Number]) -> int:
    return ctx.round if ctx.round > 3 else ctx.continue_as_new(Number(number=1))


assert_type(loops, Function[Number, Square])
