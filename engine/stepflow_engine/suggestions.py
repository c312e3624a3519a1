"""What a mistyped name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["suggestion"]

_SHOWN = 10
_COMPARED = 5_000
_LONGEST = 200
_CLOSE = 0.6
_AS_CLOSE = 0.1


def suggestion(name: str, known: Iterable[str], what: str) -> str:
    """The end of an error about an unknown name: the names that are close, else those that there are.

    Args:
        name: the unknown name.
        known: the names that there are.
        what: the plural of what they name, such as ``functions``.
    """
    names = sorted(set(known))[:_COMPARED]
    close = _close(name[:_LONGEST], names)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    if not names:
        return f"there are no {what}"
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"the {what} are {', '.join(names[:_SHOWN])}{more}"


def _close(name: str, names: list[str]) -> list[str]:
    """The closest name, and those that are nearly as close."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=_CLOSE)
    ratios = [difflib.SequenceMatcher(None, one, name).ratio() for one in close]
    return [one for one, ratio in zip(close, ratios, strict=True) if ratio >= ratios[0] - _AS_CLOSE]
