"""The page of features: each row has a state, and each capability a test that exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "features.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| capability")
]


def test_the_page_says_how_many_rows_it_has() -> None:
    assert f"in {len(ROWS)} rows" in PAGE
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_has_a_state_a_text_and_a_test_that_exists(row: list[str]) -> None:
    _, state, what, shown_by = row
    assert state in {"yes", "partly", "no"}
    assert what
    if state == "no":
        assert shown_by == "—"
        return
    named = re.fullmatch(r"`((?:\w+/)+\w+\.py)::(test_\w+)`", shown_by)
    assert named is not None, shown_by
    tree = ast.parse((ROOT / "tests" / named[1]).read_text())
    assert named[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
