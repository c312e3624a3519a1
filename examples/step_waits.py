"""Time and events, shown by small functions: ``python -m examples.step_waits``.

An order waits for its payment and reminds the customer. A second function handles large orders. A third makes a report
each night. A fourth handles failed runs. The durations are short, so that the program ends in seconds. The mail and
the archive are stand-ins in memory.
"""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from examples.support import move_schedules_back, show, temporary_server, worker
from stepflow import Context, Event, Stepflow

__all__ = ["Order", "app", "main"]

app = Stepflow("step-waits-examples")


# -- stand-ins for the outside world -----------------------------------------------

MAILS: queue.Queue[str] = queue.Queue()
"""The sent mails."""

REPORTS: queue.Queue[str] = queue.Queue()
"""The archive."""


def mail(text: str) -> str:
    """Send a mail."""
    MAILS.put(text)
    return text


# -- a race between a timer and an event -------------------------------------------------


class Order(BaseModel):
    """An order, and how long the shop waits for its payment."""

    order: int
    total: int = 42
    remind_after: str = "1d"
    give_up_after: str = "3d"


@app.function("order", event="shop/order.placed")
async def order(ctx: Context[Order]) -> str:
    """While it waits, it holds no worker."""
    placed, step = ctx.event.data, ctx.step
    payment = asyncio.create_task(
        step.wait_for_event(
            "payment",
            event="shop/order.paid",
            match="data.order",  # only the payment of this order
            timeout=placed.give_up_after,
            lookback="5m",  # also a payment that arrived before the wait began
        )
    )
    reminder = asyncio.create_task(step.sleep("reminder", placed.remind_after))
    await asyncio.wait({payment, reminder}, return_when=asyncio.FIRST_COMPLETED)  # the same winner on every replay
    reminded = not payment.done()
    if reminded:
        await step.run("remind", mail, f"please pay order {placed.order}")
    paid = await payment
    if paid is None:
        return f"order {placed.order} was never paid"
    await step.send_event("close", Event("shop/order.closed", {"order": placed.order, "total": placed.total}))
    return f"order {placed.order} was paid{' after a reminder' if reminded else ''}"


# -- a condition -------------------------------------------------------------------


@app.function("thank", event="shop/order.closed", if_="event.data.total > 100")
async def thank(ctx: Context) -> str:
    """Only events of large orders start it."""
    return await ctx.step.run("mail", mail, f"thank you for order {ctx.event.data['order']}")


# -- a schedule -------------------------------------------------------------------------


@app.function("nightly-report", cron="TZ=Europe/Rome 0 2 * * *")
async def nightly_report(ctx: Context) -> None:
    """It runs once a night, regardless of the number of workers. After missed nights, it runs once for the latest."""
    night = datetime.fromisoformat(ctx.event.data["time"])
    text = f"the report of {night:%H:%M} in {ctx.event.data['zone']}"
    await ctx.step.run("archive", REPORTS.put, text)


# -- failures ----------------------------------------------------------------------


async def tell_support(ctx: Context) -> None:
    """Each failed run starts this once. The event has the failed function, its error and its event."""
    failed = ctx.event.data
    text = f"{failed['function']} failed for order {failed['event']['data']['order']}: {failed['error']['message']}"
    await ctx.step.run("mail", mail, text)


@app.function("ship", retries=0, on_failure=tell_support)
async def ship(ctx: Context[Order]) -> None:
    """It fails on purpose."""
    await ctx.step.run("book", book)


async def book() -> None:
    """Book a van."""
    raise ValueError("there is no van")


# -- running them ------------------------------------------------------------------


def paid_at_once(client: Stepflow) -> Any:
    """The payment arrives before the reminder is due. The timer is deleted when the run ends."""
    run = client.start(order, Order(order=1, total=200))
    client.send("shop/order.paid", {"order": 1})
    return {"result": run.result(timeout=30), "mail": MAILS.get(timeout=30)}


def paid_after_the_reminder(client: Stepflow) -> Any:
    """The reminder is sent first, then the payment arrives."""
    run = client.start(order, Order(order=2, remind_after="100ms"))
    reminder = MAILS.get(timeout=30)
    client.send("shop/order.paid", {"order": 2})
    return {"mail": reminder, "result": run.result(timeout=30)}


def never_paid(client: Stepflow) -> Any:
    """No payment arrives: the wait returns ``None``."""
    run = client.start(order, Order(order=3, remind_after="100ms", give_up_after="300ms"))
    return {"mail": MAILS.get(timeout=30), "result": run.result(timeout=30)}


def failed(client: Stepflow) -> Any:
    """A failed run starts a run of another function."""
    client.start(ship, Order(order=4))
    return {"mail": MAILS.get(timeout=30)}


@dataclass(frozen=True, slots=True)
class Example:
    """What an example shows, and a function that runs it and returns the outcome."""

    shows: str
    show: Callable[[Stepflow], Any]


EXAMPLES = (
    Example("an order that is paid at once; its total is over 100", paid_at_once),
    Example("an order that is paid after a reminder", paid_after_the_reminder),
    Example("an order that is never paid", never_paid),
    Example("a failed run", failed),
)


def main() -> None:
    """Run every example and print its outcome."""
    logging.basicConfig(level=logging.ERROR)  # a failed run logs a warning, and one fails on purpose
    with temporary_server() as url:
        client = Stepflow(app.id, redis_url=url)
        with worker(url, app):
            for example in EXAMPLES:
                show(example.shows, example.show(client))
            move_schedules_back(client, hours=48)
        with worker(url, app):
            show("a worker starts after two missed nights", REPORTS.get(timeout=30))


if __name__ == "__main__":
    main()
