"""The calls that the code of a function makes between steps: its own, and those of functions of its module.

The search reads the source of the function and of the functions of the same module that it calls. It resolves names as
Python does. It leaves out functions that are defined in the function, such as handlers of steps, if the code does not
call them by name itself.
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

__all__ = ["CodeCall", "attribute", "calls_between_steps", "has_source"]

_MODULES: dict[str, ModuleType] = {module.__name__: module for module in (datetime, os, random, secrets, time, uuid)}
_MAX_DEPTH = 5
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class CodeCall:
    """A call in the code of a function.

    Attributes:
        path, call: where it is.
        lines: the lines of its text.
        target: what it calls; ``None``: unknown.
    """

    path: str
    call: ast.Call
    lines: Sequence[str]
    target: Any


def calls_between_steps(function: Function[Any, Any]) -> Iterator[CodeCall]:
    """The calls that the code of a function makes itself, and in functions of the same module."""
    return _calls_of(undecorated(function.handler), depth=0, seen=set())


def has_source(function: Function[Any, Any]) -> bool:
    """Whether the source of a function can be read. Without it, no calls are found."""
    handler = undecorated(function.handler)
    return isinstance(handler, FunctionType) and _definition(handler) is not None


def _calls_of(code: Any, *, depth: int, seen: set[FunctionType]) -> Iterator[CodeCall]:
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
        yield CodeCall(path, call, lines[call.lineno - 1 : call.end_lineno], target)
        if isinstance(target, FunctionType) and (behind := undecorated(target)).__module__ == code.__module__:
            yield from _calls_of(behind, depth=depth + 1, seen=seen)


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
        case ast.Attribute(value=value, attr=name):
            owner = _resolved(value, names)
            is_known = issubclass(type(owner), ModuleType | type | random.Random)
            return attribute(owner, name) if is_known else None
        case _:
            return None


def attribute(owner: object, name: str) -> Any:
    """An attribute; ``None``: there is none."""
    try:
        return getattr(owner, name, None)
    except BaseException:  # noqa: BLE001  user code: a proxy outside of its context
        return None
