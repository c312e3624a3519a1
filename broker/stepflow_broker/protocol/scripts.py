"""The Lua scripts: read from ``lua/``, joined with the libraries they use, and identified by their SHA-1.

The file of a script begins with its contract (see ``lua/runs/start_runs.lua``). Its ``USES`` line names the files of
``lua/lib`` that are put before it, as far as it needs them: the server makes each function of a script at each call.

A line ``-- REST`` divides a script. The part above it serves the most frequent case and returns, else it has written
nothing. The functions that only the rest needs are made, and its rights are checked, only if the rest is executed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from operator import add

from stepflow_broker.protocol.keys import lua_constants
from stepflow_broker.protocol.lua_rights import lua_rights
from stepflow_broker.protocol.lua_states import lua_states

__all__ = ["Script", "script", "script_names"]

_FOLDER = files("stepflow_broker") / "lua"
_USES = re.compile(r"^-- USES +(.+)$", re.MULTILINE)
_KEYS = re.compile(r"^-- KEYS +(.+)$", re.MULTILINE)
_RIGHTS = re.compile(r"^-- RIGHTS +(.+)$", re.MULTILINE)
_REST = re.compile(r"^-- REST\b.*\n", re.MULTILINE)
_DEFINITION = re.compile(r"^(?=local |function )", re.MULTILINE)
_DEFINED = re.compile(r"(?:local )?function (\w+)|local ([\w, ]+)")


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it is sent.

    Attributes:
        name: the name of the transition.
        text: the whole source.
        sha: the SHA-1 of the source, which the server uses as its name.
        keys: the names of its KEYS in its contract.
    """

    name: str
    text: str
    sha: str
    keys: tuple[str, ...] = ()


@cache
def script(name: str) -> Script:
    """The script of a transition."""
    body = _paths(_FOLDER)[name].read_text()
    uses = _USES.search(body)
    parts = [_strip((_FOLDER / "lib" / f"{part}.lua").read_text()) for part in (uses.group(1).split() if uses else ())]
    sections = _needed("".join(parts), [_strip(section) for section in _REST.split(body)])
    checked = _RIGHTS.search(body)
    rights = [""] * len(sections)
    if name not in _examinations():
        rights = lua_rights(sections, checked.group(1).split() if checked else None)
    code = "".join(sections)
    text = lua_constants(code) + lua_states(code) + "".join(map(add, rights, sections))
    keys = _KEYS.search(body)
    names = re.findall(r"\d+ (\w+)", keys.group(1)) if keys else ()
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), tuple(names))


@cache
def _examinations() -> frozenset[str]:
    """The scripts of the doctor: most of their users only read, and a repair is repeated."""
    return frozenset(file.name.removesuffix(".lua") for file in (_FOLDER / "doctor").iterdir())


def script_names() -> list[str]:
    """The names of all scripts."""
    return sorted(_paths(_FOLDER))


def _paths(folder: Traversable) -> dict[str, Traversable]:
    """Name of a script → its file."""
    groups = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name != "lib"]
    return {file.name.removesuffix(".lua"): file for group in groups for file in group.iterdir()}


def _needed(libraries: str, parts: Sequence[str]) -> list[str]:
    """The parts of a script, each after the definitions of the libraries that it is the first to need."""
    chunks = [chunk for chunk in _DEFINITION.split(libraries) if chunk.strip()]
    needed, sections = set[int](), []
    for part in parts:
        before, words = set(needed), _words(part)
        while more := {n for n, chunk in enumerate(chunks) if n not in needed and words & _defined(chunk)}:
            needed |= more
            words |= {word for n in more for word in _words(chunks[n])}
        sections.append("".join([chunk for n, chunk in enumerate(chunks) if n in needed - before] + [part]))
    return sections


def _defined(chunk: str) -> set[str]:
    """The names that a definition defines. Functions of a table belong to the table."""
    found = _DEFINED.match(chunk)
    return _words(found[1] or found[2]) if found else set()


def _words(code: str) -> set[str]:
    return set(re.findall(r"\w+", code))


def _strip(source: str) -> str:
    """The source without its comment lines, which the server does not need."""
    return "".join(line for line in source.splitlines(keepends=True) if not line.lstrip().startswith("--"))
