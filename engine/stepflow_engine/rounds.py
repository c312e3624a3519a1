"""Rounds: a run whose code continues as new begins again with new data, no memos, and the same id."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ContinueAsNew", "PastRound", "read_rounds"]


@dataclass(frozen=True, slots=True)
class ContinueAsNew:
    """What the code returns to begin the next round.

    Attributes:
        data: the data of the event of the next round, as JSON text.
        keep_version: a pinned run stays with the version that it has.
    """

    data: bytes
    keep_version: bool = False


@dataclass(frozen=True, slots=True)
class PastRound:
    """A round that has ended. Times are milliseconds since the epoch.

    Attributes:
        number: its number; the first one is 0.
        steps: how many of its steps have ended.
        digest: the first 16 hex digits of the SHA-256 of its event, as it was stored.
    """

    number: int
    started_at: int
    ended_at: int
    steps: int
    digest: str


def read_rounds(text: str) -> tuple[PastRound, ...]:
    """The last rounds of a run, the latest first, from the stored lines.

    Raises:
        ValueError: the text has another form.
    """
    lines = [line.split() for line in text.splitlines()]
    return tuple(
        PastRound(int(number), int(started_at), int(ended_at), int(steps), digest)
        for number, started_at, ended_at, steps, digest in lines
    )
