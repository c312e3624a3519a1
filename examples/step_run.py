"""step.run, shown by small functions: ``python -m examples.step_run``.

Each function is one of the examples of the reference page of ``step.run``, in Python. S3, the API and the database
are stand-ins that keep everything in memory.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stepflow import Context, Run, Stepflow
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_engine.codec import pretty
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker

__all__ = ["Account", "ObjectId", "app", "main"]

app = Stepflow("step-run-examples")


# -- stand-ins for the outside world -----------------------------------------------

BUCKET: dict[str, str] = {}
"""S3: key → where it was copied from."""

TABLE: list[dict[str, Any]] = []
"""The database."""

_numbers = itertools.count(1)


class ObjectId(str):
    """An id as a database makes it."""

    __slots__ = ()

    @classmethod
    def new(cls) -> ObjectId:
        """The next one."""
        return cls(f"647731d1759aa55be43b{next(_numbers):04x}")


async def copy_all_images_to_s3(urls: list[str]) -> list[str]:
    """Copy images to the bucket; their new URLs."""
    copied = {url.rpartition("/")[2]: url for url in urls}
    BUCKET.update(copied)
    return [f"s3://product-images/{name}" for name in copied]


# -- a step ------------------------------------------------------------------------


@app.function("import-product-images", event="shop/product.imported")
async def import_product_images(ctx: Context) -> list[str]:
    """One step, with the data of the event."""
    return await ctx.step.run("copy-images-to-s3", copy_all_images_to_s3, ctx.event.data["imageURLs"])


# -- handlers: async, sync, with no result -----------------------------------------


async def fetch() -> dict[str, list[int]]:
    """Ask the API."""
    return {"prices": [12, 30]}


def transform_data(result: dict[str, list[int]]) -> dict[str, int]:
    """Add the prices up."""
    return {"total": sum(result["prices"])}


async def insert(row: dict[str, Any]) -> None:
    """Put a row into the database."""
    TABLE.append(row)


@app.function("import-prices", event="shop/prices.changed")
async def import_prices(ctx: Context) -> dict[str, int]:
    """Steps use the results of other steps; handlers may be async or not, and need not return anything."""
    result = await ctx.step.run("get-api-data", fetch)
    data = await ctx.step.run("transform", transform_data, result)
    await ctx.step.run("insert-data", insert, data)
    return data


# -- one id twice ------------------------------------------------------------------


def create_user(name: str) -> dict[str, Any]:
    """Put a user into the database."""
    user = {"number": next(_numbers), "name": name}
    TABLE.append(user)
    return user


@app.function("create-users")
async def create_users(ctx: Context) -> list[dict[str, Any]]:
    """The second use of an id is a step of its own."""
    first = await ctx.step.run("create-user", create_user, "ada")
    second = await ctx.step.run("create-user", create_user, "grace")
    return [first, second]


# -- steps side by side ------------------------------------------------------------


async def create_subscription(email: str) -> str:
    """Subscribe a person."""
    return f"subscription of {email}"


async def add_to_crm(email: str) -> str:
    """Tell the sales people."""
    return f"contact {email}"


async def send_welcome_email(email: str) -> str:
    """Say hello."""
    return f"mail to {email}"


@app.function("sign-up", event="app/user.signed-up")
async def sign_up(ctx: Context) -> list[str]:
    """Steps that are awaited together are jobs of their own, which any worker may take."""
    email = ctx.event.data["email"]
    done = await asyncio.gather(
        ctx.step.run("create-subscription", create_subscription, email),
        ctx.step.run("add-to-crm", add_to_crm, email),
        ctx.step.run("send-welcome-email", send_welcome_email, email),
    )
    return list(done)


# -- results are JSON --------------------------------------------------------------


class Account(BaseModel):
    """An account: on its way through JSON, both fields are text."""

    id: str
    created_at: datetime


def create_plain() -> dict[str, Any]:
    """Without a telling annotation the result comes back as plain data."""
    return {"id": ObjectId.new(), "createdAt": datetime(2023, 5, 31, 11, 39, 18, tzinfo=UTC)}


def create_typed() -> Account:
    """With one, it comes back as what it was."""
    return Account(id=ObjectId.new(), created_at=datetime(2023, 5, 31, 11, 39, 18, tzinfo=UTC))


@app.function("serialize")
async def serialize(ctx: Context) -> dict[str, Any]:
    """What the code is given is what a replay is given."""
    plain = await ctx.step.run("create-plain", create_plain)
    typed = await ctx.step.run("create-typed", create_typed)
    return {
        "plain": plain,
        "plain types": [type(value).__name__ for value in plain.values()],
        "typed": typed,
        "typed types": [type(typed).__name__, type(typed.created_at).__name__],
    }


# -- running them ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """One of the examples: what it shows, and how a run of it is started."""

    shows: str
    start: Callable[[Stepflow], Run[Any]]


EXAMPLES = (
    Example(
        "a step with the event's data",
        lambda producer: producer.start(import_product_images, {"imageURLs": ["https://shop.example/a.png"]}),
    ),
    Example("async and sync handlers, and one with no result", lambda producer: producer.start(import_prices)),
    Example("one id twice: two steps", lambda producer: producer.start(create_users)),
    Example("steps side by side", lambda producer: producer.start(sign_up, {"email": "ada@example.com"})),
    Example("results go through JSON", lambda producer: producer.start(serialize)),
)


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
    """Run every example and print what it returned."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server, worker(server.url):
        producer = Stepflow(app.id, redis_url=server.url)
        for example in EXAMPLES:
            print(f"{example.shows}:\n{pretty(example.start(producer).result(timeout=30))}\n")
    print(f"The bucket: {pretty(BUCKET)}\nThe table: {pretty(TABLE)}")


if __name__ == "__main__":
    main()
