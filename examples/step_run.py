"""step.run, shown by small functions: ``python -m examples.step_run``.

Each function shows one property of ``step.run``. S3, the API and the database are stand-ins in memory.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from examples.support import pretty, show, temporary_server, worker
from stepflow import Context, Run, Stepflow

__all__ = ["Account", "ObjectId", "app", "main"]

app = Stepflow("step-run-examples")


# -- stand-ins for the outside world -----------------------------------------------

BUCKET: dict[str, str] = {}
"""S3: from a key to the URL that it was copied from."""

TABLE: list[dict[str, Any]] = []
"""The database."""

_numbers = itertools.count(1)


class ObjectId(str):
    """An id that a database generates."""

    __slots__ = ()

    @classmethod
    def new(cls) -> ObjectId:
        """A new id."""
        return cls(f"647731d1759aa55be43b{next(_numbers):04x}")


async def copy_all_images_to_s3(urls: list[str]) -> list[str]:
    """Copy images to the bucket and return their new URLs."""
    copied = {url.rpartition("/")[2]: url for url in urls}
    BUCKET.update(copied)
    return [f"s3://product-images/{name}" for name in copied]


# -- a step ------------------------------------------------------------------------


@app.function("import-product-images", event="shop/product.imported")
async def import_product_images(ctx: Context) -> list[str]:
    """A step that uses the data of the event."""
    return await ctx.step.run("copy-images-to-s3", copy_all_images_to_s3, ctx.event.data["imageURLs"])


# -- handlers: async, sync, with no result -----------------------------------------


async def fetch() -> dict[str, list[int]]:
    """Call the API."""
    return {"prices": [12, 30]}


def transform_data(result: dict[str, list[int]]) -> dict[str, int]:
    """Add up the prices."""
    return {"total": sum(result["prices"])}


async def insert(row: dict[str, Any]) -> None:
    """Insert a row into the database."""
    TABLE.append(row)


@app.function("import-prices", event="shop/prices.changed")
async def import_prices(ctx: Context) -> dict[str, int]:
    """Steps use the results of other steps. Handlers may be async or not, and may return nothing."""
    result = await ctx.step.run("get-api-data", fetch)
    data = await ctx.step.run("transform", transform_data, result)
    await ctx.step.run("insert-data", insert, data)
    return data


# -- the same id twice ------------------------------------------------------------------


def create_user(name: str) -> dict[str, Any]:
    """Insert a user into the database."""
    user = {"number": next(_numbers), "name": name}
    TABLE.append(user)
    return user


@app.function("create-users")
async def create_users(ctx: Context) -> list[dict[str, Any]]:
    """The second use of an id is a separate step."""
    first = await ctx.step.run("create-user", create_user, "ada")
    second = await ctx.step.run("create-user", create_user, "grace")
    return [first, second]


# -- parallel steps ------------------------------------------------------------


async def create_subscription(email: str) -> str:
    """Create a subscription."""
    return f"subscription of {email}"


async def add_to_crm(email: str) -> str:
    """Add a contact to the CRM."""
    return f"contact {email}"


async def send_welcome_email(email: str) -> str:
    """Send a mail."""
    return f"mail to {email}"


@app.function("sign-up", event="app/user.signed-up")
async def sign_up(ctx: Context) -> list[str]:
    """Steps that are awaited together are separate jobs; any worker may execute each of them."""
    email = ctx.event.data["email"]
    done = await asyncio.gather(
        ctx.step.run("create-subscription", create_subscription, email),
        ctx.step.run("add-to-crm", add_to_crm, email),
        ctx.step.run("send-welcome-email", send_welcome_email, email),
    )
    return list(done)


# -- results are JSON --------------------------------------------------------------


class Account(BaseModel):
    """An account. In JSON, both fields are strings."""

    id: str
    created_at: datetime


def create_plain() -> dict[str, Any]:
    """Without a specific return annotation, the step returns plain JSON data."""
    return {"id": ObjectId.new(), "createdAt": datetime(2023, 5, 31, 11, 39, 18, tzinfo=UTC)}


def create_typed() -> Account:
    """With a return annotation, the step returns this type."""
    return Account(id=ObjectId.new(), created_at=datetime(2023, 5, 31, 11, 39, 18, tzinfo=UTC))


@app.function("serialize")
async def serialize(ctx: Context) -> dict[str, Any]:
    """The first pass and a replay get the same values."""
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
    """What an example shows, and how to start its run."""

    shows: str
    start: Callable[[Stepflow], Run[Any]]


EXAMPLES = (
    Example(
        "a step with the event's data",
        lambda client: client.start(import_product_images, {"imageURLs": ["https://shop.example/a.png"]}),
    ),
    Example("async and sync handlers, and one without a result", lambda client: client.start(import_prices)),
    Example("the same id twice: two steps", lambda client: client.start(create_users)),
    Example("parallel steps", lambda client: client.start(sign_up, {"email": "ada@example.com"})),
    Example("results go through JSON", lambda client: client.start(serialize)),
)


def main() -> None:
    """Run every example and print its result."""
    with temporary_server() as url, worker(url, app):
        client = Stepflow(app.id, redis_url=url)
        for example in EXAMPLES:
            show(example.shows, example.start(client).result(timeout=30))
    print(f"The bucket: {pretty(BUCKET)}\nThe table: {pretty(TABLE)}")


if __name__ == "__main__":
    main()
