"""The size of the fault tests: short, or long with ``--long``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="fault tests in their long size: make chaos")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether to take time; a run of all tests does not know the option, and is short."""
    return bool(request.config.getoption("--long", default=False))
