"""The calls in Lua source: enough of a parser for scripts that a formatter could have written."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["calls", "functions", "split_arguments", "table_after", "without_comments"]

_TOKEN = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[(){}\[\],]")
_OPEN, _CLOSE = "({[", ")}]"


def without_comments(source: str) -> str:
    """The source without its comments."""
    return re.sub(r"--.*", "", source)


def functions(source: str) -> dict[str, str]:
    """The functions of a library at its top level, by name, with their code."""
    chunks = re.split(r"^(?=(?:local )?function )", without_comments(source), flags=re.MULTILINE)
    found = {}
    for chunk in chunks:
        if name := re.match(r"(?:local )?function ([\w.]+)", chunk):
            found[name[1]] = chunk
    return found


def calls(source: str, function: str) -> Iterator[list[str]]:
    """The arguments of each call of a function."""
    for found in re.finditer(rf"(?<![\w.:]){re.escape(function)}\(", source):
        if not source[: found.start()].endswith("function "):
            yield split_arguments(source, found.end())


def table_after(source: str, head: str) -> Iterator[list[str]]:
    """The entries of each table constructor after a text such as ``more = ``."""
    for found in re.finditer(re.escape(head) + r"\{", source):
        yield split_arguments(source, found.end())


def split_arguments(source: str, start: int) -> list[str]:
    """The expressions between commas, from a place behind an opening bracket up to the closing one."""
    found, depth, first = [], 0, start
    for token in _TOKEN.finditer(source, start):
        text = token[0]
        if text in _OPEN:
            depth += 1
        elif depth == 0 and text in (*_CLOSE, ","):
            if argument := " ".join(source[first : token.start()].split()):
                found.append(argument)
            first = token.end()
            if text != ",":
                return found
        elif text in _CLOSE:
            depth -= 1
    raise ValueError(f"no closing bracket: {source[start : start + 80]!r}")
