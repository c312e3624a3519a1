"""Durations as people write them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from stepflow import CancelOn, ConfigurationError, Debounce, Retry, StepUsageError, Timeouts
from stepflow.functions.invocable import invoke_request
from stepflow.functions.requests import ask_request
from stepflow.options.cancellation import cancellation_config
from stepflow_engine.durations import MAX_DURATION_MS, duration_ms, show_duration


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("250ms", 250),
        ("30s", 30_000),
        ("30m", 1_800_000),
        ("1h", 3_600_000),
        ("1d12h", 129_600_000),
        ("1w", 604_800_000),
        ("1.5h", 5_400_000),
        (" 5s ", 5_000),
        ("1h1m1s1ms", 3_661_001),
        ("366d", MAX_DURATION_MS),
        (90, 90_000),
        (0.25, 250),
        (0, 0),
        (timedelta(minutes=1, milliseconds=5), 60_005),
    ],
)
def test_accepted_forms(value: object, milliseconds: int) -> None:
    assert duration_ms(value) == milliseconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "h",
        "1y",
        "1h30",
        "1h 30m",
        "-1h",
        "1,5h",
        "one hour",
        None,
        True,
        [],
        float("nan"),
        float("inf"),
        b"1h",
    ],
)
def test_what_is_not_a_duration_is_refused_with_the_accepted_forms(value: object) -> None:
    with pytest.raises(ValueError, match=r'timeout must be a duration, got .*: write "30s", "1h", "1d12h"'):
        duration_ms(value, name="timeout")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, -0.5, timedelta(seconds=-1)])
def test_a_negative_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        duration_ms(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["367d", 1e12, timedelta.max, "9" * 400 + "s", 10**400], ids=lambda value: str(value)[:9]
)
def test_a_duration_over_the_longest_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be at most 366d"):
        duration_ms(value)  # type: ignore[arg-type]


def test_the_longest_duration_can_be_set() -> None:
    assert duration_ms("1m", max_ms=60_000) == 60_000
    with pytest.raises(ValueError, match="must be at most 1m"):
        duration_ms("61s", max_ms=60_000)


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (3_200, "3.2s"),
        (10_000, "10s"),
        (60_000, "1m"),
        (90_000, "1m 30s"),
        (3_600_000, "1h"),
        (129_600_000, "1d 12h"),
        (MAX_DURATION_MS, "366d"),
        (3_661_000, "1h 1m"),
    ],
)
def test_a_duration_is_shown_with_its_two_largest_units(milliseconds: int, shown: str) -> None:
    assert show_duration(milliseconds) == shown


def test_a_long_text_is_refused_at_once_and_not_shown_whole() -> None:
    with pytest.raises(ValueError, match="must be a duration") as caught:
        duration_ms("9" * 1_000_000)
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="duration must be at most 366d, got a number of too many digits"):
        duration_ms(10**5_000)


@pytest.mark.parametrize("value", [0, "0s", 0.0004, timedelta(0)])
def test_a_duration_that_would_make_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be at least 1ms, got "):
        duration_ms(value, name="timeout", least_ms=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Retry(2, initial=0, budget=0),
        lambda: Debounce("0s").to_config(),
        lambda: cancellation_config(cancel_on=CancelOn("a", timeout=0), timeouts=None),
        lambda: cancellation_config(cancel_on=None, timeouts=Timeouts(start=0)),
        lambda: cancellation_config(cancel_on=None, timeouts=Timeouts(finish="0s")),
        lambda: ask_request({}, None, 0),
        lambda: invoke_request("f", None, timeout=0, options={}, app_id="shop", event_bytes=9),
    ],
)
def test_no_option_has_a_duration_of_zero_that_would_make_no_sense(call: Callable[[], object]) -> None:
    with pytest.raises((ConfigurationError, StepUsageError), match=r"must be at least 1ms, got (0|'0s')"):
        call()
