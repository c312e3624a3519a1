"""Jobs with which workers died."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["POISON_DEATHS", "PoisonError", "died_text"]

POISON_DEATHS = 3
"""How many workers may die with a job before it is taken for the cause."""


class PoisonError(Exception):
    """A step that took its workers with it."""


def died_text(deaths: Sequence[str], what: str) -> str:
    """What is said of a step, or of code, with which workers died."""
    return (
        f"{len(deaths)} workers died while they had {what} (killed, out of memory, or ended by its code): "
        f"{'; '.join(deaths)}; it is not tried again"
    )
