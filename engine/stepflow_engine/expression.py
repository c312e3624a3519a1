"""Expressions on events, in CEL: a small language without loops and side effects, so any expression is safe.

The CEL library is native code. It is loaded with the first expression; a client without expressions does not load it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stepflow_engine.errors import ConfigurationError, EventError
from stepflow_engine.expression_binding import Binding, bind, nested_macro

__all__ = ["ON_EVENT", "ON_EVENT_AND_RUN", "Expression", "ExpressionCostError", "condition", "expression"]

_MAX_BYTES = 4_096
ON_EVENT = ("event",)
ON_EVENT_AND_RUN = ("event", "run")
"""The variables of an expression."""
_MAX_COST = 100_000_000
_FUNCTIONS = frozenset(
    {
        "bytes", "contains", "double", "duration", "dyn", "endsWith", "has", "int", "matches", "size", "startsWith",
        "string", "timestamp", "type", "uint",
        "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds",
        "getMinutes", "getMonth", "getSeconds",
        "hasValue", "none", "of", "ofNonZeroValue", "or", "orValue", "value",
    }
)  # fmt: skip
"""The functions and methods that the CEL library has."""
_FORMS = """as in 'event.data.total > 100', 'event.data.plan == "pro" && has(event.data.email)'"""


class ExpressionCostError(EventError):
    """The evaluation of an expression on an event would block the process for too long."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    Attributes:
        text: the source.
        binding: the source with each path as a variable of its own.
        program: the compiled form of the binding.
    """

    text: str
    binding: Binding
    program: Any

    def value(self, **inputs: Any) -> Any:
        """The value for these variables; ``None`` if it cannot be evaluated: a key is missing, or types differ.

        Raises:
            ExpressionCostError: the values make the expression too expensive.
        """
        variables = self.binding.variables(inputs)
        cost = self.binding.cost(variables)
        if cost > _MAX_COST:
            raise ExpressionCostError(
                f"expression {_shown(self.text)} would read or copy {cost:,} bytes for this event, of at most "
                f"{_MAX_COST:,}: send shorter lists, or compare them in a step"
            )
        try:
            return self.program.execute(variables)
        except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, IndexError):
            return None

    def holds(self, **inputs: Any) -> bool:
        """Whether the value for these variables is true.

        Raises:
            ExpressionCostError: the values make the expression too expensive.
        """
        return self.value(**inputs) is True


def expression(text: str, roots: tuple[str, ...] = ON_EVENT) -> Expression:
    """Compile an expression.

    Args:
        text: the source.
        roots: the variables that it may use: `ON_EVENT` or `ON_EVENT_AND_RUN`.

    Raises:
        ConfigurationError: the text is not CEL, is longer than 4,096 bytes, has too many levels for the parser, has
            a macro inside another macro, or uses a name or a function that does not exist.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"expression must be non-empty text, got {text!r}: write it {_FORMS}")
    return _compile(text, roots)


def condition(text: str, roots: tuple[str, ...] = ON_EVENT) -> Expression:
    """Compile an expression that must be true for some event.

    Raises:
        ConfigurationError: as `expression`, and for an expression without variables that is not true.
    """
    compiled = expression(text, roots)
    if not compiled.binding.paths and not compiled.binding.tests and not compiled.holds():
        raise ConfigurationError(f"condition {text!r} is never true: write it {_FORMS}")
    return compiled


@lru_cache(maxsize=4_096)
def _compile(text: str, roots: tuple[str, ...]) -> Expression:
    if len(text.encode(errors="replace")) > _MAX_BYTES:
        raise ConfigurationError(
            f"expression must be at most {_MAX_BYTES:,} bytes, got {len(text.encode(errors='replace')):,}: "
            f"shorten {text[:60]!r}…"
        )
    _parse(text, text)
    if (inner := nested_macro(text)) is not None:
        raise ConfigurationError(
            f"expression {text!r} must not have {inner!r} inside another macro, which on a long list would block a "
            "worker: chain the macros, as in 'event.data.items.filter(i, i.new).all(i, i.price > 5)'"
        )
    binding = bind(text, roots)
    program = _parse(binding.text, text)
    unknown = next((one for one in program.functions() if one.isidentifier() and one not in _FUNCTIONS), None)
    if unknown is not None:
        raise ConfigurationError(
            f"expression {text!r} calls {unknown!r}, which does not exist: the functions are "
            f"{', '.join(sorted(_FUNCTIONS))}"
        )
    return Expression(text, binding, program)


def _parse(bound: str, text: str) -> Any:
    import cel

    try:
        return cel.compile(bound)
    except ValueError as error:
        reason = (str(error).partition("ERROR: ")[2] or "it cannot be parsed").splitlines()[0]
        raise ConfigurationError(f"expression {text!r} is not CEL ({reason}): write it {_FORMS}") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")
