"""Which pauses stop a run, and the concurrency limits that the run has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from stepflow_broker.transitions.pauses import Pause, pause_subject
from stepflow_broker.views.times import local_time
from stepflow_engine.product import NAME

__all__ = ["limits_of", "pause_reason", "pause_text", "pauses_of"]

_LIMIT = re.compile(r"(\d+) (\d+) ")


def limits_of(text: bytes) -> list[tuple[int, str]]:
    """The limits and names of the concurrency limits in a run's ``concurrency`` field (see ``lib/concurrency.lua``)."""
    found, at = [], 0
    while at < len(text):
        head = _LIMIT.match(text[at:].decode(errors="replace"))
        if head is None:
            break
        first = at + head.end()
        at = first + int(head[2])
        found.append((int(head[1]), text[first:at].decode()))
    return found


def pauses_of(
    pauses: Mapping[str, Pause], name: str, queue: str, limits: Sequence[tuple[int, str]]
) -> tuple[Pause, ...]:
    """The pauses that stop a run.

    Args:
        pauses: all pauses of the run's partition by subject.
        name: the function of the run, as ``app/function``.
        queue: the queue of the run.
        limits: its concurrency limits.
    """
    subjects = [
        pause_subject("function", name),
        pause_subject("queue", queue),
        *(pause_subject("key", key) for _, key in limits),
    ]
    return tuple(pauses[subject] for subject in subjects if subject in pauses)


def pause_reason(pauses: Sequence[Pause]) -> str:
    """Why a run is paused, in a few words: ``paused: the stock is counted``; ``""`` if it is not."""
    return "; ".join(f"paused: {one.reason}" if one.reason else f"{one.subject} is paused" for one in pauses)


def pause_text(pause: Pause) -> str:
    """What is paused, since when and why, and the command that resumes it."""
    why = f": {pause.reason}" if pause.reason else ""
    resume = f"{NAME} resume {pause.kind} {shlex.quote(pause.name)}"
    return f"{pause.subject} is paused since {local_time(pause.since)}{why}; {resume}"
