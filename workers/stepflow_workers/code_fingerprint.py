"""The fingerprint of the code of a worker: it differs between the versions of a deployment.

A worker registers it. A job whose code one version lacks goes to a worker of another.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from stepflow import Function
from stepflow_workers.code_version import VERSION

__all__ = ["code_fingerprint"]

_MAX_FILES = 5_000


def code_fingerprint(functions: Iterable[Function]) -> str:
    """The digest of the variable ``STEPFLOW_VERSION``, or of the sources of the packages that declare functions."""
    digest = hashlib.sha1(os.environ.get(VERSION, "").encode(errors="replace"), usedforsecurity=False)
    if not os.environ.get(VERSION):
        modules = {str(getattr(function.handler, "__module__", "")) for function in functions}
        for file in sorted({file for module in modules for file in _sources(module)})[:_MAX_FILES]:
            digest.update(_content(file))
    return digest.hexdigest()[:16]


def _sources(module: str) -> Iterator[Path]:
    """The source of a module; if it is in a package, those of the whole package."""
    for name in (module.partition(".")[0], module):  # a package without __init__.py has no file
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str):
            path = Path(file)
            yield from path.parent.rglob("*.py") if path.name == "__init__.py" else (path,)
            return


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it is gone, or not readable
        return b""
