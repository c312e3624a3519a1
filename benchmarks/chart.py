"""A chart of topics: plain SVG with horizontal bars, readable on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.results import Results, Spread
from benchmarks.tables import figure
from benchmarks.topics import OURS, Topic

__all__ = ["chart"]

_WIDTH, _LEFT, _RIGHT = 900, 250, 110
_BAR, _ROW, _HEAD, _GAP = 16, 24, 44, 22
_LOG_FROM = 20
_STYLE = """
  .page { fill: #ffffff } text { fill: #1f2328; font: 13px system-ui, sans-serif }
  .title { font-size: 18px; font-weight: 600 } .topic { font-weight: 600 } .small { font-size: 11px; opacity: .75 }
  .bar { fill: #8b949e } .ours { fill: #1a7f37 } .grid { stroke: #8b949e; opacity: .35 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .bar { fill: #6e7681 } .ours { fill: #3fb950 }
  }
"""


@dataclass(frozen=True, slots=True)
class _Scale:
    """From a figure to the length of its bar.

    Attributes:
        least: the figure at the axis; 0: the scale is linear.
        most: the figure of the longest bar.
    """

    least: float
    most: float

    @classmethod
    def over(cls, figures: Sequence[float]) -> _Scale:
        """Logarithmic, from a power of ten, where the figures are far apart; linear otherwise."""
        least, most = min(figures), max(figures)
        if most < least * _LOG_FROM:
            return cls(0, most)
        return cls(10 ** math.floor(math.log10(least) - 0.3), most)

    def length(self, value: float) -> float:
        """In pixels."""
        share = math.log(value / self.least) / math.log(self.most / self.least) if self.least else value / self.most
        return share * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> list[float]:
        """The powers of ten; none on a linear scale."""
        if not self.least:
            return []
        count = int(math.log10(self.most / self.least))
        return [self.least * 10**n for n in range(count + 1)]


def chart(topics: Iterable[Topic], results: Results) -> str:
    """The SVG, one block of bars a topic; a topic of one case has nothing to compare and no block."""
    body, top = [], 84.0
    for topic in topics:
        if len(topic.spreads) < 2:
            continue
        body.append(_block(topic, top))
        top += _HEAD + _ROW * len(topic.spreads) + _GAP
    size = f'width="{_WIDTH}" height="{top:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {top:g}">',
            "<title>stepflow and its peers, measured side by side</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="page" {size}/>',
            _text(20, 32, "stepflow and its peers, measured side by side", "title"),
            *(_text(20, 52 + 16 * n, line, "small") for n, line in enumerate(_facts(results))),
            *body,
            "</svg>\n",
        ]
    )


def _facts(results: Results) -> tuple[str, str]:
    machine, servers = results.machine, sorted({sample.server for sample in results.samples if sample.server})
    where = f"{machine.cores} cores, {machine.cpu}, Python {machine.python}"
    return f"{results.date} · {where}", f"{' · '.join(servers)} · {results.command}"


def _block(topic: Topic, top: float) -> str:
    scale = _Scale.over([topic.figure(spread.median) for spread in topic.spreads])
    kind = ("less is better" if topic.slow else "more is better") + (", log scale" if scale.least else "")
    first, last = top + _HEAD - 8, top + _HEAD + _ROW * len(topic.spreads)
    lines = [_text(20, top + 14, topic.title.replace("`", ""), "topic"), _text(20, top + 30, kind, "small")]
    for value in scale.ticks():
        x = _LEFT + scale.length(value)
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{first:g}" y2="{last:g}"/>')
        lines.append(_text(x, first - 4, f"{value:,g}", "small", anchor="middle"))
    lines += [
        _bar(spread, topic.figure(spread.median), scale, top + _HEAD + _ROW * row)
        for row, spread in enumerate(topic.spreads)
    ]
    return "\n".join(lines)


def _bar(spread: Spread, value: float, scale: _Scale, top: float) -> str:
    sample, length = spread.median, scale.length(value)
    kind = "bar ours" if sample.system == OURS else "bar"
    name = f"{sample.system} {sample.version}" + (f", {sample.settings}" if sample.settings else "")
    shown = name if len(name) <= 38 else f"{name[:37]}…"
    return "\n".join(
        [
            f"<g><title>{escape(name)}</title>",
            _text(_LEFT - 8, top + 13, shown, "small", anchor="end"),
            f'<rect class="{kind}" x="{_LEFT}" y="{top:g}" width="{max(length, 1):.1f}" height="{_BAR}"/>',
            _text(_LEFT + max(length, 1) + 6, top + 13, figure(value), "small"),
            "</g>",
        ]
    )


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
