"""with_options(cache=): a run takes the result of a step from an earlier run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis
from pydantic import BaseModel

from stepflow import Context, Encryption, RunFailedError, Stepflow, SyncContext
from tests.support.command_line import call
from tests.support.processes import WorkerThread

pytestmark = pytest.mark.roles("producer", "operator")


class Rate(BaseModel):
    currency: str
    rate: float


def test_other_runs_use_the_result_of_a_cached_step(
    url: str, run_worker: Callable[..., WorkerThread], client: redis.Redis
) -> None:
    app = Stepflow("shop", redis_url=url, encryption=Encryption(keys=[b"k" * 32]))
    calls: list[str] = []

    def rate_of(currency: str) -> Rate:
        calls.append(currency)
        if currency == "none":
            raise ValueError("no such currency")
        return Rate(currency=currency, rate=1.08)

    def large(size: int) -> str:
        calls.append("large")
        return "x" * size

    @app.function("price", retries=0)
    async def price(ctx: Context) -> list[Rate]:
        tools = ctx.step.with_options(cache="1h")
        return list(await asyncio.gather(*[tools.run("rate", rate_of, one) for one in ctx.event.data]))

    @app.function("sync-price", retries=0)
    def sync_price(ctx: SyncContext) -> Rate:
        return ctx.step.with_options(cache="1h", cache_key=ctx.event.data["key"]).run("rate", rate_of, "USD")

    @app.function("large")
    async def large_step(ctx: Context) -> int:
        return len(await ctx.step.with_options(cache="1h").run("large", large, 300_000))

    run_worker(app)
    first = app.start(price, ["USD", "EUR"])
    assert [rate.currency for rate in first.result(20)] == ["USD", "EUR"]
    second = app.start(price, ["EUR", "CHF"])
    assert second.result(20)[0] == Rate(currency="EUR", rate=1.08)
    assert sorted(calls) == ["CHF", "EUR", "USD"]
    cached, own = [next(step for step in second.steps() if step.output["currency"] == one) for one in ("EUR", "CHF")]
    assert (cached.cached_from, cached.attempts, cached.history) == (first.id, 0, ())
    assert (own.cached_from, own.attempts) == ("", 1)
    shown = call("runs", "show", second.id, STEPFLOW_REDIS_URL=url)
    assert f"cached, of run {first.id}" in shown.stdout

    for key in (1, 1, 2):
        assert app.start(sync_price, {"key": key}).result(20).rate == 1.08
    assert calls.count("USD") == 3, "another function, and another key"

    for _ in range(2):  # a failure is not cached, and neither is a large result
        with pytest.raises(RunFailedError):
            app.start(price, ["none"]).result(20)
        assert app.start(large_step).result(20) == 300_000
    assert (calls.count("large"), calls.count("none")) == (2, 2)
    keys = list(client.scan_iter("stepflow:cached-result:*"))
    assert len(keys) == 5
    assert not any("EUR" in str(client.get(one)) for one in keys), "it is encrypted"
    for one in keys:
        client.set(one, b"damaged", px=60_000)
    assert app.start(price, ["EUR"]).result(20)[0].rate == 1.08
    assert calls.count("EUR") == 2
