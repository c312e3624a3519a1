"""The options ``queue`` and ``slots`` of a step."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stepflow.functions.step_tools import StepTools
from stepflow_engine.errors import StepUsageError
from stepflow_engine.limits import Limits
from stepflow_engine.placement import Placement

STEP = StepTools(None, app_id="shop", event={}, limits=Limits())  # type: ignore[arg-type]


def test_each_option_replaces_itself_and_keeps_the_other() -> None:
    tools = STEP.with_options(queue="gpu").with_options(timeout="1m").with_options(slots=3)
    assert tools._settings.placement == Placement("gpu", 3)
    assert tools.with_options(slots=1)._settings.placement == Placement("gpu", 1)
    assert STEP.with_options(timeout="1m")._settings.placement is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots must be an integer >= 1, got 0"),
        ({"slots": 10**30}, "slots must be at most 1,000,000,000, got 1000"),
        ({"slots": True}, "slots must be an integer >= 1, got True"),
        ({"slots": "3"}, "slots must be an integer >= 1, got '3'"),
        ({"queue": "a,b"}, "queue must not contain ',' or a space"),
        ({"queue": "gpu:steps"}, "queue must not contain ',' or a space, or end with ':steps'"),
        ({"queue": ""}, "queue"),
        ({"queue": 3}, "queue"),
    ],
)
def test_a_wrong_queue_or_number_of_slots_is_refused_where_it_is_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        STEP.with_options(**options)


@pytest.mark.parametrize(
    "call", ["invoke", "sleep", "sleep_until", "wait_for_event", "wait_for_signal", "ask", "send_event"]
)
async def test_a_step_without_a_handler_takes_neither(call: str) -> None:
    arguments: dict[str, tuple[dict[str, Any], ...]] = {
        "invoke": ({"function": "f"},),
        "sleep": ({"duration": 1},),
        "sleep_until": ({"when": 1},),
        "wait_for_event": ({"event": "e", "timeout": 1},),
        "wait_for_signal": ({"name": "n"},),
        "ask": ({"schema": bool, "timeout": 1},),
        "send_event": ({"events": []},),
    }
    for options in ({"queue": "gpu"}, {"slots": 2}):
        with pytest.raises(StepUsageError, match=rf"is for step.run, not for step.{call}: remove them"):
            await getattr(STEP.with_options(**options), call)("id", **arguments[call][0])
