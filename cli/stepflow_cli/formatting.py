"""How values are printed: times, durations, shortened JSON, and tables."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import IO, Any, TextIO, cast

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from stepflow_broker.views.times import local_time
from stepflow_engine.codec import dumps, pretty
from stepflow_engine.durations import show_duration
from stepflow_engine.failure import Failure
from stepflow_engine.terminal_text import cut, one_line_failure, printable, printable_lines
from stepflow_engine.times import epoch_ms

__all__ = [
    "Cell",
    "brief",
    "brief_failure",
    "console",
    "cut",
    "echo",
    "print_json",
    "print_status",
    "printable",
    "since",
    "span",
    "state_text",
    "table",
    "unserved",
    "waits_until",
]

Cell = str | Text
"""The content of a table cell."""

_UNBOUNDED = 240
_TRAILING_BLANKS = re.compile(r" +(?=\n|$)")
_COLORS = {
    "completed": "green",
    "done": "green",
    "failed": "red",
    "cancelled": "magenta",
    "skipped": "magenta",
    "forgotten": "dim",
    "running": "cyan",
    "busy": "cyan",
    "lost": "red",
    "retrying": "yellow",
    "delayed": "yellow",
    "waiting": "yellow",
    "suspended": "yellow",
}


class _CleanConsole(Console):
    """Prints no control sequences but those of its own styles."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`."""
        for segment in super().render(renderable, options):
            clean = segment.control or segment.text.isprintable()
            yield segment if clean else Segment(printable_lines(segment.text), segment.style)


class _WithoutTrailingBlanks:
    """Standard output for tables that no terminal shows: their last column is not padded."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(_TRAILING_BLANKS.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def console() -> Console:
    """Standard output. If it is not a terminal, it is so wide that no line is cut, and no line ends with blanks."""
    plain = _CleanConsole(highlight=False, emoji=False, markup=False)
    if plain.is_terminal:
        return plain
    width = None if "COLUMNS" in os.environ else _UNBOUNDED
    file = cast("IO[str]", _WithoutTrailingBlanks(sys.stdout))
    return _CleanConsole(highlight=False, emoji=False, markup=False, width=width, file=file)


def table(*headers: str, right: Sequence[str] = ()) -> Table:
    """An empty table with these columns; those in ``right`` are right-aligned."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold dim")
    for header in headers:
        grid.add_column(header, justify="right" if header in right else "left", no_wrap=True, overflow="ellipsis")
    return grid


def print_json(value: Any) -> None:
    """Print a value as JSON. Characters that are not printable are escaped."""
    click.echo("\n".join(_escaped(line) for line in pretty(value).split("\n")))


def _escaped(line: str) -> str:
    """A line of JSON, which has such characters in strings only."""
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line without control sequences.

    Args:
        err: whether it goes to standard error.
    """
    click.echo(printable(text), err=err)


def print_status(label: str, text: str = "") -> None:
    """Print a status line of a long-running command, which goes on if its terminal is closed."""
    with contextlib.suppress(OSError):
        click.echo(f"{click.style(f'{label:<9}', bold=True)} {printable(text)}".rstrip())


Time = datetime | int
"""A time, or the milliseconds since the epoch."""


def waits_until(at: Time, now: int) -> str:
    """The end of a wait: ``until 2025-01-31 09:30:00 (in 59m)``."""
    return f"until {local_time(at)} (in {show_duration(max(0, _ms(at) - now) // 1000 * 1000)})"


def since(at: Time | None, now: int) -> str:
    """How long ago a time is, in one unit: ``3m ago``."""
    if at is None:
        return ""
    return f"{show_duration(max(0, now - _ms(at)) // 1000 * 1000).split()[0].replace('0ms', '0s')} ago"


def span(start: Time | None, end: Time | None) -> str:
    """The duration between two times; ``""`` if one is unknown."""
    return "" if start is None or end is None else show_duration(max(0, _ms(end) - _ms(start)))


def _ms(at: Time) -> int:
    return epoch_ms(at) if isinstance(at, datetime) else at


def brief(value: Any, length: int = 200) -> str:
    """A value as JSON in one line, cut to this length."""
    return cut(dumps(value).decode(), length)


def brief_failure(failure: Failure | None, length: int = 200) -> str:
    """A failure in one line, cut to this length."""
    if failure is None:
        return ""
    return one_line_failure(failure, length)


def state_text(state: str) -> Text:
    """A run or step state in its colour."""
    return Text(state, style=_COLORS.get(state, ""))


def unserved(queue: str) -> str:
    """The note on a queue that no live worker serves."""
    return f"no live worker serves queue {printable(queue)}"
