"""How values are shown: times, durations, JSON cut short, and the look of tables."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepflow_engine.codec import dumps, pretty
from stepflow_engine.durations import show_duration
from stepflow_engine.failure import Failure

__all__ = [
    "Cell",
    "brief",
    "brief_failure",
    "clock",
    "console",
    "cut",
    "now_ms",
    "print_json",
    "printable",
    "say",
    "since",
    "span",
    "state_text",
    "table",
    "waits_until",
]

Cell = str | Text
"""What a cell of a table holds."""

_UNBOUNDED = 240
_COLORS = {
    "completed": "green",
    "done": "green",
    "failed": "red",
    "cancelled": "magenta",
    "skipped": "magenta",
    "forgotten": "dim",
    "running": "cyan",
    "busy": "cyan",
    "retrying": "yellow",
    "delayed": "yellow",
    "waiting": "yellow",
    "suspended": "yellow",
}


def console() -> Console:
    """Standard output; where it is no terminal, wide enough that nothing need be cut."""
    plain = Console(highlight=False, emoji=False, markup=False)
    if plain.is_terminal or "COLUMNS" in os.environ:
        return plain
    return Console(highlight=False, emoji=False, markup=False, width=_UNBOUNDED)


def table(*headers: str, right: Sequence[str] = ()) -> Table:
    """An empty table with these columns; those in ``right`` hold numbers."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold dim")
    for header in headers:
        made.add_column(header, justify="right" if header in right else "left", no_wrap=True, overflow="ellipsis")
    return made


def print_json(value: Any) -> None:
    """Print JSON for scripts."""
    click.echo(pretty(value))


def say(what: str, text: str = "") -> None:
    """Print a line of a command that goes on: a word, and what it is about."""
    click.echo(f"{click.style(f'{what:<9}', bold=True)} {text}".rstrip())


def now_ms() -> int:
    """The time of this machine, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def clock(at_ms: int) -> str:
    """A time for people, in the time zone of this machine."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def waits_until(at_ms: int, now: int) -> str:
    """The end of a wait: ``until 2025-01-31 09:30:00 (in 59m)``."""
    return f"until {clock(at_ms)} (in {show_duration(max(0, at_ms - now) // 1000 * 1000)})"


def since(at_ms: int | None, now: int) -> str:
    """How long ago, with one unit."""
    if at_ms is None:
        return ""
    return f"{show_duration(max(0, now - at_ms) // 1000 * 1000).split()[0].replace('0ms', '0s')} ago"


def span(start_ms: int | None, end_ms: int | None) -> str:
    """How long something took."""
    return "" if start_ms is None or end_ms is None else show_duration(max(0, end_ms - start_ms))


def printable(text: str) -> str:
    """Text that cannot steer the terminal: what is not printable is replaced."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


def cut(text: str, most: int) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def brief(value: Any, most: int = 200) -> str:
    """A value as JSON in one line, cut."""
    return cut(dumps(value).decode(), most)


def brief_failure(failure: Failure | None, most: int = 200) -> str:
    """A failure in one line, cut."""
    if failure is None:
        return ""
    return cut(" ".join(f"{failure.name}: {failure.message}".split()), most)


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=_COLORS.get(state, ""))


def unserved(queue: str) -> str:
    """What is wrong with a queue that no live worker serves."""
    return f"no live worker serves queue {printable(queue)}"
