"""One module has the product's name. Key prefix, variables, loggers and texts are derived from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepflow_engine import product
from tests.unit.test_keys import PACKAGES, literals

FILES = sorted(
    path for package in PACKAGES for kind in ("*.py", "*.lua") for path in Path(package.__path__[0]).rglob(kind)
)
_NAME = re.compile(r"stepflow(?!_\w)|STEPFLOW")
"""The name, but not a module: ``stepflow_broker``."""
_REASONS = {
    ("stepflow_engine/product.py", "stepflow"): "it is the module that has the name",
    ("stepflow_cli/main.py", "stepflow"): "the group of commands has the name of its console script",
}


def _file(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", FILES, ids=_file)
def test_the_name_is_not_spelled_in_other_modules(path: Path) -> None:
    named = {text for text in literals(path) if _NAME.search(text)}
    assert {text for text in named if (_file(path), text) not in _REASONS} == set()


def test_each_exception_is_needed() -> None:
    spelled = {(_file(path), text) for path in FILES for text in literals(path)}
    assert set(_REASONS) <= spelled


def test_the_variables_have_the_prefix() -> None:
    variables = {product.REDIS_URL, product.ENCRYPTION_KEYS, product.OUTPUT, product.DEBUG}
    assert all(name.startswith(f"{product.ENV_PREFIX}_") for name in variables)
