"""The version of the code that a worker executes: runs store it, and memos where it differs.

It comes from the variable ``STEPFLOW_VERSION``, else from the git repository of the code, else from the installed
package, else there is none. It is read once, when the worker starts, from a few small files.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from stepflow import Stepflow
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import variable

__all__ = ["VERSION", "code_version"]

VERSION = variable("VERSION")
_LONGEST = 64
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT = 12
_INSTALLED = ("site-packages", "dist-packages")
_MAX_PACKED_BYTES = 16 * 1024 * 1024


def code_version(apps: Iterable[Stepflow]) -> str:
    """The version of the code of these apps; ``""`` if it is unknown. The first app whose version is known decides.

    Raises:
        ConfigurationError: the variable has more than 64 characters, or one that is not printable.
    """
    if version := os.environ.get(VERSION, "").strip():
        if len(version) > _LONGEST or not version.isprintable():
            raise ConfigurationError(f"{VERSION} must have at most {_LONGEST} printable characters, got {version!r}")
        return version
    return next(filter(None, map(_version_of, _modules(apps))), "")


def _modules(apps: Iterable[Stepflow]) -> Iterator[str]:
    """The modules of the functions, each once."""
    names = (getattr(function.handler, "__module__", None) for app in apps for function in app.functions.values())
    return iter(dict.fromkeys(name for name in names if isinstance(name, str)))


def _version_of(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    path = Path(file).resolve() if isinstance(file, str) else None
    if path is not None and not set(_INSTALLED) & set(path.parts) and (commit := _commit_at(path.parent)):
        return commit[:_SHORT]
    return _package_version(module.partition(".")[0])


def _package_version(package: str) -> str:
    """The version of the distribution that has a top-level package."""
    names = _distributions(tuple(sys.path)).get(package, ())
    versions = (metadata.version(name) for name in names)
    return next(versions, "")[:_LONGEST]


@cache
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:  # noqa: ARG001  the key of the cache
    """The distributions of each top-level package. Finding them takes long, and a test starts many workers."""
    return metadata.packages_distributions()


def _commit_at(folder: Path) -> str:
    """The commit that is checked out in the git repository of a folder; ``""``: there is none."""
    try:
        git = next((one / ".git" for one in (folder, *folder.parents) if (one / ".git").exists()), None)
        return "" if git is None else _head_of(_git_dir(git))
    except (OSError, ValueError):  # not readable, or of a form that this code does not know
        return ""


def _git_dir(git: Path) -> Path:
    """The folder of a repository. In a worktree or a submodule, ``.git`` is a file that names it."""
    return git if git.is_dir() else git.parent / git.read_text().removeprefix("gitdir:").strip()


def _head_of(git_dir: Path) -> str:
    head = (git_dir / "HEAD").read_text().strip()
    if _COMMIT.fullmatch(head):
        return head
    name = head.removeprefix("ref:").strip()
    common = git_dir / "commondir"
    folders = [git_dir, git_dir / common.read_text().strip()] if common.is_file() else [git_dir]
    for folder in folders:
        if (folder / name).is_file() and _COMMIT.fullmatch(commit := (folder / name).read_text().strip()):
            return commit
    return _packed(folders[-1] / "packed-refs", name)


def _packed(packed: Path, name: str) -> str:
    if not packed.is_file() or packed.stat().st_size > _MAX_PACKED_BYTES:
        return ""
    lines = (line.split() for line in packed.read_text().splitlines())
    return next((commit for commit, ref in (line for line in lines if len(line) == 2) if ref == name), "")
