"""Finds calls between steps whose result differs from replay to replay: the clock, random numbers, new ids.

The code of a function runs again after every step, so such a call gives another value each time. In the handler of a
step it is right. The search reads the source of the function and of the functions of the same module that it calls. It
resolves names as Python does, so that another function with the name ``now`` is no finding.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import inspect
import os
import random
import secrets
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from stepflow.functions.function import Function
from stepflow_engine.callables import undecorated

__all__ = ["ReplayFinding", "lint_function"]

_CLOCK = "ctx.now()"
_CLOCKS: tuple[Any, ...] = (
    time.time,
    time.time_ns,
    time.monotonic,
    time.monotonic_ns,
    time.perf_counter,
    time.localtime,
    time.gmtime,
)
_IDS: tuple[Any, ...] = (uuid.uuid1, uuid.uuid4)
_CLOCK_CLASSES = (datetime.datetime, datetime.date)
_CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
_IN_A_STEP = "a step"
_MAX_DEPTH = 5


@dataclass(frozen=True, slots=True)
class ReplayFinding:
    """A call whose result differs from replay to replay.

    Attributes:
        path, line: where it is.
        function: the function whose code makes the call, as ``app/id``.
        call: the name that it calls, as it is written.
        instead: what to use in its place.
    """

    path: str
    line: int
    function: str
    call: str
    instead: str

    @property
    def message(self) -> str:
        """What is wrong, and what to do."""
        return f"{self.call}() has another value on each replay of {self.function}: use {self.instead}"


def lint_function(function: Function[Any, Any]) -> list[ReplayFinding]:
    """The findings in the code of a function, in the order of the lines. A line with ``# replay: ok`` has none."""
    handler = undecorated(function.handler)
    findings = dict.fromkeys(_findings(handler, function.name, depth=0, seen=set()))
    return sorted(findings, key=lambda finding: (finding.path, finding.line))


def _findings(code: Any, name: str, *, depth: int, seen: set[Any]) -> Iterator[ReplayFinding]:
    if depth > _MAX_DEPTH or code in seen or not isinstance(code, FunctionType):
        return
    seen.add(code)
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):  # a lambda in a larger expression, or no source
        return
    if not isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    names = {**vars(builtins), **code.__globals__, **inspect.getclosurevars(code).nonlocals}
    path = inspect.getsourcefile(code) or "?"
    for call in _calls(tree):
        target = _resolved(call.func, names)
        line = first + call.lineno - 1
        if target is None or "# replay: ok" in lines[call.lineno - 1]:
            continue
        if (instead := _instead(target)) is not None:
            yield ReplayFinding(path, line, name, ast.unparse(call.func), instead)
        elif isinstance(target, FunctionType) and target.__module__ == code.__module__:
            yield from _findings(target, name, depth=depth + 1, seen=seen)


def _calls(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.Call]:
    """The calls that the code itself makes: not those in functions and lambdas that it defines."""
    left: list[ast.AST] = list(tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Call):
            yield node
        left += ast.iter_child_nodes(node)


def _resolved(expression: ast.expr, names: dict[str, Any]) -> Any:
    """The object that a dotted name refers to; ``None``: unknown."""
    match expression:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=value, attr=attribute):
            owner = _resolved(value, names)
            is_known = isinstance(owner, ModuleType | type) or owner is _SHARED_RANDOM
            return getattr(owner, attribute, None) if is_known else None
        case _:
            return None


_SHARED_RANDOM: Any = getattr(random.random, "__self__", None)


def _instead(target: Any) -> str | None:
    """What to use in the place of a call; ``None``: the call is right."""
    owner: object = getattr(target, "__self__", None)
    if _is_one_of(target, _CLOCKS) or (_is_one_of(owner, _CLOCK_CLASSES) and _name_of(target) in _CLOCK_METHODS):
        return f"{_CLOCK}, or call it in {_IN_A_STEP}"
    if _is_one_of(target, _IDS):
        return f"ctx.uuid(), or call it in {_IN_A_STEP}"
    if owner is _SHARED_RANDOM or _is_one_of(target, (random.Random, random.SystemRandom)):
        return f"ctx.random(), or call it in {_IN_A_STEP}"
    if target is os.urandom or getattr(target, "__module__", None) == secrets.__name__:
        return _IN_A_STEP
    return None


def _is_one_of(target: object, known: tuple[object, ...]) -> bool:
    return any(target is one for one in known)


def _name_of(target: Callable[..., Any]) -> str:
    return str(getattr(target, "__name__", ""))
