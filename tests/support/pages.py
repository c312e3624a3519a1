"""The pages of the documentation: their blocks of code, links, anchors and tables.

A comment before a block of code says how it is tested::

    <!-- test: server -->

Without one, a block of Python is executed when its page is loaded, in the namespace of its page and without a server.
``server``: it is executed beside a worker, and each ``print(…)  # text`` must print that text. ``compile``: it is only
compiled. ``needs NAME``: it is executed where that library is installed, else it is only compiled. ``same PATH``: it is
the text of that file of the tree. ``file NAME``, ``run``, ``background`` and ``output``: the parts of a tutorial,
executed in a fresh folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "anchors", "blocks", "first_column", "links", "pages"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)\s*$")
_MARK = re.compile(r"^ *<!-- test: (?P<mark>.+) -->$")
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        line: where its first line is, 1-based.
        mark: how it is tested; ``""``: as its language says.
    """

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages: those of docs/, and those beside it."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in their order."""
    found, lines, number = list[Block](), page.read_text().splitlines(), 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence:
            marked = _MARK.match(lines[number - 1]) if number else None
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == "```")
            text = "\n".join(line.removeprefix(fence["indent"]) for line in lines[number + 1 : end]) + "\n"
            found.append(Block(page, number + 2, fence["language"], marked["mark"] if marked else "", text))
            number = end
        number += 1
    return found


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, but for other sites."""
    found = (target for line in _prose(page) for target in _LINK.findall(_CODE.sub("", line)))
    return [target for target in found if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for line in _prose(page):
        if line.startswith("#"):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip().lower())
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def first_column(page: Path) -> list[str]:
    """What stands in backticks in the first cells of a page's tables."""
    cells = (line.split("|")[1] for line in _prose(page) if line.startswith("|"))
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def _prose(page: Path) -> list[str]:
    """The lines of a page outside of its blocks of code."""
    found, inside = list[str](), False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            found.append(line)
    return found
