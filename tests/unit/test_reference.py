"""The reference: its generated parts are what the code has, and each command has an example."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.support.pages import ROOT
from tests.support.reference import EXAMPLES, PAGES, PARTS, SHARED, commands, generated_page, limits


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_generated_parts_of_the_page_are_up_to_date(page: Path) -> None:
    """Run ``python -m tests.support.reference`` after a change of the code."""
    assert page.read_text() == generated_page(page)


def test_every_generated_part_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in PARTS if f"<!-- generated: {name} -->" not in text] == []


def test_every_command_has_an_example() -> None:
    assert {name for name, _, _ in commands()} == set(EXAMPLES)


def test_every_limit_is_a_number_that_the_code_has() -> None:
    assert all(value > 0 for value in limits().values())


def test_every_page_of_the_reference_has_an_example() -> None:
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        assert "```" in page.read_text(), page.name


def test_the_glossary_is_in_alphabetical_order_and_has_five_cells_a_term() -> None:
    rows = [line.split("|")[1:-1] for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if "|" in line]
    terms = [cells[0].strip() for cells in rows[2:]]
    assert terms == sorted(terms, key=str.lower)
    assert {len(cells) for cells in rows} == {5}


def test_the_variable_of_an_option_has_the_name_of_the_option() -> None:
    for name, prefix, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in SHARED:
                longest = max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
                assert (option.envvar or f"{prefix}_{str(option.name).upper()}") == f"{prefix}_{longest}", name
