"""Time and events, shown by small functions: ``python -m examples.step_waits``.

An order waits for its payment, and its customer is reminded; large orders are told of by another function; a report
is made each night; a function of its own hears of runs that fail. The times are short here, so that all ends in
seconds. The mail and the archive are stand-ins that keep everything in memory.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stepflow import Context, Event, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.transitions.schedules import fire_cron, read_crons
from stepflow_engine.codec import pretty
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker

__all__ = ["Order", "app", "main"]

app = Stepflow("step-waits-examples")


# -- stand-ins for the outside world -----------------------------------------------

MAILS: queue.Queue[str] = queue.Queue()
"""What was mailed."""

REPORTS: queue.Queue[str] = queue.Queue()
"""The archive."""


def mail(text: str) -> str:
    """Send a mail."""
    MAILS.put(text)
    return text


# -- a race of a time and an event -------------------------------------------------


class Order(BaseModel):
    """An order, and how patient the shop is with it."""

    order: int
    total: int = 42
    remind_after: str = "1d"
    give_up_after: str = "3d"


@app.function("order", event="shop/order.placed")
async def order(ctx: Context[Order]) -> str:
    """While it waits it needs no worker: neither for a day nor for a second."""
    placed, step = ctx.event.data, ctx.step
    payment = asyncio.create_task(
        step.wait_for_event(
            "payment",
            event="shop/order.paid",
            match="data.order",  # only that of this very order
            timeout=placed.give_up_after,
            lookback="5m",  # also one that came while the run was on its way
        )
    )
    patience = asyncio.create_task(step.sleep("patience", placed.remind_after))
    await asyncio.wait({payment, patience}, return_when=asyncio.FIRST_COMPLETED)  # the same winner on every replay
    reminded = not payment.done()
    if reminded:
        await step.run("remind", mail, f"please pay order {placed.order}")
    paid = await payment
    if paid is None:
        return f"order {placed.order} was never paid"
    await step.send_event("tell", Event("shop/order.closed", {"order": placed.order, "total": placed.total}))
    return f"order {placed.order} was paid{' after a reminder' if reminded else ''}"


# -- a condition -------------------------------------------------------------------


@app.function("thank", event="shop/order.closed", if_="event.data.total > 100")
async def thank(ctx: Context) -> str:
    """Only large orders start it."""
    return await ctx.step.run("mail", mail, f"thank you for order {ctx.event.data['order']}")


# -- times -------------------------------------------------------------------------


@app.function("nightly-report", cron="TZ=Europe/Rome 0 2 * * *")
async def nightly_report(ctx: Context) -> None:
    """Once a night, however many workers there are. A night on which none ran is made up for by the next one."""
    night = datetime.fromisoformat(ctx.event.data["time"])
    text = f"the report of {night:%H:%M} in {ctx.event.data['zone']}"
    await ctx.step.run("archive", REPORTS.put, text)


# -- failures ----------------------------------------------------------------------


async def tell_support(ctx: Context) -> None:
    """Each failed run starts this once; what it says is what failed, why, and for which event."""
    failed = ctx.event.data
    text = f"{failed['function']} failed for order {failed['event']['data']['order']}: {failed['error']['message']}"
    await ctx.step.run("mail", mail, text)


@app.function("ship", retries=0, on_failure=tell_support)
async def ship(ctx: Context[Order]) -> None:
    """It fails, for the sake of the example."""
    await ctx.step.run("book", book)


async def book() -> None:
    """Book a van."""
    raise ValueError("there is no van")


# -- running them ------------------------------------------------------------------


def paid_at_once(producer: Stepflow) -> Any:
    """The payment comes before the reminder is due; the sleep is dropped with its run."""
    run = producer.start(order, Order(order=1, total=200))
    producer.send("shop/order.paid", {"order": 1})
    return {"result": run.result(timeout=30), "mail": MAILS.get(timeout=30)}


def paid_after_the_reminder(producer: Stepflow) -> Any:
    """The reminder comes first, and then the payment."""
    run = producer.start(order, Order(order=2, remind_after="100ms"))
    reminder = MAILS.get(timeout=30)
    producer.send("shop/order.paid", {"order": 2})
    return {"mail": reminder, "result": run.result(timeout=30)}


def never_paid(producer: Stepflow) -> Any:
    """Nobody pays: the wait gives ``None``."""
    run = producer.start(order, Order(order=3, remind_after="100ms", give_up_after="300ms"))
    return {"mail": MAILS.get(timeout=30), "result": run.result(timeout=30)}


def failed(producer: Stepflow) -> Any:
    """A run that fails starts a run of another function."""
    producer.start(ship, Order(order=4))
    return {"mail": MAILS.get(timeout=30)}


@dataclass(frozen=True, slots=True)
class Example:
    """One of the examples: what it shows, and how."""

    shows: str
    show: Callable[[Stepflow], Any]


EXAMPLES = (
    Example("an order that is paid at once; its total is over 100", paid_at_once),
    Example("an order that is paid after a reminder", paid_after_the_reminder),
    Example("an order that is never paid", never_paid),
    Example("a run that fails", failed),
)


def miss_two_nights(producer: Stepflow) -> None:
    """Say that the schedules were seen to until two days ago: as if no worker had run since."""
    broker, keys = producer.backend.broker, producer.backend.keys
    deadline = time.monotonic() + 30
    while not any(found := broker.execute_all([read_crons(one) for one in keys.all])) and time.monotonic() < deadline:
        time.sleep(0.05)
    for one, schedules in zip(keys.all, found, strict=True):
        for name, last_ms in schedules.items():
            broker.execute(fire_cron(one, name, last_ms=last_ms, until_ms=last_ms - 48 * 3_600_000, starts=()))


@contextmanager
def worker(url: str) -> Iterator[None]:
    """A worker in a thread of this process, so that the stand-ins can be looked at."""
    worker = StepWorker([app], WorkerSettings(url))
    thread = threading.Thread(target=worker.work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(30)


def main() -> None:
    """Run every example and print what came of it."""
    logging.basicConfig(level=logging.ERROR)  # a run that fails is a warning, and here one fails on purpose
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        producer = Stepflow(app.id, redis_url=server.url)
        with worker(server.url):
            for example in EXAMPLES:
                print(f"{example.shows}:\n{pretty(example.show(producer))}\n")
            miss_two_nights(producer)
        with worker(server.url):
            print(f"a worker comes back after two nights:\n{pretty(REPORTS.get(timeout=30))}")


if __name__ == "__main__":
    main()
