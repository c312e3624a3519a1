"""Code, comments and docs use the words of the glossary, and none that it has replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.vocabulary import OLD_NAMES, OLD_PHRASES, OLD_WORDS, old_words_in

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "broker", "sdk", "workers", "cli", "docs", "examples", "deploy")
SUFFIXES = {".py", ".lua", ".md"}
PAGES = sorted(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md")  # it says what was renamed
FILES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES and path.is_file()
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
JUSTIFIED: dict[str, set[str]] = {
    "CONTRIBUTING.md": {"stands in line"},  # an example of what not to write
}
"""A file → the old words that it may use."""
NAMES = {"tests/support/coverage_gate.py"}
"""Files with such a name: a coverage gate is a term of its own."""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=_name)
def test_a_file_uses_no_word_that_the_glossary_has_replaced(path: Path) -> None:
    allowed = JUSTIFIED.get(_name(path), set())
    found = [
        f"{_name(path)}:{line}: {word}: write {new}"
        for line, word, new in old_words_in(path.read_text())
        if word.lower() not in allowed
    ]
    assert not found, "\n".join(found)


def test_the_name_of_no_file_has_such_a_word() -> None:
    found = [
        f"{path}: {word}: write {new}"
        for path in map(_name, [*FILES, *PAGES, *TESTS])
        if path not in NAMES
        for _, word, new in old_words_in(path.replace("-", " "))
    ]
    assert not found, "\n".join(found)


def test_every_justified_word_is_used() -> None:
    for name, words in JUSTIFIED.items():
        used = {word.lower() for _, word, _ in old_words_in((ROOT / name).read_text())}
        assert words <= used, name


def test_words_are_found_alone_and_as_parts_of_names() -> None:
    text = "the Deputy\nclass LeaseKeepers:\nis_told(fn)\nJobs stand in line.\nthe timekeeper's stations\ninvestigate"
    assert [(line, word) for line, word, _ in old_words_in(text)] == [
        (1, "Deputy"),
        (2, "Keepers"),
        (3, "is_told"),
        (3, "fn"),
        (4, "stand in line"),
        (5, "timekeeper"),
        (5, "stations"),
    ]


def test_what_to_write_is_itself_no_old_word() -> None:
    for new in (*OLD_WORDS.values(), *OLD_NAMES.values(), *OLD_PHRASES.values()):
        assert not list(old_words_in(new))
