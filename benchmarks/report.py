"""The report: ``python -m benchmarks.report`` writes what `benchmarks.peers` has measured into docs/performance.md.

What stands between two marks is replaced; the prose around them is kept. The chart and the samples go beside it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from benchmarks.chart import chart
from benchmarks.results import RESULTS, Results
from benchmarks.tables import table, target_table
from benchmarks.targets import reached
from benchmarks.topics import Topic, topics

__all__ = ["BEGIN", "END", "measured", "replaced"]

BEGIN = "<!-- measured: begin (python -m benchmarks.report) -->"
END = "<!-- measured: end -->"
_DOCS = Path(__file__).parents[1] / "docs"


class ReportError(Exception):
    """The report cannot be written; the message says why."""


def replaced(page: str, text: str) -> str:
    """A page with other text between its marks.

    Raises:
        ReportError: the marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReportError(f"the page has no marks: put these lines where the figures belong:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def measured(results: Results, found: list[Topic]) -> str:
    """The measured part of the page."""
    parts = [_facts(results), "![The figures as bars](performance.svg)", _explained(found), _targets(results)]
    parts += [f"### {topic.title}\n\n{table(topic)}" for topic in found]
    if results.failures:
        parts.append("### Not measured\n\n" + "\n\n".join(map(_failure, results.failures.items())))
    return "\n\n".join(parts)


def _facts(results: Results) -> str:
    machine = results.machine
    servers = sorted({sample.server for sample in results.samples if sample.server})
    rows = {
        "date": results.date,
        "machine": f"{machine.cores} cores, {machine.cpu}, {machine.memory_gb:g} GB",
        "system": f"Linux {machine.kernel}, Python {machine.python}",
        "load when it began": f"{machine.load:g}",
        "servers": ", ".join(servers),
        "command": f"`{results.command}`",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _explained(found: list[Topic]) -> str:
    counts = [spread.repetitions for topic in found for spread in topic.spreads]
    repetitions = "–".join(map(str, dict.fromkeys((min(counts), max(counts)))))
    return (
        f"Medians of {repetitions} interleaved rounds; the samples are in [performance.json](performance.json). "
        "The last column says how many times as good as the row's figure stepflow's is."
    )


def _targets(results: Results) -> str:
    targets = reached(spread.median for spread in results.spreads())
    counts = Counter(one.met for one in targets if one.target.sign)
    text = f"Reached: {counts[True]}; not reached: {counts[False]}; not measured: {counts[None]}."
    return f"### Targets\n\n{text}\n\n{target_table(targets)}"


def _failure(failure: tuple[str, str]) -> str:
    name, message = failure
    return f"**{name}**\n\n```\n{message}\n```"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="what benchmarks.peers has written")
    parser.add_argument("--docs", type=Path, default=_DOCS, help="the folder of performance.md")
    options = parser.parse_args()
    results = Results.load(options.results)
    found = topics(results.spreads())
    if not found:
        raise SystemExit(f"error: {options.results} has no samples: run python -m benchmarks.peers")
    page = options.docs / "performance.md"
    page.write_text(replaced(page.read_text(), measured(results, found)))
    (options.docs / "performance.svg").write_text(chart([topic for topic in found if topic.compares], results))
    results.save(options.docs / "performance.json")


if __name__ == "__main__":
    main()
