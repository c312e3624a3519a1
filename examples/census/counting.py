"""Counting one source file. Pure: bytes in, a `Count` out; no file is opened here."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Count", "Longest", "add_counts", "count_source"]

_SHOWN_AS = "census:"
warnings.filterwarnings("ignore", module=_SHOWN_AS)  # compiler warnings about the counted code are not relevant

_LAYOUT = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
)


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest function: from its ``def`` to its last line, decorators left out."""

    name: str
    file: str
    lines: int


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted, in one file or in many.

    Attributes:
        files: all files, including those that could not be decoded or parsed.
        lines: the lines of all files.
        code_lines: lines with code; a docstring is code.
        comment_lines: lines with only a comment.
        blank_lines: lines with neither code nor a comment.
        functions: ``def`` and ``async def``, including nested functions and methods.
        classes: ``class``, including nested classes.
        unreadable: files that could not be opened or decoded; only their lines count.
        unparsable: files that are not Python of this version; only their lines count.
        longest: the longest function; ``None`` if there is none.
    """

    files: int = 0
    lines: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    blank_lines: int = 0
    functions: int = 0
    classes: int = 0
    unreadable: int = 0
    unparsable: int = 0
    longest: Longest | None = None


def count_source(data: bytes, file: str) -> Count:
    """Count one file.

    Args:
        data: the content of the file.
        file: the name of the file, for the longest function.
    """
    lines = _count_lines(data)
    try:
        text = _decode(data)
    except (SyntaxError, UnicodeError, LookupError):
        return Count(files=1, lines=lines, unreadable=1)
    try:
        return _count_text(text, file, lines)
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError):
        return Count(files=1, lines=lines, unparsable=1)


def add_counts(counts: Iterable[Count]) -> Count:
    """The sum of several counts, which does not depend on their order."""
    counts = list(counts)
    return Count(
        files=sum(count.files for count in counts),
        lines=sum(count.lines for count in counts),
        code_lines=sum(count.code_lines for count in counts),
        comment_lines=sum(count.comment_lines for count in counts),
        blank_lines=sum(count.blank_lines for count in counts),
        functions=sum(count.functions for count in counts),
        classes=sum(count.classes for count in counts),
        unreadable=sum(count.unreadable for count in counts),
        unparsable=sum(count.unparsable for count in counts),
        longest=_longest(count.longest for count in counts if count.longest is not None),
    )


def _count_lines(data: bytes) -> int:
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def _decode(data: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return io.TextIOWrapper(io.BytesIO(data), encoding).read()


def _count_text(text: str, file: str, lines: int) -> Count:
    nodes = list(ast.walk(ast.parse(text, _SHOWN_AS + file)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    code, comments = _lines_of(text)
    return Count(
        files=1,
        lines=lines,
        code_lines=len(code),
        comment_lines=len(comments - code),
        blank_lines=lines - len(code | comments),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        longest=_longest(_measured(functions, file)),
    )


def _lines_of(text: str) -> tuple[set[int], set[int]]:
    """The numbers of the lines with code, and of the lines with comments."""
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in _LAYOUT:
            code.update(range(token.start[0], token.end[0] + 1))
    return code, comments


def _measured(functions: Iterable[ast.FunctionDef | ast.AsyncFunctionDef], file: str) -> Iterator[Longest]:
    for node in functions:
        yield Longest(node.name, file, (node.end_lineno or node.lineno) - node.lineno + 1)


def _longest(found: Iterable[Longest]) -> Longest | None:
    """The longest; of several with the same length, the first by file and name."""
    return min(found, key=lambda one: (-one.lines, one.file, one.name), default=None)
