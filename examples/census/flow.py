"""The function: lists the standard library, counts its parts side by side, reduces the counts to a report."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path

from pydantic import BaseModel

from examples.census.counting import Count, add_counts, count_source
from examples.census.listing import Part, list_modules, list_packages, stdlib
from examples.census.report import Report, build_report
from stepflow import Context, Stepflow

__all__ = ["LIST_MODULES", "LIST_PACKAGES", "Request", "app", "census"]

LIST_PACKAGES = "list packages"
LIST_MODULES = "list modules"

app = Stepflow("census")


class Request(BaseModel):
    """The data of ``census/requested``.

    Attributes:
        packages: the packages that are wanted, ``(modules)`` for the modules that belong to none; empty: everything.
    """

    packages: list[str] = []


@app.function("census", event="census/requested")
async def census(ctx: Context[Request]) -> Report:
    """Count the standard library of the machine that the workers run on."""
    parts = await list_parts(ctx)
    counts = await asyncio.gather(
        *[ctx.step.run(f"count {part.package} {part.number}", count_part, part) for part in parts]
    )
    return await ctx.step.run("report", reduce_counts, parts, counts)


async def list_parts(ctx: Context[Request]) -> list[Part]:
    """What there is to count, in two steps."""
    wanted = ctx.event.data.packages
    packages, modules = await asyncio.gather(
        ctx.step.run(LIST_PACKAGES, list_packages, wanted), ctx.step.run(LIST_MODULES, list_modules, wanted)
    )
    return packages + modules


def count_part(part: Part) -> Count:
    """Read and count the files of a part. A plain ``def``: the worker runs it in a thread."""
    root = stdlib()
    return add_counts(_count_file(root, file) for file in part.files)


def _count_file(root: Path, file: str) -> Count:
    try:
        return count_source((root / file).read_bytes(), file)
    except OSError:
        return Count(files=1, unreadable=1)


def reduce_counts(parts: list[Part], counts: list[Count]) -> Report:
    """Make the report of the counts of all parts."""
    named = zip((part.package for part in parts), counts, strict=True)
    return build_report(platform.python_version(), str(stdlib()), named)
