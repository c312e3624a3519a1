"""Ids, names and reasons from outside: one check for all, with a typed error before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from stepflow import (
    ConfigurationError,
    Context,
    Event,
    EventError,
    FunctionNotFoundError,
    RunNotFoundError,
    Stepflow,
    StepUsageError,
    reference_function,
)

INVALID: list[Any] = ["", 5, 0, False, b"x", ["a"], "a\ud800b", "x" * 20_000]
Call = Callable[[Stepflow, Any], object]

WAYS: dict[str, tuple[Call, type[Exception] | tuple[type[Exception], ...]]] = {
    "start id": (lambda app, value: app.start("f", id=value), EventError),
    "astart id": (lambda app, value: asyncio.run(app.astart("f", id=value)), EventError),
    "send id": (lambda app, value: app.send("e", id=value), EventError),
    "asend id": (lambda app, value: asyncio.run(app.asend("e", id=value)), EventError),
    "event id": (lambda app, value: app.send(Event("e", id=value)), EventError),
    "one of many events": (lambda app, value: app.send([Event("e"), Event("e", {}, value)]), EventError),
    "start": (lambda app, value: app.start(value), (ConfigurationError, FunctionNotFoundError)),
    "cancel_many": (lambda app, value: app.cancel_many(value), (ConfigurationError, FunctionNotFoundError)),
    "pause": (lambda app, value: app.pause(value), (ConfigurationError, FunctionNotFoundError)),
    "status": (lambda app, value: app.run(value).status(), RunNotFoundError),
    "result": (lambda app, value: app.run(value).result(1), RunNotFoundError),
    "aresult": (lambda app, value: asyncio.run(app.run(value).aresult(1)), RunNotFoundError),
    "cancel": (lambda app, value: app.run(value).cancel(), RunNotFoundError),
    "explain": (lambda app, value: app.run(value).explain(), RunNotFoundError),
    "pause queue": (lambda app, value: app.pause(queue=value), ConfigurationError),
    "resume key": (lambda app, value: app.resume(key=value), ConfigurationError),
    "app id": (lambda _, value: Stepflow(value), ConfigurationError),
    "function id": (lambda app, value: app.function(value)(print), ConfigurationError),
    "queue": (lambda app, value: app.function("g", queue=value)(print), ConfigurationError),
    "reference": (lambda _, value: reference_function(value), StepUsageError),
    "app of a reference": (lambda _, value: reference_function("f", app_id=value), StepUsageError),
}
REASONS: dict[str, Call] = {
    "pause reason": lambda app, value: app.pause("f", reason=value),
    "cancel reason": lambda app, value: app.run("r").cancel(value),
    "cancel_many reason": lambda app, value: app.cancel_many(all=True, reason=value),
}


@pytest.fixture
def app(url: str) -> Stepflow:
    app = Stepflow("shop", redis_url=url)

    @app.function("f", event="e")
    async def f(ctx: Context) -> None: ...

    return app


@pytest.mark.parametrize("value", INVALID, ids=lambda value: f"{value!r:.9}")
@pytest.mark.parametrize("way", WAYS)
def test_an_invalid_id_is_a_typed_error_before_anything_is_sent(
    app: Stepflow, way: str, value: Any, client: redis.Redis
) -> None:
    call, error = WAYS[way]
    with pytest.raises(error):
        call(app, value)
    assert client.keys("stepflow:*") == []


@pytest.mark.parametrize("value", INVALID[1:], ids=lambda value: f"{value!r:.9}")
@pytest.mark.parametrize("way", REASONS)
def test_an_invalid_reason_is_a_typed_error(app: Stepflow, way: str, value: Any, client: redis.Redis) -> None:
    with pytest.raises(ConfigurationError, match="reason"):
        REASONS[way](app, value)
    assert client.keys("stepflow:*") == []


def test_the_error_of_an_empty_id_says_what_to_do(app: Stepflow) -> None:
    for call in (lambda: app.start("f", id=""), lambda: app.send("e", id=""), lambda: app.send(Event("e", id=""))):
        with pytest.raises(EventError, match="id must be non-empty text, got '': leave id out"):
            call()


def test_without_an_id_each_call_is_another(app: Stepflow) -> None:
    assert len({app.start("f").id, app.start("f", id=None).id}) == 2
    assert len({app.send("e"), app.send("e", id=None), app.send(Event("e")), *app.send([Event("e")] * 2)}) == 5
    assert app.start("f", id="a").id == app.start("f", id="a").id
    assert Event("e") == Event("e", None, "")
