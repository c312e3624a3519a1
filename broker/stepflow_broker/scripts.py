"""The Lua scripts: read from ``lua/``, put together with the parts they use, and named by their SHA-1.

A script's file begins with its contract (see ``lua/start_run.lua``); ``USES`` names the files of ``lua/lib`` that are
put before it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from stepflow_broker.keys import lua_constants

__all__ = ["Script", "script", "script_names"]

_FOLDER = files("stepflow_broker") / "lua"
_USES = re.compile(r"^-- USES +(.+)$", re.MULTILINE)
_KEYS = re.compile(r"^-- KEYS +(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it is sent.

    Attributes:
        name: the transition.
        text: the whole source.
        sha: the SHA-1 of the source, by which the server knows it.
        keys: its KEYS, by the names that its contract gives them.
    """

    name: str
    text: str
    sha: str
    keys: tuple[str, ...] = ()


@cache
def script(name: str) -> Script:
    """The script of a transition."""
    body = (_FOLDER / f"{name}.lua").read_text()
    uses = _USES.search(body)
    parts = [_strip((_FOLDER / "lib" / f"{part}.lua").read_text()) for part in (uses.group(1).split() if uses else ())]
    code = "".join([*parts, _strip(body)])
    text = lua_constants(code) + code
    keys = _KEYS.search(body)
    names = re.findall(r"\d+ (\w+)", keys.group(1)) if keys else ()
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), tuple(names))


def script_names() -> list[str]:
    """All transitions that are scripts."""
    return sorted(entry.name.removesuffix(".lua") for entry in _FOLDER.iterdir() if entry.name.endswith(".lua"))


def _strip(source: str) -> str:
    """The source without its comment lines, which the server need not keep."""
    return "".join(line for line in source.splitlines(keepends=True) if not line.lstrip().startswith("--"))
