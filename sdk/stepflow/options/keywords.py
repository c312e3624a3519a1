"""Keyword arguments that a ``TypedDict`` declares: the check that a call has no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["check_keywords"]


def check_keywords(call: str, options: Mapping[str, Any], accepts: type[Mapping[str, Any]]) -> None:
    """Check that a call takes its options. Type checkers see this earlier, by ``Unpack``.

    Args:
        call: the name of the call, for the error.
        accepts: the ``TypedDict`` that declares the options.

    Raises:
        TypeError: there is no such option; the message says which there are.
    """
    known: frozenset[str] = accepts.__optional_keys__  # type: ignore[attr-defined]
    for name in options:
        if name not in known:
            raise TypeError(
                f"{call}() got an unexpected keyword argument {name!r}: its options are {', '.join(sorted(known))}"
            )
