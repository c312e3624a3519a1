"""Finds calls between steps whose result differs from replay to replay: the clock, random numbers, new ids.

The code of a function runs again after every step, so such a call gives another value each time. In the handler of a
step it is right. The search reads the source of the function and of the functions of the same module that it calls. It
resolves names as Python does, so that another function with the name ``now`` is no finding.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import datetime
import inspect
import os
import random
import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

from stepflow.functions.function import Function
from stepflow_engine.callables import undecorated

__all__ = ["ReplayFinding", "has_source", "lint_function"]

_CLOCK = "ctx.now()"
_CLOCKS: tuple[Any, ...] = (
    time.time,
    time.time_ns,
    time.monotonic,
    time.monotonic_ns,
    time.perf_counter,
    time.perf_counter_ns,
    time.process_time,
    time.process_time_ns,
    time.thread_time,
    time.thread_time_ns,
)
_FORMATS: tuple[tuple[Any, int], ...] = (
    (time.localtime, 0),
    (time.gmtime, 0),
    (time.ctime, 0),
    (time.asctime, 0),
    (time.strftime, 1),
)
"""Functions that read the clock if they have no more than this number of arguments."""
_IDS: tuple[Any, ...] = tuple(
    getattr(uuid, name) for name in ("uuid1", "uuid4", "uuid6", "uuid7") if hasattr(uuid, name)
)
_CLOCK_CLASSES = (datetime.datetime, datetime.date)
_CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
_MODULES: dict[str, ModuleType] = {module.__name__: module for module in (datetime, os, random, secrets, time, uuid)}
_IN_A_STEP = "a step"
_MAX_DEPTH = 5
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


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
    """The findings in the code of a function, in the order of the lines. A call with ``# replay: ok`` is none."""
    handler = undecorated(function.handler)
    findings = dict.fromkeys(_findings(handler, function.name, depth=0, seen=set()))
    return sorted(findings, key=lambda finding: (finding.path, finding.line))


def has_source(function: Function[Any, Any]) -> bool:
    """Whether the source of a function can be read. Without it, there are no findings."""
    handler = undecorated(function.handler)
    return isinstance(handler, FunctionType) and _definition(handler) is not None


def _findings(code: Any, name: str, *, depth: int, seen: set[FunctionType]) -> Iterator[ReplayFinding]:
    if depth > _MAX_DEPTH or not isinstance(code, FunctionType) or code in seen:
        return
    seen.add(code)
    if (source := _definition(code)) is None:
        return
    tree, lines = source
    names = _names(code, tree)
    path = inspect.getsourcefile(code) or "?"
    for call in _calls(tree):
        target = _resolved(call.func, names)
        text = lines[call.lineno - 1 : call.end_lineno]
        if target is None or any("# replay: ok" in written for written in text):
            continue
        if (instead := _instead(target, len(call.args) + len(call.keywords))) is not None:
            yield ReplayFinding(path, call.lineno, name, ast.unparse(call.func), instead)
        elif isinstance(target, FunctionType) and (behind := undecorated(target)).__module__ == code.__module__:
            yield from _findings(behind, name, depth=depth + 1, seen=seen)


def _definition(code: FunctionType) -> tuple[_Definition, Sequence[str]] | None:
    """The definition of a function, and the lines of its file; ``None``: there is no source, or it is ambiguous."""
    try:
        lines, _ = inspect.findsource(code)
        definitions = _definitions("".join(lines)).get((code.__code__.co_firstlineno, code.__code__.co_name), [])
    except (OSError, TypeError, ValueError, SyntaxError, IndexError, RecursionError):
        return None
    return (definitions[0], lines) if len(definitions) == 1 else None


@lru_cache(maxsize=8)
def _definitions(text: str) -> dict[tuple[int, str], list[_Definition]]:
    """The definitions of a file by their first line, which may be that of a decorator, and their name."""
    definitions: dict[tuple[int, str], list[_Definition]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Lambda):
            definitions.setdefault((node.lineno, "<lambda>"), []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            definitions.setdefault((first, node.name), []).append(node)
    return definitions


def _names(code: FunctionType, tree: _Definition) -> dict[str, Any]:
    """What the names in a function refer to. Its variables are unknown, but for modules that it imports itself."""
    names = {**vars(builtins), **code.__globals__}
    for name in (*code.__code__.co_varnames, *code.__code__.co_cellvars, *code.__code__.co_freevars):
        names.pop(name, None)
    for name, cell in zip(code.__code__.co_freevars, code.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # it has no value yet
            names[name] = cell.cell_contents
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({one.asname or one.name: _MODULES[one.name] for one in node.names if one.name in _MODULES})
        elif isinstance(node, ast.ImportFrom) and not node.level and (module := _MODULES.get(node.module or "")):
            names.update({one.asname or one.name: getattr(module, one.name, None) for one in node.names})
    return names


def _calls(tree: _Definition) -> Iterator[ast.Call]:
    """The calls that the code itself makes, in functions that it defines too if it calls them by name."""
    body: list[ast.AST] = [tree.body] if isinstance(tree, ast.Lambda) else list(tree.body)
    defined = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    left = body
    while left:
        node = left.pop()
        if isinstance(node, _DEFINITIONS):
            left += [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
            continue
        if isinstance(node, ast.ClassDef):
            continue
        if isinstance(node, ast.Call):
            yield node
            if isinstance(node.func, ast.Name) and (called := defined.pop(node.func.id, None)) is not None:
                left += called.body
        left += ast.iter_child_nodes(node)


def _resolved(expression: ast.expr, names: dict[str, Any]) -> Any:
    """The object that a dotted name refers to; ``None``: unknown."""
    match expression:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=value, attr=attribute):
            owner = _resolved(value, names)
            is_known = issubclass(type(owner), ModuleType | type | random.Random)
            return _attribute(owner, attribute) if is_known else None
        case _:
            return None


def _instead(target: Any, arguments: int) -> str | None:
    """What to use in the place of a call; ``None``: the call is right."""
    owner = _attribute(target, "__self__")
    reads_clock = _is_one_of(target, _CLOCKS) or any(target is one and arguments <= most for one, most in _FORMATS)
    if reads_clock or (_is_one_of(owner, _CLOCK_CLASSES) and _attribute(target, "__name__") in _CLOCK_METHODS):
        return f"{_CLOCK}, or call it in {_IN_A_STEP}"
    if _is_one_of(target, _IDS):
        return f"ctx.uuid(), or call it in {_IN_A_STEP}"
    is_secret = target is os.urandom or type(owner) is random.SystemRandom
    if is_secret or _attribute(target, "__module__") == secrets.__name__:
        return _IN_A_STEP
    is_unseeded = target is random.SystemRandom or (target is random.Random and not arguments)
    if is_unseeded or issubclass(type(owner), random.Random):
        return f"ctx.random(), or call it in {_IN_A_STEP}"
    return None


def _attribute(owner: object, name: str) -> Any:
    """An attribute; ``None``: there is none."""
    try:
        return getattr(owner, name, None)
    except BaseException:  # noqa: BLE001  user code: a proxy outside of its context
        return None


def _is_one_of(target: object, known: tuple[object, ...]) -> bool:
    return any(target is one for one in known)
