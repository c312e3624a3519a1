"""The functions: ``census`` invokes ``count-package`` for each package and reduces the counts to a report.

Map and reduce: any worker executes any package, and each package is retried on its own.
"""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path

from pydantic import BaseModel

from examples.census.counting import Count, add_counts, count_source
from examples.census.listing import Package, Part, cut_package, list_modules, list_packages, stdlib
from examples.census.report import Report, build_report
from stepflow import Context, Stepflow

__all__ = ["LIST_MODULES", "LIST_PACKAGES", "Request", "app", "census", "count_package"]

LIST_PACKAGES = "list packages"
LIST_MODULES = "list modules"

app = Stepflow("census")


class Request(BaseModel):
    """The data of ``census/requested``.

    Attributes:
        packages: the packages to count; ``(modules)`` for the modules that belong to none; empty: everything.
    """

    packages: list[str] = []


@app.function("count-package", retries=2)
async def count_package(ctx: Context[Package]) -> Count:
    """Count one package; count the parts of a large package in parallel."""
    parts = cut_package(ctx.event.data)
    counts = await asyncio.gather(
        *[ctx.step.run(f"count {part.package} {part.number}", count_part, part) for part in parts]
    )
    return add_counts(counts)


@app.function("census", event="census/requested")
async def census(ctx: Context[Request]) -> Report:
    """Count the standard library of the machine that the workers run on."""
    packages = await list_everything(ctx)
    counts = await asyncio.gather(
        *[ctx.step.invoke(f"count {package.name}", count_package, data=package) for package in packages]
    )
    return await ctx.step.run("report", reduce_counts, [package.name for package in packages], counts)


async def list_everything(ctx: Context[Request]) -> list[Package]:
    """The packages to count, listed in two steps."""
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


def reduce_counts(names: list[str], counts: list[Count]) -> Report:
    """Build the report from the counts of all packages."""
    return build_report(platform.python_version(), str(stdlib()), zip(names, counts, strict=True))
