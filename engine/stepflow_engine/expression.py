"""Expressions on events, in CEL: a small language without loops or side effects, which is safe to run for anybody.

CEL's own library is Rust and is loaded when the first expression is met, so a producer without any does not load it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stepflow_engine.errors import ConfigurationError

__all__ = ["Expression", "expression"]

_MOST_BYTES = 4_096
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
"""What goes through a list, once for each of its elements."""
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
        text: as it was written.
    """

    text: str
    program: Any

    def value(self, **variables: Any) -> Any:
        """What it gives for these variables; ``None`` where it does not apply: a key is missing, or types differ."""
        try:
            return self.program.execute(variables)
        except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, IndexError):
            return None

    def holds(self, **variables: Any) -> bool:
        """Whether it is true for these variables."""
        return self.value(**variables) is True


def expression(text: str) -> Expression:
    """Compile an expression.

    Raises:
        ConfigurationError: it is not one, it is too long or (CEL's parser sees to that) too deep, or it has a macro in
            a macro.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"an expression is text, {_FORMS}; not {text!r}")
    return _compile(text)


@lru_cache(maxsize=4_096)
def _compile(text: str) -> Expression:
    if len(text.encode(errors="replace")) > _MOST_BYTES:
        raise ConfigurationError(f"an expression has at most {_MOST_BYTES:,} bytes; this one begins {text[:60]!r}")
    import cel

    try:
        program = cel.compile(text)
    except ValueError as error:
        reason = (str(error).partition("ERROR: ")[2] or "it cannot be parsed").splitlines()[0]
        raise ConfigurationError(f"the expression {text!r} is not CEL ({reason}): write it {_FORMS}") from None
    if (inner := _nested_macro(text)) is not None:
        raise ConfigurationError(
            f"the expression {text!r} has {inner!r} inside another macro, which over a long list would keep a worker "
            "from all else: write one after the other, as in 'event.data.items.filter(i, i.new).all(i, i.price > 5)'"
        )
    return Expression(text, program)


def _nested_macro(text: str) -> str | None:
    """The first macro that stands inside another's parentheses, if there is one."""
    open_: list[bool] = []  # of each bracket that is open, whether it is a macro's
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
