"""Lists the packages of the standard library of this machine, and splits them into parts."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepflow import NonRetriableError

__all__ = ["MODULES", "Package", "Part", "cut_package", "list_modules", "list_packages", "stdlib"]

MODULES = "(modules)"
"""The name for the modules that are single files and belong to no package."""

_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})
_FILES_PER_PART = 60


@dataclass(frozen=True, slots=True)
class Package:
    """The input of one run.

    Attributes:
        name: the package, or ``(modules)``.
        files: its source files, as paths from the folder of the standard library.
    """

    name: str
    files: list[str]


@dataclass(frozen=True, slots=True)
class Part:
    """The input of one step: a package, or a part of a large package.

    Attributes:
        package: the package, or ``(modules)``.
        number: 1 for the first part of the package.
        files: its source files.
    """

    package: str
    number: int
    files: list[str]


def stdlib() -> Path:
    """The folder of the standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def list_packages(only: Sequence[str] = ()) -> list[Package]:
    """The packages, each with its subpackages.

    Args:
        only: the names of the packages to list; empty: all.

    Raises:
        NonRetriableError: one of them does not exist.
    """
    root = stdlib()
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in _NOT_STDLIB]
    packages = {folder.name: files for folder in folders if (files := _sources(root, folder))}
    unknown = sorted(set(only) - {*packages, MODULES})
    if unknown:
        raise NonRetriableError(f"{root} has no package {', '.join(unknown)}: correct the event's packages")
    return [Package(name, files) for name, files in packages.items() if not only or name in only]


def list_modules(only: Sequence[str] = ()) -> list[Package]:
    """The modules that are single files, as one package; empty if ``only`` names other packages."""
    if only and MODULES not in only:
        return []
    return [Package(MODULES, [path.name for path in sorted(stdlib().glob("*.py")) if path.is_file()])]


def cut_package(package: Package) -> list[Part]:
    """The parts of a package: one, or several for a large package."""
    starts = range(0, len(package.files), _FILES_PER_PART)
    return [
        Part(package.name, number, package.files[first : first + _FILES_PER_PART])
        for number, first in enumerate(starts, 1)
    ]


def _sources(root: Path, folder: Path) -> list[str]:
    names = (path.relative_to(root) for path in folder.rglob("*.py") if path.is_file())
    return sorted(name.as_posix() for name in names if not _NOT_STDLIB & set(name.parts))
