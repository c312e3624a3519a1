"""Finds the patches of functions: the calls of ``ctx.patched`` and ``ctx.deprecate_patch`` in their code."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow.functions.code_calls import calls_between_steps
from stepflow.functions.context import Context
from stepflow.functions.function import Function

__all__ = ["PatchUse", "patch_uses"]

_METHODS = (Context.patched.__name__, Context.deprecate_patch.__name__)


@dataclass(frozen=True, slots=True)
class PatchUse:
    """A call that asks for a patch.

    Attributes:
        path, line: where it is.
        function: the function whose code makes the call, as ``app/id``.
        id: the id of the patch; ``""``: the code computes it.
        is_deprecated: whether the old way is gone from the code.
    """

    path: str
    line: int
    function: str
    id: str
    is_deprecated: bool


def patch_uses(function: Function[Any, Any]) -> list[PatchUse]:
    """The patches of a function, in the order of the lines."""
    return sorted(dict.fromkeys(_uses(function)), key=lambda use: (use.path, use.line))


def _uses(function: Function[Any, Any]) -> Iterator[PatchUse]:
    for one in calls_between_steps(function):
        match one.call.func:
            case ast.Attribute(attr=method) if method in _METHODS and one.target is None:
                patch_id = _text_of(
                    [*one.call.args, *(named.value for named in one.call.keywords if named.arg == "id")]
                )
                yield PatchUse(one.path, one.call.lineno, function.name, patch_id, method == _METHODS[1])


def _text_of(arguments: Sequence[ast.expr]) -> str:
    match arguments:
        case [ast.Constant(value=str(text)), *_]:
            return text
        case _:
            return ""
