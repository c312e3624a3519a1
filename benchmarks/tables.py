"""Tables of topics, as Markdown that can also be read as it is."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Spread
from benchmarks.topics import Topic

__all__ = ["figure", "table"]

_HEAD = (
    "system",
    "in flight",
    "per second",
    "slowest–fastest",
    "ms each",
    "worker µs",
    "server µs",
    "worker MB",
    "server MB",
)


def table(topic: Topic) -> str:
    """A row a case, the best first."""
    rows = [(*_HEAD, "steal s", "stepflow is"), *(_row(topic, spread) for spread in topic.spreads)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:]])


def figure(value: float) -> str:
    """A number with three digits that count, or all digits before the point."""
    if value == 0:
        return "0"
    value = float(f"{value:.3g}") if value < 100 else value
    for limit, digits in ((0.1, 3), (1, 2), (10, 2), (100, 1)):
        if value < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def _row(topic: Topic, spread: Spread) -> tuple[str, ...]:
    sample, ratio = spread.median, topic.ratio(spread)
    name = f"{sample.system} {sample.version}" + (f", {sample.settings}" if sample.settings else "")
    figures = (sample.ms_each, sample.worker_us, sample.server_us, sample.worker_rss_mb, sample.server_rss_mb)
    return (
        name,
        str(sample.in_flight),
        figure(sample.per_s),
        f"{figure(spread.slowest)}–{figure(spread.fastest)}",
        *map(figure, figures),
        f"{sample.steal_s:.2f}",
        "" if ratio is None else f"{figure(ratio)} ×",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cells[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
    ]
    return f"| {' | '.join(padded)} |"
