"""Functions whose runs take long: the same on a real worker with short times and on a harness with long ones."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from stepflow import Context, Debounce, Event, Retry, RetryAfterError, StepError, Stepflow, SyncContext, Throttle

app = Stepflow("timed")


class Receipt(BaseModel):
    """What a charge returns."""

    number: int


def charge(total: int) -> Receipt:
    return Receipt(number=total)


async def mail(text: str) -> str:
    return f"sent {text}"


@app.function("order", event="timed/ordered", retries=2)
async def order(ctx: Context) -> list[Any]:
    """A step, a sleep, a wait, another step."""
    data = ctx.event.data
    receipt = await ctx.step.run("charge", charge, data["n"])
    await ctx.step.sleep("cool", data["cool"])
    shipped = await ctx.step.wait_for_event("ship", event="timed/shipped", match="data.n", timeout=data["patience"])
    return [receipt.number, shipped is not None, await ctx.step.run("mail", mail, "thanks")]


@app.function("unlucky", retries=Retry(2, initial="50ms", factor=1, jitter=0))
async def unlucky(ctx: Context) -> str:
    """Fails for good, and goes on."""
    try:
        return str(await ctx.step.run("charge", fail))
    except StepError as error:
        return error.message


def fail() -> None:
    raise ConnectionError("no bank")


@app.function("patient", retries=1)
async def patient(ctx: Context) -> str:
    """Says itself when it is retried."""
    return await ctx.step.run("charge", later, ctx.event.data["after"])


calls: list[float] = []


def later(after: float) -> str:
    calls.append(after)
    if len(calls) % 2:
        raise RetryAfterError("later", after)
    return "late"


@app.function("parent")
async def parent(ctx: Context) -> int:
    """Invokes a child that sleeps."""
    return int(await ctx.step.invoke("child", child, {"nap": ctx.event.data["nap"]})) + 1


@app.function("child")
async def child(ctx: Context) -> int:
    await ctx.step.sleep("nap", ctx.event.data["nap"])
    return 1


@app.function("race")
def race(ctx: SyncContext) -> str:
    """A plain def, with a signal and an ask."""
    first = ctx.step.wait_for_signal("go", "go", timeout=ctx.event.data["patience"])
    return "went" if first else "left"


@app.function("sender")
async def sender(ctx: Context) -> str:
    """Starts another function by an event."""
    await ctx.step.send_event("tell", Event("timed/told", {"by": ctx.run_id}))
    return "told"


@app.function("told", event="timed/told", throttle=Throttle(1, "1h"))
async def told(ctx: Context) -> None:
    await ctx.step.run("hear", mail, "heard")


@app.function("quiet", event="timed/typed", debounce=Debounce("10m"))
async def quiet(ctx: Context) -> int:
    return int(ctx.event.data["n"])


@app.function("nightly", cron="0 3 * * *")
async def nightly(ctx: Context) -> None:
    await ctx.step.run("tick", mail, "tick")
