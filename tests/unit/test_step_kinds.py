"""Everything that depends on the kind of a step follows from one table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import stepflow
import stepflow_broker
import stepflow_cli
import stepflow_engine
import stepflow_workers
from stepflow import StepTools
from stepflow_broker.views.step_view import StepView
from stepflow_engine.steps import StepKind, StepRequest

PACKAGES = (stepflow_engine, stepflow_broker, stepflow, stepflow_workers, stepflow_cli)
SOURCES = sorted(path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py"))
METHODS = {
    StepKind.RUN: {"run"},
    StepKind.INVOKE: {"invoke"},
    StepKind.SLEEP: {"sleep", "sleep_until"},
    StepKind.WAIT: {"wait_for_event"},
    StepKind.SEND: {"send_event"},
    StepKind.SIGNAL: {"wait_for_signal"},
    StepKind.ASK: {"ask"},
    StepKind.START: {"start_child"},
    StepKind.MAP: {"map"},
}
"""The methods of `StepTools` that make a step of each kind."""


def test_each_kind_has_one_request() -> None:
    kinds = [request.kind for request in get_args(StepRequest)]
    assert sorted(kinds) == sorted(StepKind)


def test_each_kind_has_a_method_and_each_method_that_makes_a_step_a_kind() -> None:
    public = {name for name in dir(StepTools) if callable(getattr(StepTools, name)) and not name.startswith("_")}
    assert set(METHODS) == set(StepKind)
    assert set().union(*METHODS.values()) == public - {"with_options", "heartbeat"}


def test_the_view_of_a_step_describes_each_kind() -> None:
    (line,) = [
        line for line in (StepView.__doc__ or "").replace("\n            ", " ").splitlines() if " kind:" in line
    ]
    assert all(f"``{kind}``" in line for kind in StepKind)


def _spelled(tree: ast.AST) -> Iterator[int]:
    """The lines where a kind is compared with, or stored as, a text."""
    for part in ast.walk(tree):
        match part:
            case ast.Compare(left=left, comparators=[ast.Constant(str())]) if "kind" in ast.unparse(left):
                if part.comparators[0].value in set(StepKind):
                    yield part.lineno
            case ast.Match(subject=subject, cases=cases) if "kind" in ast.unparse(subject):
                patterns = [one for case in cases for one in ast.walk(case.pattern) if isinstance(one, ast.Constant)]
                if {one.value for one in patterns} & set(StepKind):
                    yield part.lineno
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    is_kind = isinstance(key, ast.Constant) and key.value == "kind"
                    if is_kind and isinstance(value, ast.Constant) and value.value in set(StepKind):
                        yield part.lineno
            case ast.Constant(bytes() as text) if any(b'"kind":"%b"' % kind.encode() in text for kind in StepKind):
                yield part.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_other_module_spells_a_kind(path: Path) -> None:
    assert not list(_spelled(ast.parse(path.read_text())))


def test_a_spelled_kind_is_found() -> None:
    code = [
        "memo.detail.get('kind') == 'invoke'",
        "{'kind': 'send'}",
        """b'"kind":"wait"'""",
        "match kind:",
        "    case 'sleep': pass",
    ]
    assert sorted(_spelled(ast.parse("\n".join(code)))) == [1, 2, 3, 4]
