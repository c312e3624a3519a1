"""Expressions on events, in CEL: a small language without loops and side effects, so any expression is safe.

The CEL library is native code. It is loaded with the first expression; a client without expressions does not load it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stepflow_engine.errors import ConfigurationError

__all__ = ["Expression", "expression"]

_MAX_BYTES = 4_096
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
"""The macros that evaluate an expression for each element of a list."""
_TOKEN = re.compile(
    r"""
    (?P<skipped> \s+ | //[^\n]* )
    | (?: [bB]?[rR] | [rR][bB] ) (?: \"{3}.*?\"{3} | \'{3}.*?\'{3} | "[^"]*" | '[^']*' )
    | [bB]? (?: \"{3}(?:\\.|[^\\])*?\"{3} | \'{3}(?:\\.|[^\\])*?\'{3} | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
    | \w+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_FORMS = """as in 'event.data.total > 100', 'event.data.plan == "pro" && has(event.data.email)'"""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    Attributes:
        text: the source.
        program: the compiled form.
    """

    text: str
    program: Any

    def value(self, **variables: Any) -> Any:
        """The value for these variables; ``None`` if it cannot be evaluated: a key is missing, or types differ."""
        try:
            return self.program.execute(variables)
        except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, IndexError):
            return None

    def holds(self, **variables: Any) -> bool:
        """Whether the value for these variables is true."""
        return self.value(**variables) is True


def expression(text: str) -> Expression:
    """Compile an expression.

    Raises:
        ConfigurationError: the text is not CEL, is longer than 4,096 bytes, has too many levels for the parser, or has
            a macro inside another macro.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"expression must be non-empty text, got {text!r}: write it {_FORMS}")
    return _compile(text)


@lru_cache(maxsize=4_096)
def _compile(text: str) -> Expression:
    if len(text.encode(errors="replace")) > _MAX_BYTES:
        raise ConfigurationError(
            f"expression must be at most {_MAX_BYTES:,} bytes, got {len(text.encode(errors='replace')):,}: "
            f"shorten {text[:60]!r}…"
        )
    import cel

    try:
        program = cel.compile(text)
    except ValueError as error:
        reason = (str(error).partition("ERROR: ")[2] or "it cannot be parsed").splitlines()[0]
        raise ConfigurationError(f"expression {text!r} is not CEL ({reason}): write it {_FORMS}") from None
    if (inner := _nested_macro(text)) is not None:
        raise ConfigurationError(
            f"expression {text!r} must not have {inner!r} inside another macro, which on a long list would block a "
            "worker: chain the macros, as in 'event.data.items.filter(i, i.new).all(i, i.price > 5)'"
        )
    return Expression(text, program)


def _nested_macro(text: str) -> str | None:
    """The first macro inside the parentheses of another macro; ``None``: there is none."""
    open_: list[bool] = []  # for each open bracket, whether it belongs to a macro
    before = ""
    for token in _TOKEN.finditer(text):
        word = token[0]
        if token["skipped"]:
            continue
        if word in ("(", "[", "{"):
            is_macro = word == "(" and before in _MACROS
            if is_macro and any(open_):
                return before
            open_.append(is_macro)
        elif word in (")", "]", "}") and open_:
            open_.pop()
        before = word
    return None
