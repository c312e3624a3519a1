"""The options of one start: what they replace, and which values are refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from stepflow import Context, Limits, Stepflow, StepTools, Timeouts
from stepflow.options.start import run_overrides
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_broker.registry.flow_control import BatchConfig, ConcurrencyConfig, FlowConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.errors import EventError
from stepflow_engine.run_overrides import RunOverrides
from stepflow_engine.steps import event_text

EVENT = event_text("order/placed", id="e1", ts=1, data=b"{}")
PLAIN = FunctionConfig("shop", "buy", "shop")
_STEP = StepTools(None, app_id="shop", event={}, limits=Limits())  # type: ignore[arg-type]
_APP = Stepflow("shop")


@_APP.function("buy")
async def _buy(ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"priority": 1.5}, RunOverrides(priority_ms=1_500)),
        ({"priority": -600}, RunOverrides(priority_ms=-600_000)),
        ({"priority": 0}, RunOverrides(priority_ms=0)),
        ({"queue": "gpu"}, RunOverrides(queue="gpu")),
        ({"retention": "30d"}, RunOverrides(retention_ms=30 * 86_400_000)),
        ({"retention": 1}, RunOverrides(retention_ms=1_000)),
        ({"timeout": "2h"}, RunOverrides(finish_ms=7_200_000)),
        ({"timeout": Timeouts(start="1m", finish=2)}, RunOverrides(start_ms=60_000, finish_ms=2_000)),
        ({}, None),
    ],
)
def test_options_are_read_and_survive_storage(options: dict[str, Any], expected: RunOverrides | None) -> None:
    read = run_overrides("start", options)
    assert read == expected
    assert read is None or RunOverrides.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 601}, "start: priority must be a number of seconds from -600 to 600, got 601"),
        ({"priority": float("nan")}, "start: priority must be a number of seconds from -600 to 600, got nan"),
        ({"priority": True}, "start: priority must be a number of seconds from -600 to 600, got True"),
        ({"priority": "high"}, "start: priority must be a number of seconds from -600 to 600, got 'high'"),
        ({"queue": ""}, "start: queue"),
        ({"queue": "a b"}, "start: queue must not contain ',' or a space, or end with ':steps', got 'a b'"),
        ({"queue": 7}, "start: queue"),
        ({"retention": "long"}, "start: retention must be a duration, got 'long'"),
        ({"retention": -1}, "start: retention must not be negative"),
        ({"retention": 0}, "start: retention must be at least 1s, got 0"),
        ({"retention": "999ms"}, "start: retention must be at least 1s, got '999ms'"),
        ({"timeout": 0}, "start: timeout must be at least 1ms, got 0"),
        ({"timeout": Timeouts(start="no")}, "start: timeout: start must be a duration, got 'no'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EventError) as refused:
        run_overrides("start", options)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("call", "name", "allowed"),
    [
        (lambda: _APP.start(_buy, {}, priorty=3), "start", "at, delay, priority, queue, retention, timeout"),  # type: ignore[call-overload]
        (lambda: _APP.start_many(_buy, [], id="a"), "start_many", "at, delay, priority, queue"),  # type: ignore[call-overload]
        (lambda: _APP.invoke(_buy, {}, delay=3), "invoke", "priority, queue, retention"),  # type: ignore[call-overload]
        (lambda: _STEP.with_options(retry=3), "with_options", "cache, cache_key, heartbeat_timeout, isolate"),  # type: ignore[call-arg]
        (lambda: asyncio.run(_STEP.invoke("a", "b", slots=3)), "invoke", "priority, queue, retention"),  # type: ignore[call-overload]
        (lambda: asyncio.run(_STEP.start_child("a", "b", slots=3)), "start_child", "priority, queue, retention"),  # type: ignore[call-overload]
        (lambda: asyncio.run(_STEP.map("a", print, [], most=3)), "map", "at_once, tolerate"),  # type: ignore[call-overload]
    ],
)
def test_an_unknown_option_is_refused_with_those_that_there_are(
    call: Callable[[], Any], name: str, allowed: str
) -> None:
    with pytest.raises(TypeError) as refused:
        call()
    assert re.match(
        rf"{name}\(\) got an unexpected keyword argument '\w+': its options are {allowed}", str(refused.value)
    )


def test_options_replace_what_they_name_and_nothing_else() -> None:
    function = FunctionConfig(
        "shop",
        "buy",
        "shop",
        flow=FlowConfig(concurrency=(ConcurrencyConfig(2),), priority="event.ts"),
        cancellation=CancellationConfig((CancelConfig("order/cancelled"),), start_ms=5, finish_ms=6),
        retention_ms=7,
    )
    one = function.with_options(RunOverrides(priority_ms=1, queue="gpu", finish_ms=9))
    assert (one.queue, one.retention_ms, one.flow) == ("gpu", 7, FlowConfig(concurrency=(ConcurrencyConfig(2),)))
    assert one.cancellation == CancellationConfig((CancelConfig("order/cancelled"),), start_ms=5, finish_ms=9)
    assert function.with_options(None) is function
    assert function.with_options(RunOverrides(retention_ms=0)).flow is function.flow


def test_a_run_stores_its_options_and_how_long_it_is_kept() -> None:
    rules = PLAIN.with_options(RunOverrides(priority_ms=0, retention_ms=3)).rules(EVENT, NO_ENCRYPTION)
    assert rules == (
        3,
        *("field", "options", 1, "value", b'{"priority_ms":0,"retention_ms":3}'),
        *("field", "priority_ms", 1, "value", 0),
        *("field", "retention_ms", 1, "value", 3),
    )
    assert b"options" not in PLAIN.with_options(RunOverrides(queue="gpu")).to_json()


def test_a_function_that_executes_batches_takes_no_options() -> None:
    batched = FunctionConfig("shop", "buy", "shop", flow=FlowConfig(batch=BatchConfig(2, 1_000)))
    with pytest.raises(EventError, match="function shop/buy executes several runs as one batch"):
        batched.with_options(RunOverrides(queue="gpu"))
