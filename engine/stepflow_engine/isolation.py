"""Isolation: a handler executes in a process of its own. The options, and which handlers a process can import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepflow_engine.callables import function_behind
from stepflow_engine.errors import StepUsageError
from stepflow_engine.sizes import show_size, size_bytes

__all__ = ["Isolation", "check_importable", "isolation"]

_PROCESS = "process"
_LEAST_MEMORY_BYTES = 100 * 1024**2
"""A process without a handler already uses more than half of it."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """That a handler executes in a process of its own.

    Attributes:
        memory_bytes: above how much resident memory the process is ended, in bytes; 0: there is no limit.
    """

    memory_bytes: int = 0


def isolation(outer: Isolation | None, isolate: str | None, memory_limit: int | str | None) -> Isolation | None:
    """The isolation that ``with_options(isolate=, memory_limit=)`` sets.

    Args:
        outer: that of the step tools; ``None``: none.

    Raises:
        ValueError: a value is invalid, or a memory limit has no isolation.
    """
    if isolate is not None:
        if isolate != _PROCESS:
            raise ValueError(f"isolate must be {_PROCESS!r}, got {isolate!r}")
        outer = outer or Isolation()
    if memory_limit is None:
        return outer
    if outer is None:
        raise ValueError(
            f"memory_limit needs isolate={_PROCESS!r}: handlers in the process of the worker share its memory"
        )
    memory_bytes = size_bytes(memory_limit, name="memory_limit")
    if memory_bytes < _LEAST_MEMORY_BYTES:
        raise ValueError(f"memory_limit must be at least {show_size(_LEAST_MEMORY_BYTES)}, got {memory_limit!r}")
    return Isolation(memory_bytes)


def check_importable(function: Callable[..., Any], *, what: str) -> None:
    """Check that another process finds a function by its module and its name. Pickle decides about other callables.

    Args:
        what: what must be such a function, for the error.

    Raises:
        StepUsageError: it does not.
    """
    behind = function_behind(function)
    module, name = getattr(behind, "__module__", None), getattr(behind, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        return
    if module == "__main__":
        raise _refused(
            what, name, module, "another process cannot import this module: move the function to another one"
        )
    if "<" in name:
        raise _refused(what, name, module, "another process imports it by its name: move it out of the function")
    candidate: Any = sys.modules.get(module)
    for part in name.split("."):
        candidate = getattr(candidate, part, None)
    if candidate is None or function_behind(candidate) is not behind:
        raise _refused(
            what,
            name,
            module,
            "the module has something else under this name: it needs the name that the module gives it",
        )


def _refused(what: str, name: str, module: str, why: str) -> StepUsageError:
    return StepUsageError(f"{what} must be a function at the top of a module, got {name} of {module}: {why}")
