"""How two runs differ: the first step that the second one has otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow_broker.transitions.runs.run_record import parse_run
from stepflow_broker.views.run_details import RunDetails
from stepflow_broker.views.run_diff import diff_runs
from stepflow_broker.views.run_tree import RunTree
from stepflow_broker.views.run_view import view_run
from stepflow_broker.views.step_view import StepView

FIELDS = {"status": b"completed", "app": b"shop", "function": b"order", "event": b'{"name":"e","data":null}'}


def details(**results: Any) -> RunDetails:
    """A run with these results of its steps, in their order."""
    run = parse_run("run1", FIELDS)
    assert run is not None
    steps = [StepView(name, f"key of {name}", "done", 1, result=result) for name, result in results.items()]
    return RunDetails(run, steps, RunTree(view_run(run)))


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1, "b": 2, "c": 3}, {"c": 3, "a": 1, "b": 7}, [("b", "result", 2, 7)]),
        ({"a": 1}, {"a": 1, "b": 2}, [("b", "step", None, "b")]),
        ({"a": 1, "b": 2}, {"a": 1}, [("b", "step", "b", None)]),
        ({"a": 1, "b": 2, "c": 3}, {"a": 1, "x": 2, "c": 4}, [("b", "step", "b", "x")]),
    ],
)
def test_steps_are_compared_by_their_ids(
    left: dict[str, int], right: dict[str, int], found: list[tuple[Any, ...]]
) -> None:
    differences = diff_runs(details(**left), details(**right))
    assert [(one.step, one.what, one.left, one.right) for one in differences] == found
