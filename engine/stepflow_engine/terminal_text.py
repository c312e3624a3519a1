"""Text of users on a terminal or in a log: without control sequences, and an error in one line."""

from __future__ import annotations

import re

from stepflow_engine.failure import Failure
from stepflow_engine.product import NAME

__all__ = ["cut", "innermost_frame", "one_line_failure", "printable", "printable_lines", "traceback_text"]

_OWN_FILE = re.compile(rf"[/\\]({NAME}_(engine|broker|workers|cli)|(sdk|site-packages)[/\\]{NAME})[/\\]")
_LIBRARY_FILE = re.compile(r"[/\\](asyncio|concurrent[/\\]futures)[/\\]|[/\\]threading\.py$")
_FRAME = re.compile(r'  File "(.*)", line \d+')
_FRAME_LINE = re.compile(r'^  File "(.*)", line \d+, in (.+)$', re.MULTILINE)
_INSTALLED_FILE = re.compile(r"[/\\](site-packages|dist-packages|python3\.\d+)[/\\]")
_SLASH = re.compile(r"[/\\]")
_NOT_OF_USERS = (_OWN_FILE, _LIBRARY_FILE, _INSTALLED_FILE)
_HEADER = "Traceback (most recent call last):"
_CAUSED = "The error above caused this one:"


def printable(text: str) -> str:
    """Text in one line without control sequences: characters that are not printable are replaced."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


def printable_lines(text: str) -> str:
    """The lines of a text, each as `printable` returns it. A tab is four spaces."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))


def cut(text: str, length: int) -> str:
    """The text, cut to this number of characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def one_line_failure(failure: Failure, length: int = 200) -> str:
    """Name and message of a failure in one line, cut to this length."""
    text = f"{failure.name}: {failure.message}" if failure.message else failure.name
    return cut(printable(" ".join(text.split())), length)


def traceback_text(failure: Failure, *, whole: bool = False) -> str:
    """The tracebacks of a failure and its causes, the first cause first.

    Args:
        whole: whether to keep the frames of stepflow and of the event loop. A traceback of nothing else keeps them.
    """
    parts, at = list[str](), (failure if failure.traceback else None)
    while at is not None and at.traceback:
        parts.append(printable_lines((at.traceback if whole else _own_frames(at.traceback)).rstrip("\n")))
        at = at.cause
    return f"\n\n{_CAUSED}\n\n".join(reversed(parts))


def innermost_frame(text: str) -> str:
    """The innermost frame of a traceback that is of a user's own code, as ``file.py function``; ``""``: it has none.

    Without such a frame, it is the innermost of a library.
    """
    frames = _FRAME_LINE.findall(text)
    own = [frame for frame in frames if not any(kind.search(frame[0]) for kind in _NOT_OF_USERS)]
    file, function = (own or frames or [("", "")])[-1]
    return " ".join([*_SLASH.split(file)[-1:], function]).strip()


def _own_frames(text: str) -> str:
    """A traceback without the frames of libraries that surround the code of a user."""
    lines = text.split("\n")
    if lines[0] != _HEADER:  # of an exception group, or there is none
        return text
    end = next((at for at, line in enumerate(lines) if at and not line.startswith("  ")), len(lines))
    own, is_own = list[str](), False
    for line in lines[1:end]:
        if frame := _FRAME.match(line):
            is_own = not _OWN_FILE.search(frame[1]) and not _LIBRARY_FILE.search(frame[1])
        if is_own:
            own.append(line)
    return "\n".join([_HEADER, *own, *lines[end:]]) if own else text
