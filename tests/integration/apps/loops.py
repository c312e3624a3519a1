"""An app for tests of rounds: each round adds to a ledger in Redis, with a key that no other round has."""

from __future__ import annotations

import os

import redis

from stepflow import Context, Stepflow

app = Stepflow("loops")
ROUNDS = 12


def add(key: str) -> int:
    """Note the key of a step, as another system that knows idempotency keys does."""
    with redis.Redis.from_url(os.environ["STEPFLOW_REDIS_URL"]) as client:
        client.sadd("ledger", key)
    return 1


@app.function("child")
async def child(ctx: Context) -> int:
    return await ctx.step.run("add", lambda: add(ctx.step.idempotency_key))


@app.function("loop")
async def loop(ctx: Context) -> int:
    total = ctx.event.data.get("total", 0)
    own = await ctx.step.start_child("child", child)
    total += await ctx.step.run("add", lambda: add(ctx.step.idempotency_key))
    total += await own.result()
    return total if ctx.round + 1 == ROUNDS else ctx.continue_as_new({"total": total})
