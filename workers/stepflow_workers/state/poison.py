"""Poison: jobs that kill their workers."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["POISON_DEATHS", "PoisonError", "died_text"]

POISON_DEATHS = 3
"""How many workers may die with a job before the job counts as the cause."""


class PoisonError(Exception):
    """A step that killed its workers."""


def died_text(deaths: Sequence[str], what: str) -> str:
    """The message for a step, or for code, with which workers died.

    Args:
        deaths: the worker and the time of each death.
        what: the step or the code, for the message.
    """
    return (
        f"{len(deaths)} workers died while they executed {what} (killed, out of memory, or ended by its code): "
        f"{'; '.join(deaths)}; it is not retried"
    )
