"""Expressions on events, in CEL: a small language without loops or side effects, which is safe to run for anybody.

CEL's own library is Rust and is loaded when the first expression is met, so a producer without any does not load it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stepflow_engine.errors import ConfigurationError

__all__ = ["Expression", "expression"]

_MOST_BYTES = 4_096
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


@lru_cache(maxsize=4_096)
def expression(text: str) -> Expression:
    """Compile an expression.

    Raises:
        ConfigurationError: it is not one, or it is too long or (CEL's parser sees to that) too deep.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"an expression is text, {_FORMS}; not {text!r}")
    if len(text.encode(errors="replace")) > _MOST_BYTES:
        raise ConfigurationError(f"an expression has at most {_MOST_BYTES:,} bytes; this one begins {text[:60]!r}")
    import cel

    try:
        return Expression(text, cel.compile(text))
    except ValueError as error:
        reason = (str(error).partition("ERROR: ")[2] or "it cannot be parsed").splitlines()[0]
        raise ConfigurationError(f"the expression {text!r} is not CEL ({reason}): write it {_FORMS}") from None
