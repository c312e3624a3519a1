"""Tables of topics and of targets, as Markdown that can also be read as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.results import Spread
from benchmarks.targets import Reached
from benchmarks.topics import Topic

__all__ = ["figure", "table", "target_table"]

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
_SIGNS = {">=": "≥", "<=": "≤"}
_MET = {True: "yes", False: "no", None: ""}


def table(topic: Topic) -> str:
    """A row a case, the best first."""
    return _aligned([(*_HEAD, "steal s", "stepflow is"), *(_row(topic, spread) for spread in topic.spreads)])


def target_table(targets: Iterable[Reached]) -> str:
    """A row a target: the limit, the figure, and what it was made of."""
    return _aligned([("what", "limit", "figure", "reached", "of"), *map(_target_row, targets)])


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


def _target_row(one: Reached) -> tuple[str, ...]:
    target = one.target
    limit = f"{_SIGNS[target.sign]} {target.limit:g} {target.unit}" if target.sign else ""
    if one.figure is None:
        return target.what, limit, "", "not measured", ""
    of = " and ".join(map(figure, one.values)) + f" {target.measure.unit}" if target.than else ""
    return target.what, limit, f"{figure(one.figure)} {target.unit}", _MET[one.met], of


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head; all columns but the first are for figures."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cells[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
    ]
    return f"| {' | '.join(padded)} |"
