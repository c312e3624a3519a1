"""The report of a census: the counts of each package, and a table that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from pydantic import BaseModel, ConfigDict

from examples.census.counting import Count, add_counts

__all__ = ["PackageCount", "Report", "build_report", "format_table"]

_HEAD = ("package", "files", "lines", "code", "comments", "blank", "functions", "classes", "longest function")
_TEXT = frozenset({"package", "longest function"})
_SPARED = ("longest function", "blank", "classes")


class PackageCount(BaseModel):
    """The counts of one package."""

    model_config = ConfigDict(frozen=True)

    package: str
    count: Count


class Report(BaseModel):
    """The result of a census.

    It has no times and no workers: the same files give the same report, also after crashes.

    Attributes:
        python: the version of the standard library.
        folder: the folder of the standard library.
        packages: the counts of each package, by name.
        total: the sum of all packages.
    """

    model_config = ConfigDict(frozen=True)

    python: str
    folder: str
    packages: list[PackageCount]
    total: Count


def build_report(python: str, folder: str, counts: Iterable[tuple[str, Count]]) -> Report:
    """Build a report from the counts of parts, each with the name of its package."""
    parts = sorted(counts, key=lambda part: part[0])
    packages = [
        PackageCount(package=name, count=add_counts(count for _, count in group))
        for name, group in groupby(parts, key=lambda part: part[0])
    ]
    return Report(
        python=python, folder=folder, packages=packages, total=add_counts(package.count for package in packages)
    )


def format_table(report: Report, *, most: int = 20, width: int = 120) -> str:
    """The report as a table, the largest packages first.

    Args:
        report: the report to show.
        most: the number of packages that get their own row.
        width: the width of the terminal in characters; a narrow table has fewer columns.
    """
    packages = sorted(report.packages, key=lambda package: -package.count.lines)
    rows = [_row(package.package, package.count) for package in packages[:most]]
    if rest := packages[most:]:
        rows.append(_row(f"{len(rest)} more", add_counts(package.count for package in rest)))
    lines = _fit([_HEAD, *rows, _row("all", report.total)], width)
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *_notes(report.total)])


def _row(name: str, count: Count) -> tuple[str, ...]:
    numbers = (
        count.files,
        count.lines,
        count.code_lines,
        count.comment_lines,
        count.blank_lines,
        count.functions,
        count.classes,
    )
    longest = f"{count.longest.name} ({count.longest.lines:,})" if count.longest else ""
    return (name, *(f"{number:,}" for number in numbers), longest)


def _fit(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The rows as lines. Columns that do not fit are left out."""
    columns = [_align(column) for column in zip(*rows, strict=True)]
    for name in _SPARED:
        if sum(len(column[0]) + 2 for column in columns) > width + 2:
            columns = [column for column in columns if column[0].strip() != name]
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _align(column: Sequence[str]) -> list[str]:
    """The cells of a column, padded to the same width; numbers are right-aligned."""
    width = max(map(len, column))
    return [cell.ljust(width) if column[0] in _TEXT else cell.rjust(width) for cell in column]


def _notes(total: Count) -> list[str]:
    notes = []
    if total.longest:
        notes += ["", f"Longest function: {total.longest.name} in {total.longest.file}, {total.longest.lines:,} lines."]
    if total.unreadable or total.unparsable:
        notes.append(
            f"{total.unreadable} files were not decoded, {total.unparsable} not parsed: only their lines count."
        )
    return notes
