"""The public classes and methods have an example, and each example calls what exists with arguments that it takes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import stepflow
from stepflow import Context, Run, Stepflow, StepTools, SyncStepTools
from tests.support.reference import declared_options

_MARK = "Example::"
_NEEDS_NONE = {
    "Failure": "errors and handles return it",
    "Pause": "Stepflow.pauses returns it",
    "Reason": "Run.explain returns it",
    "RunStatus": "Run.status returns it",
}
_OWNERS: dict[str, tuple[type, ...]] = {
    "app": (Stepflow,),
    "run": (Run,),
    "ctx": (Context,),
    "ctx.step": (StepTools, SyncStepTools),
}


def _public() -> Iterator[tuple[str, str, str]]:
    """Classes and functions, and their methods: name, kind, docstring."""
    for name in stepflow.__all__:
        value = getattr(stepflow, name)
        kind = "error" if inspect.isclass(value) and issubclass(value, Exception) else type(value).__name__
        yield name, kind, inspect.getdoc(value) or ""
        for inner, member in _members(value) if inspect.isclass(value) else ():
            yield from _member(f"{name}.{inner}", member)


def _members(value: type) -> Iterator[tuple[str, Any]]:
    """The members of a class, and those that it has from a base class of this project."""
    bases = [base for base in value.__mro__ if base.__module__.startswith("stepflow")]
    return iter({name: member for base in reversed(bases) for name, member in vars(base).items()}.items())


def _member(name: str, member: Any) -> Iterator[tuple[str, str, str]]:
    if not name.rpartition(".")[2].startswith("_") and (inspect.isfunction(member) or isinstance(member, staticmethod)):
        yield name, "method", inspect.getdoc(member) or ""
    elif isinstance(member, property):
        yield name, "property", inspect.getdoc(member) or ""


def _is_twin(text: str) -> bool:
    """Whether a docstring refers to the one of its twin, which has the example."""
    first = text.partition("\n")[0]
    return first.startswith("The asyncio twin of `") or "see `StepTools." in first or "see `ChildHandle." in first


EXAMPLES = [(name, text.partition(_MARK)[2]) for name, _, text in _public() if _MARK in text]


def test_every_public_class_and_method_has_an_example() -> None:
    internal = {"to_config", "to_json", "from_json", "of", "delay_ms", "execution"}
    missing = [
        name
        for name, kind, text in _public()
        if _MARK not in text
        and kind not in ("property", "error")
        and not _is_twin(text)
        and name.partition(".")[0] not in _NEEDS_NONE
        and name.rpartition(".")[2] not in internal
    ]
    assert missing == []


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_example_calls_what_exists_with_arguments_that_it_takes(name: str, text: str) -> None:
    code = textwrap.dedent(text).strip("\n")
    if code.splitlines()[-1].startswith("@"):
        code += "\nasync def f(ctx): ..."
    tree = ast.parse("async def example():\n" + textwrap.indent(code, "    "), name)
    compile(tree, name, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for callee in _callees(node.func):
                _check_arguments(callee, node, name)


def _callees(function: ast.expr) -> list[Callable[..., Any]]:
    """The public callables that a call may mean; empty: it is no call of stepflow's."""
    owner, _, attribute = ast.unparse(function).rpartition(".")
    if not owner:
        return [getattr(stepflow, attribute)] if attribute in stepflow.__all__ else []
    owners = _OWNERS.get(owner, (getattr(stepflow, owner),) if owner in stepflow.__all__ else ())
    found = [getattr(one, attribute) for one in owners if hasattr(one, attribute)]
    assert found or not owners, f"{owner} has no {attribute}"
    return found


def _check_arguments(callee: Callable[..., Any], call: ast.Call, name: str) -> None:
    if inspect.isclass(callee) and callee.__init__ is Exception.__init__:  # it has no signature, and takes a message
        assert not call.keywords
        return
    parameters = inspect.signature(callee)
    is_method = inspect.isfunction(callee) and "self" in parameters.parameters
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    declared = declared_options(callee)
    assert declared is None or keywords.keys() <= {*parameters.parameters, *declared.__optional_keys__}, name
    parameters.bind(*([None] if is_method else []), *call.args, **keywords)
